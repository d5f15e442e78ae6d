"""Wrong answers made by machine, and what becomes of them: `python -m tests.mutants.machine vit`.

A mutant is the reference of an exercise, or a function of course_lib that it calls, with one slip
in its text (see syntax.py).  It is refused, or it survives: then either a case is missing, or it is
as good as the reference, and tests/mutants/equal.yaml says why.  Where its verdict names a
misconception, the two must be the same answer on every case of every seed; else the name is false.
"""

import argparse
import ast
import functools
import hashlib
import inspect
import signal
import sys
import textwrap
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from types import FrameType, ModuleType
from unittest import mock

import jaxtyping
import yaml

from course_lib.checking import Exercise, diagnose, edit, exercises, find_exercise, topics
from course_lib.checking import compare as compare_module
from course_lib.checking.compare import compare
from course_lib.checking.diagnose import Verdict
from course_lib.checking.edits import Edit
from course_lib.checking.observe import Outcome, TimeLimit, preserved, run
from tests.mutants.syntax import slips

EQUAL = Path(__file__).with_name("equal.yaml")
SEEDS = (0, 1)  # on which a mutant is tried
COMPARED_SEEDS = range(5)  # on which it is compared with the misconception that is named for it
LIMIT_SECONDS = 3.0  # of processor time for one mutant on one seed


# ---------------------------------------------------------------------------------------- the wrong


@dataclass(frozen=True)
class Mutant:
    """One wrong answer; its name is stable as long as the text it was made from is."""

    name: str
    edit: Edit
    reference: Callable

    @functools.cached_property
    def answer(self) -> Callable:
        with warnings.catch_warnings(action="ignore", category=SyntaxWarning):
            return self.edit.answer(self.reference)

    @property
    def diff(self) -> str:
        return self.edit.diff(self.reference)

    @functools.cached_property
    def defines(self) -> bool:
        """Whether its cell would run at all: a slip in a default may raise."""
        try:
            return callable(self.answer)
        except Exception:
            return False


def mutants(exercise: Exercise) -> tuple[Mutant, ...]:
    """Return all mutants of an exercise, in the order of the text."""
    return _mutants(exercise.reference)


@functools.cache
def _mutants(reference: Callable) -> tuple[Mutant, ...]:
    found = [
        Mutant(slip.name, edit(_source(reference), slip.text), reference)
        for slip in slips(_source(reference))
    ]
    for function in _called(reference):
        found += [
            Mutant(
                f"{function.__name__}, {slip.name}",
                edit(_source(function), slip.text, of=function),
                reference,
            )
            for slip in slips(_source(function), as_reference=False)
        ]
    return tuple(found)


