"""Judge what an answer showed: compare its outcomes with the reference's, and find the
misconception.

`judge` runs the reference and the misconceptions, never the answer, so the outcomes may come from a
jail.
"""

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from course_lib.exercises.base import Case, Exercise
from course_lib.exercises.running import STOPPED, Failure, Leaf, Outcome, preserved, run

# a float32 tensor whose largest entry is below ZERO is rounding noise around 0
ZERO, ZERO_SLACK = 1e-6, 2e-6


@dataclass(frozen=True)
class Fault:
    """What is wrong with one case.  `kind` is the aspect that differs, in the order they are looked
    at.
    """

    kind: str  # "error", "stopped", "structure", "shape", "dtype", "values", "inputs", "gradients"
    sentence: str


@dataclass(frozen=True)
class Verdict:
    """The judgement: a Fault or None for each case, and the misconception that explains them, if
    one does.
    """

    status: str  # "passed", "failed", "not attempted"
    faults: tuple[Fault | None, ...]
    misconception: str | None = None
    sentence: str = ""
    error: Failure | None = None
    first: int | None = None  # index of the first case at fault

    @property
    def passed(self) -> bool:
        return self.status == "passed"

    @property
    def fraction(self) -> float:
        """The part of the cases that is right, for partial credit."""
        return sum(fault is None for fault in self.faults) / max(len(self.faults), 1)


def judge(exercise: Exercise, outcomes: Sequence[Outcome], seed: int = 0) -> Verdict:
    """Compare outcomes of `run` with the reference's; name the misconception that gives the same
    wrong output.

    Missing outcomes at the end count as cases that did not finish.
    """
    with preserved():
        expected = list(run(exercise.reference, exercise, seed))
        missing = len(expected) - len(outcomes)
        never = Outcome(error=Failure(STOPPED, "an earlier case did not finish."))
        outcomes = [*outcomes[: len(expected)], *[never] * missing]
        faults = tuple(
            compare(e, o, exercise.tolerance) for e, o in zip(expected, outcomes, strict=True)
        )
        if not any(faults):
            return Verdict("passed", faults)
        errors = [outcome.error for outcome in outcomes if outcome.error]
        if len(errors) == len(outcomes) and all(
            str(error) == "NotImplementedError" for error in errors
        ):
            return Verdict("not attempted", faults)
        name = _diagnose(exercise, expected, outcomes, seed)
    first = next(i for i, fault in enumerate(faults) if fault)
    sentence = exercise.misconceptions[name].sentence if name else faults[first].sentence
    return Verdict("failed", faults, name, sentence, outcomes[first].error, first)


def _diagnose(
    exercise: Exercise, expected: list[Outcome], outcomes: list[Outcome], seed: int
) -> str | None:
    """The misconception that agrees with the answer wherever it differs from the reference.

    Among several, the one that explains the most cases.  It may raise where the answer raises the
    same.
    """
    best, most = None, 0
    for name, misconception in exercise.misconceptions.items():
        wrong = list(run(misconception.answer, exercise, seed))
        triples = zip(wrong, outcomes, expected, strict=True)
        differs = [(w, o, f) for w, o, e in triples if (f := compare(e, w, exercise.tolerance))]
        explained = all(_agree(w, o, f.kind, exercise.tolerance) for w, o, f in differs)
        whole = all(
            compare(w, o, exercise.tolerance) is None for w, o in zip(wrong, outcomes, strict=True)
        )
        score = len(differs) + len(wrong) * whole
        if differs and explained and score > most:
            best, most = name, score
    return best


def _agree(wrong: Outcome, got: Outcome, kind: str, tolerance: float) -> bool:
    """Whether two outcomes show the same fault of this kind; a dtype on top of it does not matter."""
    if kind == "error" and wrong.error:
        return str(wrong.error) == str(got.error)
    fault = compare(wrong, got, tolerance)
    if fault is None:
        return True
    if kind in ("inputs", "gradients"):
        return kind == "inputs" and fault.kind == "gradients"
    if fault.kind == "dtype" and kind != "dtype":
        pairs = [(leaf.value, got.outputs[path].value) for path, leaf in wrong.outputs.items()]
        return all(close(w, g, tolerance) for w, g in pairs if isinstance(w, Tensor))
    return fault.kind in ("inputs", "gradients")


