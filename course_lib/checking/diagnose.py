"""Reach a verdict on an answer, and find the misconceptions that explain it.

`assess` runs the reference and the misconceptions, never the answer, so the outcomes may come from
a jail.

A false name is worse than none, so a misconception has to earn its own (see `_name_cases`).
"""

import functools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from course_lib.checking.compare import Fault, agree, compare
from course_lib.checking.exercise import Exercise
from course_lib.checking.observe import STOPPED, Failure, Leaf, Outcome, preserved, run
from course_lib.checking.tolerance import close

MAX_KNOWN = 2000  # runs of references and misconceptions that are kept


@dataclass(frozen=True)
class Explanation:
    """What a student reads about one case at fault.

    case: its index.  misconception: the name of the one that explains it, if one does.
    expected, got: the first outputs that differ, where both are tensors.
    """

    case: int
    sentence: str
    misconception: str | None = None
    error: Failure | None = None
    expected: Tensor | None = None
    got: Tensor | None = None


@dataclass(frozen=True)
class Verdict:
    """What is wrong with an answer, and the misconceptions that explain it, if some do.

    status: "passed", "failed" or "not attempted".  faults: a Fault or None for each case.
    explanations: one, or two of different cases and mistakes; the first one's case is shown.
    constant: whether the answer is the same whatever its inputs, though others were expected.
    """

    status: str
    faults: tuple[Fault | None, ...]
    explanations: tuple[Explanation, ...] = ()
    constant: bool = False

    @property
    def passed(self) -> bool:
        return self.status == "passed"

    @property
    def fraction(self) -> float:
        """The part of the cases that is right, for partial credit; a constant earns none."""
        return 0.0 if self.constant else self.right / max(len(self.faults), 1)

    @property
    def right(self) -> int:
        """The number of cases that are right."""
        return sum(fault is None for fault in self.faults)

    @property
    def shown(self) -> int | None:
        """The index of the case that is shown; None if the answer did not fail."""
        return self.explanations[0].case if self.explanations else None

    @property
    def sentence(self) -> str:
        """What to tell the student about the case that is shown."""
        return self.explanations[0].sentence if self.explanations else ""

    @property
    def misconception(self) -> str | None:
        """The name of the misconception that explains the case that is shown."""
        return self.explanations[0].misconception if self.explanations else None

    @property
    def error(self) -> Failure | None:
        """The exception in the case that is shown."""
        return self.explanations[0].error if self.explanations else None

    @property
    def beside(self) -> str:
        """What to say about a second mistake, on another case; empty if there is none."""
        said = [f"Case {e.case + 1}: {e.sentence}" for e in self.explanations[1:]]
        if self.constant and self.right:
            said.append(
                "Your answer is the same for all inputs, so the right cases earn no points."
            )
        return " ".join(said)


def assess(exercise: Exercise, outcomes: Sequence[Outcome], seed: int = 0) -> Verdict:
    """Compare the outcomes of an answer, from `run`, with the reference's on the same seed.

    Missing outcomes at the end count as cases that did not finish; surplus ones are ignored.
    """
    with preserved():
        expected = list(known_outcomes(exercise, None, seed))
        unfinished = Outcome(error=Failure(STOPPED, "an earlier case did not finish."))
        missing = len(expected) - len(outcomes)
        outcomes = [*outcomes[: len(expected)], *[unfinished] * missing]
        pairs = zip(expected, outcomes, strict=True)
        faults = tuple(compare(e, o, exercise.tolerance) for e, o in pairs)
        if not any(faults):
            return Verdict("passed", faults)
        if all(str(outcome.error) == "NotImplementedError" for outcome in outcomes):
            return Verdict("not attempted", faults)
        suspects = {}
        for name in exercise.misconceptions:
            wrong = _try(name, exercise, expected, outcomes, faults, seed)
            if wrong:
                suspects[name] = wrong
    names = _name_cases([case for case, fault in enumerate(faults) if fault], suspects)
    explanations = _explain(exercise, expected, outcomes, faults, names)
    wrong_value = any(f and not o.raised for f, o in zip(faults, outcomes, strict=True))
    constant = wrong_value and _ignores_inputs(outcomes) and not _ignores_inputs(expected)
    return Verdict("failed", faults, explanations, constant)


def _ignores_inputs(outcomes: Sequence[Outcome]) -> bool:
    """Say whether every case has the same outputs, or one number throughout each of them."""
    returned = [outcome.outputs for outcome in outcomes if not outcome.raised]
    if len(returned) < 2 or any(outputs.keys() != returned[0].keys() for outputs in returned):
        return False
    return all(_is_one([outputs[path] for outputs in returned]) for path in returned[0])


def _is_one(leaves: Sequence[Leaf]) -> bool:
    """Say whether these are one number throughout, or one tensor or text."""
    tensors = [leaf.value for leaf in leaves if isinstance(leaf.value, Tensor)]
    if len(tensors) < len(leaves):
        return not tensors and all(leaf == leaves[0] for leaf in leaves)
    filled = [tensor for tensor in tensors if tensor.numel()]
    return all(
        bool((tensor == filled[0].flatten()[0]).all())
        or (tensor.dtype == filled[0].dtype and torch.equal(tensor, filled[0]))
        for tensor in filled
    )


