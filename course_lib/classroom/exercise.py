"""The exercise decorator: check at definition, report, and hand back something that always works.

`mark` gives the points of an answer once more, for the test cells of a grader.
"""

import ctypes
import io
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from course_lib.checking.diagnose import Verdict, assess
from course_lib.checking.exercise import Exercise, UnknownExercise, find_exercise
from course_lib.checking.observe import (
    STOPPED,
    Failure,
    Outcome,
    TimeLimit,
    failure,
    preserved,
    run,
)
from course_lib.checking.wording import describe
from course_lib.classroom.markup import card, escape, prose, show_report
from course_lib.classroom.progress import record_exercise

T = TypeVar("T")
# of the checks; characters kept of what an answer prints; seconds to stop in
SEED, PRINTED, GRACE = 0, 2000, 1.0
GOES_ON = "The chapter goes on with the reference."
_answers: dict[str, Any] = {}  # the last answer to each exercise in this session, right or wrong


def exercise(id: Any) -> Any:
    """Check the decorated function or class against the exercise `id`, show a report, record the
    result.

    Gives the student's own object back when it passes, otherwise the reference.  Never raises on an
    answer. An unknown id is reported and leaves the object as it is.
    """
    if callable(id):
        show_report(
            Report(
                "calm",
                "Exercise not checked",
                'Write the exercise\'s name: @exercise("topic.name").',
            )
        )
        return id

    def decorate(answer: T) -> T:
        try:
            declared = find_exercise(str(id))
        except Exception as error:
            said = (
                str(error)
                if isinstance(error, UnknownExercise)
                else f"{id} cannot be read: {failure(error)}"
            )
            show_report(
                Report("calm", "Exercise not checked", f"{said} Your code is left as it is.")
            )
            return answer
        _answers[declared.id] = answer
        report, passed = check_answer(answer, declared)
        show_report(report)
        return answer if passed else declared.reference

    return decorate


def check_answer(answer: Any, declared: Exercise) -> tuple["Report", bool]:
    """Run, judge and record an answer: the report, and whether it passed.  The session is left as
    it was.
    """
    try:
        report, verdict = examine(answer, declared, SEED)
        trouble = record_exercise(declared.id, verdict.status, declared.points)
    except Exception as error:
        said = (
            f"The check itself failed, which is a fault of the course: {failure(error)}. {GOES_ON}"
        )
        return Report("calm", f"{declared.id}: not checked", said), False
    return (report.with_note(trouble) if trouble else report), verdict.passed


def mark(id: str, seed: int = SEED) -> float:
    """The points that the last answer to an exercise earns on the cases of a seed, each case an
    equal part of them.

    For the test cells of graders such as nbgrader, which take the value of a cell for its points.
    Shows the report and records nothing.  An answer whose cell has not been run earns 0.  Raises
    UnknownExercise.
    """
    declared = find_exercise(id)
    if id in _answers:
        report, verdict = examine(_answers[id], declared, seed)
        earned = round(declared.points * verdict.fraction, 2)
    else:
        report = Report(
            "calm", f"{id}: no answer", "No cell with this exercise has been run in this session."
        )
        earned = 0.0
    show_report(report.with_note(f"{earned:g} of {declared.points} points"))
    return earned


def examine(answer: Any, declared: Exercise, seed: int) -> tuple["Report", Verdict]:
    """Run an answer on the cases of a seed and judge it.  The session is left as it was.

    Warnings of the references stay silent: graders take a word on the error stream for a failure.
    """
    with preserved():
        outcomes, printed = run_limited(answer, declared, seed)
        with redirect_stderr(io.StringIO()):
            verdict = assess(declared, outcomes, seed)
            return make_report(declared, verdict, printed, seed), verdict


# --------------------------------------------------------------------------------------- time limit


def run_limited(answer: Any, declared: Exercise, seed: int) -> tuple[list[Outcome], str]:
    """The outcomes of `run` within the exercise's time limit, and what the answer printed.

    The answer runs in a daemon thread.  Past the limit an exception is thrown into it, again and
    again for a second; a thread that still does not stop is abandoned and its prints are dropped.
    Only code that never gives Python a chance to switch threads (one endless call inside C) can
    hold the notebook.
    """
    outcomes: list[Outcome] = []
    ended: list[Failure] = []

    def work() -> None:
        try:
            for outcome in run(answer, declared, seed):
                outcomes.append(outcome)
        except BaseException as error:
            ended.append(failure(error))

    worker = threading.Thread(target=work, name=f"answer {declared.id}", daemon=True)
    with _captured(worker) as capture:
        worker.start()
        try:
            in_time = _wait(worker, declared.seconds)
            done = list(outcomes)
        finally:
            _stop(worker)
    if not in_time:
        message = f"it ran for more than {declared.seconds:g} s; is there a loop that never ends?"
        done.append(Outcome(error=Failure(STOPPED, message, ended[0].lines if ended else ())))
    elif ended:
        done.append(Outcome(error=ended[0]))
    return done, capture.text()


