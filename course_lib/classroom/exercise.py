"""The exercise decorator: check at definition, report, and return something that always works.

`mark` returns the points of an answer, for the test cells of a grader.
"""

import atexit
import ctypes
import inspect
import io
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, replace
from types import FunctionType
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
    prepare,
    preserved,
    run,
)
from course_lib.checking.wording import describe
from course_lib.classroom.difference import picture_of
from course_lib.classroom.markup import card, escape, prose, show_report
from course_lib.classroom.progress import record_exercise

T = TypeVar("T")
CHECK_SEED = 0  # of the cases that students are checked on
MAX_PRINTED_CHARACTERS = 2000  # kept of what an answer prints
STOP_SECONDS = 1.0  # for which an answer past its time is asked to stop
JOIN_SECONDS = 0.05  # between two looks at a running answer
CONTINUES = "The chapter goes on with the reference."
_answers: dict[str, Any] = {}  # the last answer to each exercise in this session, right or wrong


def exercise(id: Any = None) -> Any:
    """Check the decorated function or class against the exercise `id`, report and record it.

    Returns the student's own object when it passes, otherwise the reference.  Never raises on an
    answer.  An unknown id is reported and leaves the object as it is.
    """
    if callable(id):
        return exercise()(id)

    def decorate(answer: T) -> T:
        if id is None:
            sentence = 'Write the exercise\'s name: @exercise("topic.name").'
            show_report(Report("calm", "Exercise not checked", sentence))
            return answer
        try:
            declared = find_exercise(str(id))
        except Exception as error:
            known = not isinstance(error, UnknownExercise)
            reason = f"{id} cannot be read: {failure(error)}" if known else str(error)
            sentence = f"{reason} Your code is left as it is."
            show_report(Report("calm", "Exercise not checked", sentence))
            return answer
        if sentence := _other_function(answer, declared):
            show_report(Report("calm", f"{declared.id}: not checked", sentence))
            return answer
        _answers[declared.id] = answer
        report, passed = check_answer(answer, declared)
        if _is_renamed(answer, declared):
            stubs = f"call your function that, not `{answer.__name__}`"
            note = f"{report.note} The chapter goes on with the stub's name: {stubs}."
            report = report.with_note(note.strip())
        show_report(report)
        return answer if passed else declared.reference

    return decorate


def _is_renamed(answer: Any, declared: Exercise) -> bool:
    """Say whether a function has neither the exercise's name nor the reference's."""
    names = (declared.name, declared.reference.__name__, "<lambda>")
    return isinstance(answer, FunctionType) and answer.__name__ not in names


def _other_function(answer: Any, declared: Exercise) -> str:
    """Say so when the decorator stands over another function than the exercise's, such as a helper.

    That one has another name, and no parameter of the exercise's.
    """
    if not _is_renamed(answer, declared) or not isinstance(declared.reference, FunctionType):
        return ""
    theirs = inspect.signature(answer).parameters
    wanted = inspect.signature(declared.reference).parameters
    if theirs.keys() & wanted.keys() or any("*" in str(p) for p in theirs.values()):
        return ""
    return (
        f"The decorator stands over `{answer.__name__}({', '.join(theirs)})`, which has none of the"
        " exercise's parameters. Put it right over the function that the exercise asks for. Your"
        " code is left as it is."
    )


def check_answer(answer: Any, declared: Exercise) -> tuple["Report", bool]:
    """Run, assess and record an answer; return the report, and whether it passed.

    The session is left as it was.
    """
    try:
        report, verdict = examine(answer, declared, CHECK_SEED)
        trouble = record_exercise(declared.id, verdict.status, declared.points)
    except Exception as error:
        fault = f"The check itself failed, which is a fault of the course: {failure(error)}."
        return Report("calm", f"{declared.id}: not checked", f"{fault} {CONTINUES}"), False
    return (report.with_note(trouble) if trouble else report), verdict.passed


def mark(id: str, seed: int = CHECK_SEED) -> float:
    """Return the points that the last answer to an exercise earns on the cases of a seed.

    Each case is an equal part of them.  For the test cells of graders such as nbgrader, which take
    the value of a cell for its points.  Shows the report and records nothing.  An answer whose cell
    has not been run earns 0.  Raises UnknownExercise.
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


def case(id: str, number: Any = 1) -> dict[str, Any]:
    """Return the inputs of one case of an exercise, to try an answer on.

    number: counted from 1, as in the report.  Raises UnknownExercise, which names near ids, and
    ValueError for a case that there is not.
    """
    declared = find_exercise(id)
    with preserved():
        count = len(declared.make_cases(CHECK_SEED))
        if type(number) is not int or not 1 <= number <= count:
            raise ValueError(f"{id}: expected a case from 1 to {count}, got {number!r}")
        return prepare(declared, CHECK_SEED, number - 1)


def examine(answer: Any, declared: Exercise, seed: int) -> tuple["Report", Verdict]:
    """Run an answer on the cases of a seed and assess it.  The session is left as it was.

    Warnings of the references are silenced: graders take a word on the error stream for a failure.
    """
    with preserved():
        outcomes, printed = run_limited(answer, declared, seed)
        with redirect_stderr(io.StringIO()):
            verdict = assess(declared, outcomes, seed)
            return make_report(declared, verdict, printed, seed), verdict


# --------------------------------------------------------------------------------------- time limit


def run_limited(answer: Any, declared: Exercise, seed: int) -> tuple[list[Outcome], str]:
    """Return the outcomes of `run` within the exercise's time limit, and what the answer printed.

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
    if worker.is_alive():
        _abandoned.append(worker)
        atexit.unregister(_leave)
        atexit.register(_leave)  # again, to come before what was registered until now
    if not in_time:
        message = f"it ran for more than {declared.seconds:g} s; is there a loop that never ends?"
        done.append(Outcome(error=Failure(STOPPED, message, ended[0].lines if ended else ())))
    elif ended:
        done.append(Outcome(error=ended[0]))
    return done, capture.text()


