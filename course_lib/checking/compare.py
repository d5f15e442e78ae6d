"""Compare the outcome of an answer with the reference's, and say what differs."""

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


@dataclass(frozen=True)
class Fault:
    """What is wrong with one case.  `kind` is the aspect that differs, in the order they are looked
    at.
    """

    kind: str  # "error", "stopped", "structure", "shape", "dtype", "values", "inputs", "gradients"
    sentence: str


def compare(expected: Outcome, got: Outcome, tolerance: float = 1e-4) -> Fault | None:
    """The first aspect in which `got` differs: error, structure, kind, shape, dtype, values,
    inputs, gradients.
    """
    if expected.raised or got.raised:
        return _compare_errors(expected.error if expected.raised else None, got.error)
    return (
        _compare_structure(expected.outputs, got.outputs)
        or _compare_outputs(expected.outputs, got.outputs, tolerance)
        or _compare_inputs(expected.inputs, got.inputs)
        or _compare_gradients(expected, got, tolerance)
    )


def _compare_errors(expected: Failure | None, got: Failure | None) -> Fault | None:
    if expected is None:
        stopped = got.kind == STOPPED
        return (
            Fault("stopped", f"Your code was stopped: {got.message}")
            if stopped
            else Fault("error", str(got))
        )
    if got is None:
        return Fault(
            "error",
            f"These inputs are invalid: a {expected.kind} was expected, your code raised none.",
        )
    if expected.kind != got.kind:
        return Fault(
            "error", f"These inputs are invalid: a {expected.kind} was expected, got {got}"
        )
    return None


def _compare_structure(expected: dict[str, Leaf], got: dict[str, Leaf]) -> Fault | None:
    if expected.keys() == got.keys():
        return None
    if list(got) == [""] and got[""].kind == "None":
        return Fault(
            "structure",
            f"Your code returned None; expected {container(expected)}. Is a `return` missing?",
        )
    return Fault("structure", f"Expected {container(expected)}, got {container(got)}.")


def _compare_outputs(
    expected: dict[str, Leaf], got: dict[str, Leaf], tolerance: float
) -> Fault | None:
    for look in (_look_at_kind, _look_at_shape, _look_at_dtype, _look_at_values):
        for path, leaf in expected.items():
            where = f"answer{path}" if path else "your answer"
            if fault := look(leaf, got[path], where, tolerance):
                return fault
    return None


def _look_at_kind(expected: Leaf, got: Leaf, where: str, tolerance: float) -> Fault | None:
    if got.kind == expected.kind or (expected.kind == "float" and got.kind == "int"):
        if got.device != expected.device:
            return Fault(
                "structure", f"{capital(where)} is on {got.device}; expected {expected.device}."
            )
        return None
    if got.kind == "None":
        return Fault(
            "structure",
            f"{capital(where)} is None; {kind_of(expected)} was expected. Is a `return` missing?",
        )
    return Fault(
        "structure", f"{capital(where)} is {kind_of(got)}; {kind_of(expected)} was expected."
    )


def _look_at_shape(expected: Leaf, got: Leaf, where: str, tolerance: float) -> Fault | None:
    e, g = expected.value, got.value
    if not isinstance(e, Tensor) or not isinstance(g, Tensor) or e.shape == g.shape:
        return None
    said = f"The shape of {where} is {tuple(g.shape)}; expected {tuple(e.shape)}."
    return Fault("shape", f"{said} {moved_axes(e, g, tolerance)}".strip())


def _look_at_dtype(expected: Leaf, got: Leaf, where: str, tolerance: float) -> Fault | None:
    e, g = expected.value, got.value
    if (
        not isinstance(e, Tensor)
        or not isinstance(g, Tensor)
        or e.dtype == g.dtype
        or expected.kind == "float"
    ):
        return None
    right = "The values are right, but the" if close(e, g, tolerance) else "The"
    return Fault(
        "dtype",
        f"{right} dtype of {where} is {dtype_name(g.dtype)}; expected {dtype_name(e.dtype)}.",
    )


def _look_at_values(expected: Leaf, got: Leaf, where: str, tolerance: float) -> Fault | None:
    e, g = expected.value, got.value
    if isinstance(e, Tensor) and isinstance(g, Tensor):
        return (
            None if close(e, g, tolerance) else Fault("values", difference(e, g, where, tolerance))
        )
    if isinstance(e, str) and isinstance(g, str):
        return None if e == g else Fault("values", f"Expected {e[:80]!r}, got {g[:80]!r}.")
    if expected.kind == "None" or expected.kind.startswith("empty"):
        return None
    return Fault("structure", f"{capital(where)} is {kind_of(expected)}, which cannot be compared.")


def _compare_inputs(expected: dict[str, Leaf], got: dict[str, Leaf]) -> Fault | None:
    for path in [*expected, *sorted(got.keys() - expected.keys())]:
        e, g = expected.get(path), got.get(path)
        same = (
            e == g
            if e is None or g is None or not isinstance(e.value, Tensor)
            else _same_tensor(e, g)
        )
        if not same:
            return Fault(
                "inputs",
                f"Your code changed its input `{argument(path)}` in place; work on a new tensor.",
            )
    return None


def _same_tensor(e: Leaf, g: Leaf) -> bool:
    if (
        not isinstance(g.value, Tensor)
        or e.value.dtype != g.value.dtype
        or e.value.shape != g.value.shape
    ):
        return False
    return bool(((e.value == g.value) | (e.value.isnan() & g.value.isnan())).all())


def _compare_gradients(expected: Outcome, got: Outcome, tolerance: float) -> Fault | None:
    if got.error:
        if str(got.error) == str(expected.error):
            return None
        return Fault(
            "gradients",
            f"The values are right, but taking gradients through your code fails. {got.error}",
        )
    for name, e in expected.gradients.items():
        g = got.gradients.get(name)
        if problem := _gradient_problem(name, e, g, max(tolerance, 1e-3)):
            return Fault("gradients", f"The values are right, but {problem}")
    return None


def _gradient_problem(name: str, e: Tensor | None, g: Tensor | None, tolerance: float) -> str:
    silent_e, silent_g = (x is None or not bool(x.any()) for x in (e, g))
    if (silent_e and silent_g) or (
        e is not None and g is not None and e.dtype == g.dtype and close(e, g, tolerance)
    ):
        return ""
    if silent_g:
        return (
            f"gradients do not flow back to `{name}`: look for no_grad, detach, item, numpy, "
            "or a new tensor made from numbers."
        )
    if silent_e:
        return f"a gradient flows back to `{name}` where it must be stopped (detach)."
    hint = simple_relation(e, g, tolerance) if e.shape == g.shape else ""
    return (
        f"the gradient with respect to `{name}`"
        f" {hint or 'is not: part of it is missing, or too much flows.'}"
    )
