"""One student's work -> one grade.  Answers run in a jail; what they showed is compared here,
outside of it.
"""

import functools
import hashlib
import re
import threading
from collections.abc import Collection, Sequence

from pydantic import ValidationError

from course_lib.checking import Exercise, exercises
from course_lib.checking.diagnose import Verdict, assess
from course_lib.checking.observe import STOPPED, Failure, Outcome
from course_lib.checking.wording import describe
from course_lib.grading.isolation import Jail, libraries
from course_lib.grading.quizzes import mark_quiz
from course_lib.grading.records import Assignment, Cell, ExerciseMark, Found, Grade, Work
from course_lib.grading.wire import unpack
from course_lib.paths import QUIZZES, ROOT

READING = 5  # seconds for finding an answer and running what it needs, on top of the exercise's own
SENTENCE = 1000  # characters; it can list all the keys of a dict
_judging = threading.Lock()  # it seeds torch's random numbers, which all threads share


def mark(work: Work, assignment: Assignment, jail: Jail) -> Grade:
    """Mark the exercises of the assignment's topics, and their quizzes if they count.

    An answer that uses another exercise of the same notebook is run with the student's own where
    that has passed and with the course's where it has not, as in the notebook.  Raises JailError.
    """
    marks: list[ExerciseMark] = []
    for exercise in (exercise for topic in assignment.topics for exercise in exercises(topic)):
        passed = [mark.id for mark in marks if mark.status == "passed"]
        marks.append(_mark_exercise(exercise, work.cells, assignment.seed, passed, jail))
    quizzes = (
        [mark_quiz(topic, work.answers.get(topic)) for topic in assignment.topics]
        if assignment.quizzes
        else []
    )
    return Grade(
        student=work.student,
        details=work.details,
        files=work.files,
        digest=digest(work, assignment),
        exercises=tuple(marks),
        quizzes=tuple(quizzes),
        notes=work.notes,
    )


def digest(work: Work, assignment: Assignment) -> str:
    """Names the work, the assignment, and the course that it is marked with: a grade with the same
    is still valid.

    The roster's columns are left out: they change nothing in how a work is marked.
    """
    parts = (work.model_dump_json(exclude={"details"}), assignment.model_dump_json(), _course())
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


@functools.cache
def _course() -> str:
    every = hashlib.sha256()
    files = [*(ROOT / "course_lib").rglob("*.py"), *QUIZZES.glob("*.yaml")]
    for path in sorted(files, key=lambda path: path.as_posix()):
        every.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    return every.hexdigest()


# ------------------------------------------------------------------------------------------- one exercise


def _mark_exercise(
    exercise: Exercise, cells: Sequence[Cell], seed: int, passed: Collection[str], jail: Jail
) -> ExerciseMark:
    cases = len(exercise.make_cases(seed))
    empty = ExerciseMark(
        id=exercise.id, status="missing", points=exercise.points, earned=0.0, right=0, cases=cases
    )
    if not cells:
        return empty.model_copy(
            update={"sentence": "There is no notebook to look for an answer in."}
        )
    request = {
        "exercise": exercise.id,
        "seed": seed,
        "seconds": exercise.seconds + READING,
        "cells": [cell.model_dump() for cell in cells],
        "passed": list(passed),
    }
    reply = jail.run(request)
    if reply.lost:  # once more, in case it was not the answer's doing
        reply = jail.run(request)
    found = _found(reply.frames)
    if found.missing:
        return empty.model_copy(update={"sentence": found.missing})
    verdict = _judge(exercise, _outcomes(reply.frames[1:], cases, reply.stopped), seed)
    right = sum(fault is None for fault in verdict.faults)
    status = verdict.status
    if status == "failed":
        status = "partly right" if right else "wrong"
    error, first = verdict.error, verdict.first
    wrong = status in ("partly right", "wrong")
    return ExerciseMark(
        id=exercise.id,
        status=status,
        points=exercise.points,
        earned=round(exercise.points * verdict.fraction, 2),
        right=right,
        cases=cases,
        sentence=_tidy(verdict.sentence)[:SENTENCE] if wrong else "",
        misconception=verdict.misconception,
        shown=f"case {first + 1}, with {describe(exercise.make_cases(seed)[first])}"
        if wrong
        else "",
        lines=(
            tuple((where, number, _tidy(code)) for where, number, code in error.lines)
            if wrong and error
            else ()
        ),
        printed=_tidy(reply.printed),
        notes=tuple(_notes(found, verdict if wrong else None)),
    )


def _found(frames: Sequence[bytes]) -> Found:
    try:
        return Found.model_validate_json(frames[0])
    except (IndexError, ValidationError):
        return Found(notes=("The notebook's code could not be read.",))


def _outcomes(frames: Sequence[bytes], cases: int, stopped: str) -> list[Outcome]:
    """What the jail told of the cases, in order; the last one says why there are no more, where
    some are missing.
    """
    outcomes = []
    try:
        outcomes += map(unpack, frames[:cases])
    except ValueError:
        stopped = stopped or "what it sent cannot be read"
    if len(outcomes) < cases:
        outcomes.append(
            Outcome(error=Failure(STOPPED, stopped or "it ended the process it ran in"))
        )
    return outcomes


def _judge(exercise: Exercise, outcomes: Sequence[Outcome], seed: int) -> Verdict:
    with _judging:
        try:
            return assess(exercise, outcomes, seed)
        except Exception as error:  # whatever a jail can make up must cost its own exercise alone
            why = Failure(type(error).__name__, "what your code returned could not be compared")
            return assess(exercise, [Outcome(error=why)], seed)


def _notes(found: Found, verdict: Verdict | None) -> list[str]:
    """What was found on the way; with the verdict on a wrong answer, what may have led to it."""
    notes = list(found.notes)
    for id in found.replaced:
        notes.append(
            f"This answer was run with the course's own version of `{id}`, since yours has not"
            " passed."
        )
    if verdict is None:
        return notes
    missing = [
        name for name in found.unresolved if verdict.error and f"'{name}'" in verdict.error.message
    ]
    for name in missing:
        notes.append(
            f"`{name}` comes from no import, function, class or assignment of the notebook. Loops"
            " and bare expressions are not run for grading: use the function's parameters, or make"
            " it inside the function."
        )
    if found.outside:
        names = ", ".join(f"`{name}`" for name in found.outside)
        notes.append(
            f"Your answer uses {names}, made outside of it, rather than its parameters alone."
        )
    return notes


def _tidy(text: str) -> str:
    """The text without what differs from run to run or from machine to machine: addresses and
    folders.
    """
    for folder in sorted(libraries(), key=len, reverse=True):
        text = text.replace(folder, "...")
    return re.sub(r"\b0x[0-9a-f]{6,}", "0x...", text)
