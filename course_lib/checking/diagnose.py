"""Reach a verdict on an answer: compare its outcomes with the reference's and find the
misconception that explains them.

`assess` runs the reference and the misconceptions, never the answer, so the outcomes may come from
a jail.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from course_lib.checking.compare import Fault, compare
from course_lib.checking.exercise import Exercise
from course_lib.checking.observe import STOPPED, Failure, Outcome, preserved, run
from course_lib.checking.tolerance import close


@dataclass(frozen=True)
class Verdict:
    """A Fault or None for each case, and the misconception that explains them, if
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


def assess(exercise: Exercise, outcomes: Sequence[Outcome], seed: int = 0) -> Verdict:
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