def _wait(worker: threading.Thread, seconds: int | float) -> bool:
    """Whether the worker ends in time.  Short waits let an interrupt of the notebook through on
    every system.
    """
    deadline = time.monotonic() + seconds
    while worker.is_alive() and time.monotonic() < deadline:
        worker.join(0.05)
    return not worker.is_alive()


def _stop(worker: threading.Thread) -> None:
    """Throw TimeLimit into the worker until it ends, for GRACE seconds at most."""
    throw = ctypes.pythonapi.PyThreadState_SetAsyncExc
    deadline = time.monotonic() + GRACE
    while worker.is_alive() and time.monotonic() < deadline:
        throw(ctypes.c_ulong(worker.ident), ctypes.py_object(TimeLimit))
        worker.join(0.2)


# ----------------------------------------------------------------------------------------- printing


class _Capture:
    """Keeps the first `limit` characters."""

    def __init__(self, limit: int):
        self.limit, self.parts, self.length = limit, [], 0

    def write(self, text: str) -> int:
        room = self.limit - self.length
        if room > 0:
            self.parts.append(str(text)[:room])
        self.length += len(text)
        return len(text)

    def text(self) -> str:
        cut = "\n... (cut)" if self.length > self.limit else ""
        return "".join(self.parts).rstrip() + cut


class _Router:
    """Stands in for sys.stdout: what a watched thread writes goes to its capture, the rest to the
    real stream.
    """

    def __init__(self, real: Any):
        self.real = real

    def write(self, text: str) -> int:
        return _captures.get(threading.current_thread(), self.real).write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


_captures: WeakKeyDictionary[threading.Thread, _Capture] = WeakKeyDictionary()
# never freed: a print in an abandoned thread may still use the one it looked up
_routers: list[_Router] = []


def _route(stream: Any) -> _Router:
    if isinstance(stream, _Router):
        return stream
    for router in _routers:
        if router.real is stream:
            return router
    _routers.append(_Router(stream))
    return _routers[-1]


@contextmanager
def _captured(worker: threading.Thread) -> Iterator[_Capture]:
    """Capture what the worker prints.  The stand-ins stay in place if the worker had to be
    abandoned.
    """
    capture = _captures[worker] = _Capture(PRINTED)
    real = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = map(_route, real)
    try:
        yield capture
    finally:
        if not worker.is_alive():
            sys.stdout, sys.stderr = real


# ------------------------------------------------------------------------------------------- report


@dataclass(frozen=True)
class Report:
    """What the student reads: one line when all is well, a short block otherwise."""

    tone: str  # good, bad or calm
    title: str
    sentence: str = ""
    lines: tuple[tuple[str, int, str], ...] = ()
    details: str = ""
    printed: str = ""
    note: str = ""

    def with_note(self, note: str) -> "Report":
        return Report(**{**self.__dict__, "note": note})

    def _repr_html_(self) -> str:
        parts = [f'<p><b class="tone">{escape(self.title)}</b> {prose(self.sentence)}</p>']
        if self.lines:
            parts.append(f"<pre>{escape(self._code())}</pre>")
        if self.printed:
            opened = "" if self.tone == "good" else " open"
            said = f"<summary>Your code printed</summary><pre>{escape(self.printed)}</pre>"
            parts.append(f"<details{opened}>{said}</details>")
        parts += [
            f'<p class="small">{prose(text)}</p>' for text in (self.details, self.note) if text
        ]
        return card(self.tone, "".join(parts))

    def __repr__(self) -> str:
        printed = f"Your code printed:\n{self.printed}" if self.printed else ""
        head = f"{self.title}  {self.sentence}".rstrip()
        return "\n".join(
            part for part in (head, self._code(), printed, self.details, self.note) if part
        )

    def _code(self) -> str:
        return "\n".join(
            f"line {number}, in {function}:  {code}" for function, number, code in self.lines
        )


def make_report(declared: Exercise, verdict: Verdict, printed: str, seed: int) -> Report:
    """The report on a verdict that was found on the cases of a seed."""
    points = f"{declared.points} point{'s' * (declared.points != 1)}"
    if verdict.status == "passed":
        return Report("good", f"{declared.id}: passed", f"({points})", printed=printed)
    if verdict.status == "not attempted":
        return Report(
            "calm", f"{declared.id}: not attempted yet", "The chapter goes on with the reference."
        )
    case = describe(declared.make_cases(seed)[verdict.first])
    right = f"{sum(f is None for f in verdict.faults)} of {len(verdict.faults)} cases right"
    details = f"{right}. Shown: case {verdict.first + 1}, with {case}. {GOES_ON}"
    lines = verdict.error.lines if verdict.error else ()
    return Report("bad", f"{declared.id}: not yet", verdict.sentence, lines, details, printed)