def compare(expected: Outcome, got: Outcome, tolerance: float = 1e-4) -> Fault | None:
    """The first aspect in which `got` differs: error, structure, kind, shape, dtype, values,
    inputs, gradients.
    """
    if expected.fell or got.fell:
        return _compare_errors(expected.error if expected.fell else None, got.error)
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
            f"Your code returned None; expected {_structure(expected)}. Is a `return` missing?",
        )
    return Fault("structure", f"Expected {_structure(expected)}, got {_structure(got)}.")


def _structure(leaves: dict[str, Leaf]) -> str:
    """A phrase for the outermost container: "a tuple of 2", "an object with the fields mean,
    variance".
    """
    heads = list(
        dict.fromkeys(re.match(r"\[(?:'[^']*'|[^\]]*)\]|\.\w+|", path).group() for path in leaves)
    )
    if heads == [""]:
        return _kind(leaves[""])
    if heads[0].startswith("."):
        return f"an object with the fields {', '.join(head[1:] for head in heads)}"
    if re.fullmatch(r"\[\d+\]", heads[0]):
        return f"a tuple of {len(heads)}"
    return f"a dict with the keys {', '.join(head[1:-1] for head in heads)}"


def _kind(leaf: Leaf) -> str:
    if leaf.kind == "None":
        return "None"
    words = {
        "float": "a Python float",
        "int": "a Python int",
        "bool": "a Python bool",
        "array": "a NumPy array",
    }
    return words.get(leaf.kind, f"a {leaf.kind}")


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
                "structure", f"{_capital(where)} is on {got.device}; expected {expected.device}."
            )
        return None
    if got.kind == "None":
        return Fault(
            "structure",
            f"{_capital(where)} is None; {_kind(expected)} was expected. Is a `return` missing?",
        )
    return Fault("structure", f"{_capital(where)} is {_kind(got)}; {_kind(expected)} was expected.")


def _look_at_shape(expected: Leaf, got: Leaf, where: str, tolerance: float) -> Fault | None:
    e, g = expected.value, got.value
    if not isinstance(e, Tensor) or not isinstance(g, Tensor) or e.shape == g.shape:
        return None
    said = f"The shape of {where} is {tuple(g.shape)}; expected {tuple(e.shape)}."
    return Fault("shape", f"{said} {_moved_axes(e, g, tolerance)}".strip())


def _moved_axes(e: Tensor, g: Tensor, tolerance: float) -> str:
    """A hint when the numbers are right and only the axes are not."""
    if g.numel() != e.numel():
        return ""
    if g.squeeze().shape == e.squeeze().shape and close(e.squeeze(), g.squeeze(), tolerance):
        return "The numbers are right; only axes of length 1 differ."
    if order := _permutation(e, g, tolerance):
        return (
            f"The numbers are right, with the axes in another order: yours are {order} of the"
            " expected ones."
        )
    if close(e.flatten(), g.flatten(), tolerance):
        return "The numbers are right and in the right order; only the shape differs."
    return ""


def _permutation(e: Tensor, g: Tensor, tolerance: float) -> tuple[int, ...] | None:
    if not 2 <= e.ndim <= 5 or g.ndim != e.ndim:
        return None
    for order in itertools.permutations(range(e.ndim)):
        if order != tuple(range(e.ndim)):
            moved = e.permute(order)
            if moved.shape == g.shape and close(moved, g, tolerance):
                return order
    return None


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
        "dtype", f"{right} dtype of {where} is {_name(g.dtype)}; expected {_name(e.dtype)}."
    )


def _look_at_values(expected: Leaf, got: Leaf, where: str, tolerance: float) -> Fault | None:
    e, g = expected.value, got.value
    if isinstance(e, Tensor) and isinstance(g, Tensor):
        return (
            None
            if close(e, g, tolerance)
            else Fault("values", _describe_difference(e, g, where, tolerance))
        )
    if isinstance(e, str) and isinstance(g, str):
        return None if e == g else Fault("values", f"Expected {e[:80]!r}, got {g[:80]!r}.")
    if expected.kind == "None" or expected.kind.startswith("empty"):
        return None
    return Fault("structure", f"{_capital(where)} is {_kind(expected)}, which cannot be compared.")


def close(e: Tensor, g: Tensor, tolerance: float) -> bool:
    """Equal up to rounding: NaN and infinities at the same places, integers exactly, shapes equal."""
    if e.shape != g.shape:
        return False
    return bool((_excess(e, g, tolerance) <= 0).all())