def _wait(worker: threading.Thread, seconds: int | float) -> bool:
    """Wait for the worker and say whether it ended in time.

    Short waits let an interrupt of the notebook through on every system.
    """
    deadline = time.monotonic() + seconds
    while worker.is_alive() and time.monotonic() < deadline:
        worker.join(JOIN_SECONDS)
    return not worker.is_alive()


def _stop(worker: threading.Thread) -> None:
    """Throw TimeLimit into the worker until it ends, for STOP_SECONDS at most."""
    throw = ctypes.pythonapi.PyThreadState_SetAsyncExc
    deadline = time.monotonic() + STOP_SECONDS
    while worker.is_alive() and time.monotonic() < deadline:
        throw(ctypes.c_ulong(worker.ident), ctypes.py_object(TimeLimit))
        worker.join(0.2)


_abandoned: list[threading.Thread] = []


def _leave() -> None:
    """Spare a process the interpreter's last steps where abandoned answers still run.

    A thread that wakes up during them is ended wherever it is, and within torch's C++ that aborts
    the process.
    """
    if any(worker.is_alive() for worker in _abandoned):
        atexit.unregister(_leave)
        atexit._run_exitfuncs()
        for stream in (sys.__stdout__, sys.__stderr__):
            if stream is not None:
                stream.flush()
        os._exit(int(hasattr(sys, "last_type")))  # 1 after an error that nobody caught


# ----------------------------------------------------------------------------------------- printing


class _Capture:
    """A stream that keeps the first `limit` characters."""

    def __init__(self, limit: int):
        self.limit = limit
        self.parts: list[str] = []
        self.length = 0

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
    """A stand-in for sys.stdout: a watched thread writes to its capture, others to the stream."""

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
    """Capture what the worker prints.  The stand-ins stay if the worker had to be abandoned."""
    capture = _captures[worker] = _Capture(MAX_PRINTED_CHARACTERS)
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
    """What the student reads: one line when all is well, a short block otherwise.

    tone: good, bad or calm.  lines: of a traceback.  beside: a second mistake, on another case.
    picture: expected, got and their difference as HTML.
    """

    tone: str
    title: str
    sentence: str = ""
    lines: tuple[tuple[str, int, str], ...] = ()
    beside: str = ""
    picture: str = ""
    details: str = ""
    printed: str = ""
    note: str = ""

    def with_note(self, note: str) -> "Report":
        return replace(self, note=note)

    def _repr_html_(self) -> str:
        parts = [f'<p><b class="tone">{escape(self.title)}</b> {prose(self.sentence)}</p>']
        if self.lines:
            parts.append(f"<pre>{escape(self._code())}</pre>")
        if self.printed:
            opened = "" if self.tone == "good" else " open"
            prints = f"<summary>Your code printed</summary><pre>{escape(self.printed)}</pre>"
            parts.append(f"<details{opened}>{prints}</details>")
        if self.picture:
            parts.append(self.picture)
        if self.beside:
            parts.append(f"<p>{prose(self.beside)}</p>")
        small = [text for text in (self.details, self.note) if text]
        parts += [f'<p class="small">{prose(text)}</p>' for text in small]
        return card(self.tone, "".join(parts))

    def __repr__(self) -> str:
        printed = f"Your code printed:\n{self.printed}" if self.printed else ""
        head = f"{self.title}  {self.sentence}".rstrip()
        parts = (head, self._code(), printed, self.beside, self.details, self.note)
        return "\n".join(part for part in parts if part)

    def _code(self) -> str:
        return "\n".join(
            f"line {number}, in {function}:  {code}" for function, number, code in self.lines
        )


def make_report(declared: Exercise, verdict: Verdict, printed: str, seed: int) -> Report:
    """Write the report on a verdict that was reached on the cases of a seed."""
    points = f"{declared.points} point{'s' * (declared.points != 1)}"
    if verdict.status == "passed":
        return Report("good", f"{declared.id}: passed", f"({points})", printed=printed)
    if verdict.status == "not attempted":
        return Report("calm", f"{declared.id}: not attempted yet", CONTINUES)
    number = verdict.shown + 1
    details = (
        f"{verdict.right} of {len(verdict.faults)} cases right. Shown: case {number}, with"
        f" {describe(declared.make_cases(seed)[verdict.shown])}."
    )
    if seed == CHECK_SEED:
        details += f' Its inputs: `course_lib.classroom.case("{declared.id}", {number})`.'
    return Report(
        "bad",
        f"{declared.id}: not yet",
        f"{verdict.sentence}{_about_names(verdict.error)}",
        verdict.error.lines if verdict.error else (),
        verdict.beside,
        _picture(verdict),
        f"{details} {CONTINUES}",
        printed,
    )


def _picture(verdict: Verdict) -> str:
    shown = verdict.explanations[0]
    if shown.expected is None or shown.got is None:
        return ""
    return picture_of(shown.expected, shown.got)


def _about_names(error: Failure | None) -> str:
    """Say what to do about a name that is not defined; it may be another cell's, or misspelt."""
    found = error and error.kind == "NameError" and re.search(r"name '(\w+)'", error.message)
    if not found:
        return ""
    return (
        f". If a cell above defines `{found[1]}`, run the cells above first; if none does, look at"
        " its spelling."
    )
