"""Compare the outcome of an answer with the reference's, and say what differs."""

import re
from dataclasses import dataclass

from torch import Tensor

from course_lib.checking.observe import STOPPED, Failure, Leaf, Outcome
from course_lib.checking.tolerance import close
from course_lib.checking.wording import (
    argument,
    capital,
    container,
    difference,
    dtype_name,
    kind_of,
    moved_axes,
    simple_relation,
)

# Looked at in this order.
ASPECTS = ("stopped", "error", "structure", "shape", "dtype", "values", "inputs", "gradients")
STAY_IN_TORCH = "Stay in torch: gradients flow only through its own functions."
GRADIENT_TOLERANCE = 1e-3  # at least: a gradient sums more rounding than a value


@dataclass(frozen=True)
class Fault:
    """What is wrong with one case.

    kind: the aspect that differs, one of ASPECTS.
    """

    kind: str
    sentence: str

    def hides(self, other: "Fault") -> bool:
        """Say whether the other fault, of an aspect that is looked at later, may be there too."""
        return ASPECTS.index(self.kind) < ASPECTS.index(other.kind)


def compare(expected: Outcome, got: Outcome, tolerance: float = 1e-4) -> Fault | None:
    """Find the first aspect in which `got` differs; None if there is none."""
    if expected.raised or got.raised:
        return _compare_errors(expected.error if expected.raised else None, got.error)
    return (
        _compare_structure(expected.outputs, got.outputs)
        or _compare_outputs(expected.outputs, got.outputs, tolerance)
        or _compare_inputs(expected.inputs, got.inputs)
        or _compare_gradients(expected, got, tolerance)
    )


def agree(one: Outcome, other: Outcome, tolerance: float = 1e-4) -> bool:
    """Say whether two outcomes are equal in every aspect.

    Unlike `compare`, it asks for the same message and place of an error, for the same gradients
    where nothing else is right, and for the same change of an input that both change.
    """
    if one.raised or other.raised:
        return one.raised and other.raised and _is_same_error(one.error, other.error)
    return (
        _compare_structure(one.outputs, other.outputs) is None
        and _compare_outputs(one.outputs, other.outputs, tolerance) is None
        and one.inputs.keys() == other.inputs.keys()
        and all(_is_same(leaf, other.inputs[path], tolerance) for path, leaf in one.inputs.items())
        and _is_same_error(one.error, other.error)
        and _compare_gradients(one, other, tolerance) is None
    )


def _is_same(one: Leaf, other: Leaf, tolerance: float) -> bool:
    if isinstance(one.value, Tensor) and isinstance(other.value, Tensor):
        same_dtype = one.value.dtype == other.value.dtype
        return same_dtype and close(one.value, other.value, tolerance)
    return one == other


def _is_same_error(one: Failure | None, other: Failure | None) -> bool:
    return str(one) == str(other) and getattr(one, "place", "") == getattr(other, "place", "")


# ----------------------------------------------------------------------------- errors and structure


def _compare_errors(expected: Failure | None, got: Failure | None) -> Fault | None:
    if expected is None:
        if got.kind == STOPPED:
            return Fault("stopped", f"Your code was stopped: {got.message}")
        return Fault("error", _tell(got))
    wanted = f"These inputs are invalid: a {expected.kind} was expected,"
    if got is None:
        return Fault("error", f"{wanted} your code raised none.")
    if got.kind != expected.kind:
        return Fault("error", f"{wanted} got {got}")
    return None


def _tell(error: Failure) -> str:
    """Put an error in words; torch's own advice on NumPy would only lose the gradients."""
    if "numpy()" in error.message and "requires grad" in error.message:
        return f"`numpy` cuts them off. {STAY_IN_TORCH}"
    if error.shapes:
        return f"The shapes on this line do not fit together: {error.shapes}. ({error})"
    return str(error)


def _compare_structure(expected: dict[str, Leaf], got: dict[str, Leaf]) -> Fault | None:
    if expected.keys() == got.keys():
        return None
    if list(got) == [""] and got[""].kind == "None":
        return Fault(
            "structure",
            f"Your code returned None; expected {container(expected)}. Is a `return` missing?",
        )
    return Fault("structure", f"Expected {container(expected)}, got {container(got)}.")


# ------------------------------------------------------------------------------------------ outputs


def _compare_outputs(
    expected: dict[str, Leaf], got: dict[str, Leaf], tolerance: float
) -> Fault | None:
    """Compare one aspect of all leaves before the next: a wrong shape anywhere comes first."""
    for compare_leaf in (_compare_kind, _compare_shape, _compare_dtype, _compare_values):
        for path, leaf in expected.items():
            where = _name_part(path)
            if fault := compare_leaf(leaf, got[path], where, tolerance):
                return fault
    return None


