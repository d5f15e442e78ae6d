"""Reach a verdict on an answer, and find the misconception that explains it.

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
    """What is wrong with an answer, and the misconception that explains it, if one does.

    status: "passed", "failed" or "not attempted".  faults: a Fault or None for each case.
    first: index of the first case at fault; `sentence` and `error` are about this one.
    """

    status: str
    faults: tuple[Fault | None, ...]
    misconception: str | None = None
    sentence: str = ""
    error: Failure | None = None
    first: int | None = None

    @property
    def passed(self) -> bool:
        return self.status == "passed"

    @property
    def fraction(self) -> float:
        """The part of the cases that is right, for partial credit."""
        return sum(fault is None for fault in self.faults) / max(len(self.faults), 1)


def assess(exercise: Exercise, outcomes: Sequence[Outcome], seed: int = 0) -> Verdict:
    """Compare the outcomes of an answer, from `run`, with the reference's on the same seed.

    Missing outcomes at the end count as cases that did not finish; surplus ones are ignored.
    """
    with preserved():
        expected = list(run(exercise.reference, exercise, seed))
        unfinished = Outcome(error=Failure(STOPPED, "an earlier case did not finish."))
        missing = len(expected) - len(outcomes)
        outcomes = [*outcomes[: len(expected)], *[unfinished] * missing]
        pairs = zip(expected, outcomes, strict=True)
        faults = tuple(compare(e, o, exercise.tolerance) for e, o in pairs)
        if not any(faults):
            return Verdict("passed", faults)
        if all(str(outcome.error) == "NotImplementedError" for outcome in outcomes):
            return Verdict("not attempted", faults)
        name = _diagnose(exercise, expected, outcomes, seed)
    first = next(i for i, fault in enumerate(faults) if fault)
    sentence = exercise.misconceptions[name].sentence if name else faults[first].sentence
    return Verdict("failed", faults, name, sentence, outcomes[first].error, first)


def _diagnose(
    exercise: Exercise, expected: list[Outcome], outcomes: list[Outcome], seed: int
) -> str | None:
    """Find the misconception that agrees with the answer wherever it differs from the reference.

    Among several, it is one that matches in every case, or else the one that explains the most.
    It may raise where the answer raises the same.
    """
    tolerance = exercise.tolerance
    best = None
    highest = 0
    for name, misconception in exercise.misconceptions.items():
        wrong = list(run(misconception.answer, exercise, seed))
        differing = 0
        explains = True
        matches = True
        for w, o, e in zip(wrong, outcomes, expected, strict=True):
            matches = matches and compare(w, o, tolerance) is None
            if fault := compare(e, w, tolerance):
                differing += 1
                explains = explains and _agree(w, o, fault.kind, tolerance)
        score = differing + len(wrong) * matches
        if differing and explains and score > highest:
            best = name
            highest = score
    return best


def _agree(wrong: Outcome, got: Outcome, kind: str, tolerance: float) -> bool:
    """Say whether two outcomes show the same fault of this kind; another dtype is let pass."""
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