def _called(reference: Callable) -> list[Callable]:
    """Return what the reference names of course_lib: functions and classes, but no mere checks."""
    names = vars(sys.modules[reference.__module__])
    found: list[Callable] = []
    for node in ast.walk(ast.parse(_source(reference))):
        value = None
        if isinstance(node, ast.Name):
            value = names.get(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            module = names.get(node.value.id)
            value = getattr(module, node.attr, None) if isinstance(module, ModuleType) else None
        if _is_mutable(value) and value is not reference and value not in found:
            found.append(value)
    return found


def _is_mutable(value: object) -> bool:
    if not (inspect.isfunction(value) or inspect.isclass(value)) or is_dataclass(value):
        return False
    if not value.__module__.startswith("course_lib."):
        return False
    return not (inspect.isfunction(value) and value.__annotations__.get("return", "") is None)


def _source(function: Callable) -> str:
    return textwrap.dedent(inspect.getsource(function))


def sample(exercise: Exercise, share: float) -> list[Mutant]:
    """Choose a fixed share of the mutants, the same in every run, by their names."""
    everything = mutants(exercise)
    chosen = sorted(everything, key=lambda m: hashlib.sha256(m.name.encode()).hexdigest())
    return chosen[: max(1, round(share * len(everything)))]


# ------------------------------------------------------------------------------------- what happens


@dataclass
class Report:
    """What became of some mutants of an exercise.

    survivors: of these, `equal` are on the list.  named: mutant -> misconceptions.  false: mutant
    -> what differs from the misconception that was named.
    """

    exercise: Exercise
    tried: list[Mutant] = field(default_factory=list)
    survivors: list[Mutant] = field(default_factory=list)
    named: dict[str, set[str]] = field(default_factory=dict)
    false: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def unexplained(self) -> list[Mutant]:
        entries = equal_list().get(self.exercise.id, {})
        return [mutant for mutant in self.survivors if not entry_for(mutant.name, entries)]


class Trial:
    """One exercise on trial."""

    def __init__(self, exercise: Exercise) -> None:
        self.exercise = exercise

    def verdict(self, answer: Callable, seed: int, changed: Exercise | None = None) -> Verdict:
        """Judge an answer, if need be one whose results another probe has changed.

        The verdict has no words of its own on a difference, which would take most of the time.
        """
        outcomes = self.outcomes(answer, seed, changed)
        with untyped(), preserved(), wordless():
            return diagnose.assess(self.exercise, outcomes, seed)

    def outcomes(
        self, answer: Callable, seed: int, changed: Exercise | None = None
    ) -> list[Outcome]:
        """Run an answer; where it is stopped, the list is shorter than the cases."""
        found: list[Outcome] = []
        try:
            with untyped(), preserved(), limited():
                for outcome in run(answer, changed or self.exercise, seed):
                    found.append(outcome)
        except TimeLimit:
            pass
        return found

    def known(self, name: str | None, seed: int) -> list[Outcome]:
        """Return the outcomes of a misconception, or with None of the reference."""
        with untyped(), preserved():
            return list(diagnose.known_outcomes(self.exercise, name, seed))

    def report(self, chosen: Iterable[Mutant], seeds: Sequence[int] = SEEDS) -> Report:
        """Try the mutants on these seeds; one that passes on one seed alone survives, too."""
        report = Report(self.exercise)
        start = time.process_time()
        for mutant in chosen:
            if not mutant.defines:
                continue
            report.tried.append(mutant)
            named: set[str] = set()
            passed = False
            for seed in seeds:
                verdict = self.verdict(mutant.answer, seed)
                passed = passed or verdict.passed
                named |= names_in(verdict)
            if passed:
                report.survivors.append(mutant)
            if named:
                report.named[mutant.name] = named
            for name in sorted(named):
                if difference := self.difference(mutant, name):
                    report.false[mutant.name] = difference
        report.seconds = time.process_time() - start
        return report

    def difference(self, mutant: Mutant, name: str) -> str:
        """Say where a mutant is another answer than the misconception; nothing if it is the same.

        They are compared on every case where either is at fault: values, dtype, gradients, inputs
        and errors.
        """
        tolerance = self.exercise.tolerance
        for seed in COMPARED_SEEDS:
            expected = self.known(None, seed)
            theirs = self.known(name, seed)
            ours = self.outcomes(mutant.answer, seed)
            if len(ours) < len(theirs):
                return f"{name}: the mutant was stopped"
            for i, (e, m, x) in enumerate(zip(expected, theirs, ours, strict=True), start=1):
                if compare(e, m, tolerance) is None and compare(e, x, tolerance) is None:
                    continue
                if m.raised and x.raised:
                    fault = "" if str(m.error) == str(x.error) else f"{m.error} and {x.error}"
                else:
                    found = compare(m, x, tolerance) or compare(x, m, tolerance)
                    fault = found.sentence if found else ""
                if fault:
                    return f"{name}: seed {seed}, case {i}: {fault}"
        return ""


@functools.cache
def trial(id: str) -> Trial:
    """Return the one trial of an exercise that all tests of a process share."""
    return Trial(find_exercise(id))


def names_in(verdict: Verdict) -> set[str]:
    """Return the misconceptions that a verdict names."""
    return {explanation.misconception for explanation in verdict.explanations} - {None}


@contextmanager
def untyped() -> Iterator[None]:
    """Let the types be, as in a student's notebook, where nothing checks them."""
    config = jaxtyping.config
    before = config.jaxtyping_disable
    config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        config.update("jaxtyping_disable", before)


@contextmanager
def wordless() -> Iterator[None]:
    """Describe no difference while outcomes are compared."""
    nothing = dict.fromkeys(("difference", "moved_axes", "simple_relation"), lambda *_: "")
    with mock.patch.multiple(compare_module, **nothing):
        yield


@contextmanager
def limited() -> Iterator[None]:
    """Throw TimeLimit into code that computes for longer than LIMIT_SECONDS; no thread is used."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise TimeLimit

    before = signal.signal(signal.SIGVTALRM, stop)
    # again and again: code that catches everything is stopped all the same
    signal.setitimer(signal.ITIMER_VIRTUAL, LIMIT_SECONDS, 0.5)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


# ------------------------------------------------------------------------------------ as good as it


@functools.cache
def equal_list() -> dict[str, dict[str, str]]:
    """Read the list of survivors that are right: exercise -> mutant -> reason.

    A name that ends in "..." stands for all survivors that begin so.
    """
    return yaml.safe_load(EQUAL.read_text(encoding="utf-8")) or {}


def entry_for(name: str, entries: dict[str, str]) -> str | None:
    """Return the name of the entry that covers a mutant."""
    if name in entries:
        return name
    return next((e for e in entries if e.endswith("...") and name.startswith(e[:-3])), None)


def covered(entry: str, exercise: Exercise) -> list[Mutant]:
    return [mutant for mutant in mutants(exercise) if entry_for(mutant.name, {entry: ""})]


# ---------------------------------------------------------------------------------------- a table


HEADER = f"{'':32}  mutants  refused  survivors  equal  named  false names  seconds"


def line(name: str, reports: list[Report]) -> str:
    tried = sum(len(r.tried) for r in reports)
    survivors = sum(len(r.survivors) for r in reports)
    open_ones = sum(len(r.unexplained) for r in reports)
    named = sum(len(r.named) for r in reports)
    false = sum(len(r.false) for r in reports)
    seconds = sum(r.seconds for r in reports)
    return (
        f"{name:32}  {tried:7}  {tried - survivors:7}  {open_ones:9}  {survivors - open_ones:5}"
        f"  {named:5}  {false:11}  {seconds:7.1f}"
    )


def details(report: Report) -> str:
    """Show the mutants that need a case or a reason, those with a false name, and all names.

    The cases may be too few to tell a mutant from the misconception that is named for it.  So read
    the names, too: is each true of its mutant?
    """
    parts = []
    by_name = {mutant.name: mutant for mutant in report.tried}
    for mutant in report.unexplained:
        parts.append(f"survives  {quoted(mutant.name)}\n{mutant.diff}")
    for name, difference in report.false.items():
        shown = quoted(name)
        parts.append(f"false name  {shown}\n{by_name[name].diff}\n  {difference}")
    names = [
        f"named  {', '.join(sorted(names))}  {quoted(name)}" for name, names in report.named.items()
    ]
    return "\n\n".join(parts + ["\n".join(names)] * bool(names))


def quoted(name: str) -> str:
    """Write a name as a key of equal.yaml."""
    return "'" + name.replace("'", "''") + "'"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.mutants.machine",
        description="Try the wrong answers made by machine; show what survives, and false names.",
    )
    parser.add_argument("what", nargs="*", help="exercises or topics; all if none is given")
    parser.add_argument("--table", action="store_true", help="the table alone")
    arguments = parser.parse_args()
    chosen = []
    for what in arguments.what or topics():
        chosen += [find_exercise(what)] if "." in what else exercises(what)

    print(HEADER)
    reports = []
    for exercise in chosen:
        reports.append(Trial(exercise).report(mutants(exercise)))
        print(line(exercise.id, reports[-1:]), flush=True)
    print(line("total", reports))
    for report in reports:
        if (text := details(report)) and not arguments.table:
            print(f"\n{report.exercise.id}\n\n{text}")


if __name__ == "__main__":
    main()