def known_outcomes(exercise: Exercise, name: str | None, seed: int) -> Iterator[Outcome]:
    """Yield the outcomes of a misconception, or with None of the reference, as far as needed.

    They depend on the seed only and are kept: a class is marked on one seed, and a student tries
    again and again.
    """
    kept, rest = _memory(exercise, name, seed)
    index = 0
    while True:
        if index == len(kept):
            try:
                more = next(rest, None)
            except BaseException:  # Ctrl-C ends the run for good: begin anew next time
                _memory.cache_clear()
                raise
            if more is None:
                return
            kept.append(more)
        yield kept[index]
        index += 1


@functools.lru_cache(maxsize=MAX_KNOWN)
def _memory(
    exercise: Exercise, name: str | None, seed: int
) -> tuple[list[Outcome], Iterator[Outcome]]:
    """Return the outcomes so far, and the run that goes on to the others."""
    answer = exercise.misconceptions[name].answer if name else exercise.reference
    return [], run(answer, exercise, seed)


@functools.lru_cache(maxsize=MAX_KNOWN)
def _known_faults(exercise: Exercise, name: str, seed: int) -> dict[int, Fault | None]:
    """Return the faults of a misconception so far, by case; like its outcomes they are kept."""
    return {}


# --------------------------------------------------------------------------------------- diagnosis


def _try(
    name: str,
    exercise: Exercise,
    expected: Sequence[Outcome],
    outcomes: Sequence[Outcome],
    faults: Sequence[Fault | None],
    seed: int,
) -> dict[int, bool]:
    """Return the cases on which a misconception is wrong, and whether its outcome is the answer's.

    Elsewhere another fault of the answer may hide it.  It returns none if the answer is right there
    or wrong in the same aspect: then it is not the answer's mistake.
    """
    tolerance = exercise.tolerance
    wrong = {}
    tried = known_outcomes(exercise, name, seed)
    known_faults = _known_faults(exercise, name, seed)
    for case, (w, o, e) in enumerate(zip(tried, outcomes, expected, strict=True)):
        if case not in known_faults:
            known_faults[case] = compare(e, w, tolerance)
        if fault := known_faults[case]:
            theirs = faults[case]
            wrong[case] = theirs is not None and agree(w, o, tolerance)
            if not wrong[case] and not (theirs and theirs.hides(fault)):
                return {}
    return wrong


def _name_cases(at_fault: Sequence[int], suspects: dict[str, dict[int, bool]]) -> dict[int, str]:
    """Return the cases at fault that a misconception explains, each with its name.

    suspects: what `_try` returned for each.  A misconception is named if it gives the answer's
    outcome on most of the cases on which it is wrong; on the others something hides it.  A case at
    fault on which it is right needs another name: otherwise both have one cause, which is unknown.
    Of two that explain a case, the one that explains more cases is named, and neither if they
    explain as many.
    """
    explained = {name: sum(wrong.values()) for name, wrong in suspects.items()}
    suspects = {name: wrong for name, wrong in suspects.items() if 2 * explained[name] > len(wrong)}
    names: dict[int, str] = {}
    for case in at_fault:
        ranked = Counter({n: explained[n] for n, wrong in suspects.items() if wrong.get(case)})
        best = ranked.most_common(2)
        if len(best) == 1 or (len(best) == 2 and best[0][1] > best[1][1]):
            names[case] = best[0][0]
    unnamed = [case for case in at_fault if case not in names]
    doubtful = {n for n in names.values() if any(case not in suspects[n] for case in unnamed)}
    if not doubtful:
        return names
    return _name_cases(at_fault, {n: wrong for n, wrong in suspects.items() if n not in doubtful})


def _explain(
    exercise: Exercise,
    expected: Sequence[Outcome],
    outcomes: Sequence[Outcome],
    faults: Sequence[Fault | None],
    names: dict[int, str],
) -> tuple[Explanation, ...]:
    """Explain the first case that has a name, or the first; then one that has another cause."""
    first_of: dict[str | None, int] = {}
    for case, fault in enumerate(faults):
        if fault:
            first_of.setdefault(names.get(case), case)
    named = [name for name in first_of if name]
    explanations = []
    for name in [*named, None][:2]:
        if name in first_of:
            case = first_of[name]
            said = exercise.misconceptions[name] if name else faults[case]
            e, g = _first_difference(expected[case], outcomes[case], exercise.tolerance)
            error = outcomes[case].error
            explanations.append(Explanation(case, said.sentence, name, error, e, g))
    return tuple(explanations)


def _first_difference(
    expected: Outcome, got: Outcome, tolerance: float
) -> tuple[Tensor | None, Tensor | None]:
    for path, leaf in expected.outputs.items():
        e, g = leaf.value, got.outputs[path].value if path in got.outputs else None
        if isinstance(e, Tensor) and isinstance(g, Tensor) and not close(e, g, tolerance):
            return e, g
    return None, None