def _name_part(path: str) -> str:
    """Name a leaf by its path: "your answer", "`weight`", "answer[0].mean"."""
    if not path:
        return "your answer"
    key = re.fullmatch(r"\['(\w+)'\]", path)
    return f"`{key[1]}`" if key else f"answer{path}"


def _compare_kind(expected: Leaf, got: Leaf, where: str, tolerance: float) -> Fault | None:
    where = capital(where)
    if got.kind == expected.kind or (expected.kind == "float" and got.kind == "int"):
        if got.device == expected.device:
            return None
        return Fault("structure", f"{where} is on {got.device}; expected {expected.device}.")
    sentence = f"{where} is {kind_of(got)}; {kind_of(expected)} was expected."
    if got.kind == "None":
        sentence += " Is a `return` missing?"
    if got.kind == "array" and expected.kind == "tensor":
        sentence += f" {STAY_IN_TORCH}"
    return Fault("structure", sentence)


def _compare_shape(expected: Leaf, got: Leaf, where: str, tolerance: float) -> Fault | None:
    e = expected.value
    g = got.value
    if not isinstance(e, Tensor) or not isinstance(g, Tensor) or e.shape == g.shape:
        return None
    sentence = f"The shape of {where} is {tuple(g.shape)}; expected {tuple(e.shape)}."
    return Fault("shape", f"{sentence} {moved_axes(e, g, tolerance)}".strip())


def _compare_dtype(expected: Leaf, got: Leaf, where: str, tolerance: float) -> Fault | None:
    e = expected.value
    g = got.value
    if not isinstance(e, Tensor) or not isinstance(g, Tensor):
        return None
    if e.dtype == g.dtype or expected.kind == "float":
        return None
    start = "The values are right, but the" if close(e, g, tolerance) else "The"
    return Fault(
        "dtype",
        f"{start} dtype of {where} is {dtype_name(g.dtype)}; expected {dtype_name(e.dtype)}.",
    )


def _compare_values(expected: Leaf, got: Leaf, where: str, tolerance: float) -> Fault | None:
    e = expected.value
    g = got.value
    if isinstance(e, Tensor) and isinstance(g, Tensor):
        if close(e, g, tolerance):
            return None
        return Fault("values", difference(e, g, where, tolerance))
    if isinstance(e, str) and isinstance(g, str):
        return None if e == g else Fault("values", f"Expected {e[:80]!r}, got {g[:80]!r}.")
    if expected.kind == "None" or expected.kind.startswith("empty"):
        return None
    return Fault("structure", f"{capital(where)} is {kind_of(expected)}, which cannot be compared.")


# ----------------------------------------------------------------------------- inputs and gradients


def _compare_inputs(expected: dict[str, Leaf], got: dict[str, Leaf]) -> Fault | None:
    for path in [*expected, *sorted(got.keys() - expected.keys())]:
        if not _is_unchanged(expected.get(path), got.get(path)):
            return Fault(
                "inputs",
                f"Your code changed its input `{argument(path)}` in place; work on a new tensor.",
            )
    return None


def _is_unchanged(expected: Leaf | None, got: Leaf | None) -> bool:
    if expected is None or got is None or not isinstance(expected.value, Tensor):
        return expected == got
    e = expected.value
    g = got.value
    if not isinstance(g, Tensor) or e.dtype != g.dtype or e.shape != g.shape:
        return False
    return bool(((e == g) | (e.isnan() & g.isnan())).all())


def _compare_gradients(expected: Outcome, got: Outcome, tolerance: float) -> Fault | None:
    if got.error:
        if str(got.error) == str(expected.error):
            return None
        failed = "The values are right, but taking gradients through your code fails."
        return Fault("gradients", f"{failed} {_tell(got.error)}")
    for name, e in expected.gradients.items():
        g = got.gradients.get(name)
        if problem := _gradient_problem(name, e, g, max(tolerance, GRADIENT_TOLERANCE)):
            return Fault("gradients", f"The values are right, but {problem}")
    return None


def _gradient_problem(name: str, e: Tensor | None, g: Tensor | None, tolerance: float) -> str:
    flows_e = e is not None and bool(e.any())
    flows_g = g is not None and bool(g.any())
    if not flows_e and not flows_g:
        return ""
    if e is not None and g is not None and e.dtype == g.dtype and close(e, g, tolerance):
        return ""
    if not flows_g:
        return (
            f"gradients do not flow back to `{name}`: look for no_grad, detach, item, numpy, "
            "or a new tensor made from numbers."
        )
    if not flows_e:
        return f"a gradient flows back to `{name}` where it must be stopped (detach)."
    hint = simple_relation(e, g, tolerance) if e.shape == g.shape else ""
    return (
        f"the gradient with respect to `{name}`"
        f" {hint or 'is not: part of it is missing, or too much flows.'}"
    )