def _excess(e: Tensor, g: Tensor, tolerance: float) -> Tensor:
    """By how much each difference exceeds its allowance; infinite where only one of the two is
    finite.
    """
    exact = not (e.is_floating_point() or e.is_complex())
    if exact and not (g.is_floating_point() or g.is_complex()):
        return (e != g).double()
    resolution = 8 * max(
        torch.finfo(x.dtype).eps for x in (e, g) if x.is_floating_point() or x.is_complex()
    )
    relative = 0.0 if exact else max(tolerance, resolution)
    wide = torch.complex128 if e.is_complex() or g.is_complex() else torch.float64
    e, g = e.to(wide), g.to(wide)
    finite = e.isfinite() & g.isfinite()
    same = (e.isnan() & g.isnan()) | (e == g)
    scale = float(e[finite].abs().max()) if finite.any() else 0.0
    slack = relative / 10 * scale if scale > ZERO or exact else ZERO_SLACK
    excess = (g - e).abs() - relative * e.abs() - slack
    return torch.where(same, 0.0, torch.where(finite, excess, torch.inf)).double()


def _describe_difference(e: Tensor, g: Tensor, where: str, tolerance: float) -> str:
    excess = _excess(e, g, tolerance)
    if hint := _simple_relation(e, g, tolerance):
        return f"{_capital(where)} {hint}"
    place = np.unravel_index(int(excess.flatten().argmax()), e.shape)
    at = f" at [{', '.join(str(int(i)) for i in place)}]" if e.ndim else ""
    wrong = int((excess > 0).sum())
    many = f" {wrong:,} of {e.numel():,} values differ." if e.numel() > 1 else ""
    if g.isnan().any() and not e.isnan().any():
        at = (
            f", first at [{', '.join(str(int(i)) for i in g.isnan().nonzero()[0])}]"
            if e.ndim
            else ""
        )
        return f"{_capital(where)} has {int(g.isnan().sum()):,} NaN{at}; none was expected."
    largest = "The largest difference is" if e.numel() > 1 else "It differs"
    number = f"{largest}{at}: expected {_number(e[place])}, got {_number(g[place])}."
    return f"The shape and dtype of {where} are right, the values are not. {number}{many}"


def _simple_relation(e: Tensor, g: Tensor, tolerance: float) -> str:
    """A sign, a constant factor, a constant offset or transposed axes, if one of them explains
    everything.
    """
    if not (e.is_floating_point() and g.isfinite().all() and e.isfinite().all() and e.numel() > 1):
        return ""
    e, g = e.double(), g.double()
    square = float((e * e).sum())
    factor = float((e * g).sum()) / square if square else 0.0
    if factor and close(factor * e, g, tolerance):
        return (
            "has the wrong sign."
            if abs(factor + 1) < tolerance
            else f"is {factor:.4g} times what is expected."
        )
    offset = float((g - e).mean())
    if offset and close(e + offset, g, tolerance):
        return f"is {abs(offset):.4g} too {'large' if offset > 0 else 'small'} everywhere."
    order = _permutation(e, g, tolerance)
    return (
        f"has the right numbers with the axes in another order: {order} of the expected ones."
        if order
        else ""
    )


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
                f"Your code changed its input `{_argument(path)}` in place; work on a new tensor.",
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


def _argument(path: str) -> str:
    return path[2:-2] if re.fullmatch(r"\['\w+'\]", path) else path


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
    hint = _simple_relation(e, g, tolerance) if e.shape == g.shape else ""
    return (
        f"the gradient with respect to `{name}`"
        f" {hint or 'is not: part of it is missing, or too much flows.'}"
    )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _number(value: Tensor) -> str:
    return f"{value.item():.6g}" if value.is_floating_point() else str(value.item())


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def describe(case: Case) -> str:
    """One line on a case's arguments: "x_start (2, 3, 5, 7) float32, t [4, 0]"."""
    return ", ".join(f"{name} {_short(value)}" for name, value in case.items())


def _short(value: Any) -> str:
    if isinstance(value, Tensor):
        if value.ndim < 2 and value.numel() <= 6 and not value.is_floating_point():
            return str(value.tolist())
        return f"{tuple(value.shape)} {_name(value.dtype)}"
    return (
        repr(value)[:60]
        if isinstance(value, (bool, int, float, str, type(None)))
        else type(value).__name__
    )
