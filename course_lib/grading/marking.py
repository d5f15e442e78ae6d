"""One student's work -> one grade: answers run in a jail and are compared outside of it."""

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
from course_lib.grading.isolation import Jail, Reply, libraries
from course_lib.grading.quizzes import mark_quiz
from course_lib.grading.records import AnswerInfo, Assignment, Cell, ExerciseMark, Grade, Work
from course_lib.grading.wire import unpack
from course_lib.paths import QUIZZES, ROOT

SETUP_SECONDS = 5  # on top of an exercise's own limit: to find the answer and run what it needs
MAX_SENTENCE_CHARS = 1000  # a sentence can list all the keys of a dict
_assess_lock = threading.Lock()  # assessing seeds torch's random numbers, which all threads share


def mark_work(work: Work, assignment: Assignment, jail: Jail) -> Grade:
    """Mark the exercises of the assignment's topics, and their quizzes if they count.

    An answer that uses another exercise of the same notebook is run with the student's own where
    that has passed and with the course's where it has not, as in the notebook.  Raises JailError.
    """
    marks: list[ExerciseMark] = []
    for topic in assignment.topics:
        for exercise in exercises(topic):
            passed = [mark.id for mark in marks if mark.status == "passed"]
            marks.append(_mark_exercise(exercise, work.cells, assignment.seed, passed, jail))
    quizzes = []
    if assignment.quizzes:
        quizzes = [mark_quiz(topic, work.answers.get(topic)) for topic in assignment.topics]
    return Grade(
        student=work.student,
        details=work.details,
        files=work.files,
        digest=work_digest(work, assignment),
        exercises=tuple(marks),
        quizzes=tuple(quizzes),
        notes=work.notes,
    )


def work_digest(work: Work, assignment: Assignment) -> str:
    """Return a digest of the work, the assignment and the course.

    A grade with the same digest is still valid.  The roster's columns are left out, because they do
    not affect how a work is marked.
    """
    parts = (
        work.model_dump_json(exclude={"details"}),
        assignment.model_dump_json(),
        _course_digest(),
    )
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


@functools.cache
def _course_digest() -> str:
    digest = hashlib.sha256()
    files = [*(ROOT / "course_lib").rglob("*.py"), *QUIZZES.glob("*.yaml")]
    for path in sorted(files, key=lambda path: path.as_posix()):
        digest.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


# ------------------------------------------------------------------------------------- one exercise


def _mark_exercise(
    exercise: Exercise, cells: Sequence[Cell], seed: int, passed: Collection[str], jail: Jail
) -> ExerciseMark:
    cases = exercise.make_cases(seed)
    common = {"id": exercise.id, "points": exercise.points, "cases": len(cases)}
    missing = {"status": "missing", "earned": 0.0, "right": 0}
    if not cells:
        sentence = "There is no notebook to look for an answer in."
        return ExerciseMark(**common, **missing, sentence=sentence)
    request = {
        "exercise": exercise.id,
        "seed": seed,
        "seconds": exercise.seconds + SETUP_SECONDS,
        "cells": [cell.model_dump() for cell in cells],
        "passed": list(passed),
    }
    reply = jail.run(request)
    if reply.lost:  # tried once more, in case it was not the answer's doing
        reply = jail.run(request)
    info = _read_info(reply.frames)
    if info.missing:
        return ExerciseMark(**common, **missing, sentence=info.missing)
    verdict = _assess(exercise, _read_outcomes(reply, len(cases)), seed)
    result = {
        "status": verdict.status,
        "earned": round(exercise.points * verdict.fraction, 2),
        "right": verdict.right,
        "misconception": verdict.misconception,
        "printed": _without_machine(reply.printed),
        "notes": tuple(_notes(info, verdict)),
    }
    if verdict.status == "failed":
        lines = verdict.error.lines if verdict.error else ()
        result |= {
            "status": "partly right" if verdict.fraction else "wrong",
            "sentence": _without_machine(verdict.sentence)[:MAX_SENTENCE_CHARS],
            "beside": _without_machine(verdict.beside)[:MAX_SENTENCE_CHARS],
            "shown": f"case {verdict.shown + 1}, with {describe(cases[verdict.shown])}",
            "lines": tuple((where, n, _without_machine(code)) for where, n, code in lines),
        }
    return ExerciseMark(**common, **result)


def _read_info(frames: Sequence[bytes]) -> AnswerInfo:
    try:
        return AnswerInfo.model_validate_json(frames[0])
    except (IndexError, ValidationError):
        return AnswerInfo(notes=("The notebook's code could not be read.",))


def _read_outcomes(reply: Reply, cases: int) -> list[Outcome]:
    """Return the outcomes the jail reported, in order of the cases.

    Where some are missing, the last one says why.
    """
    outcomes = []
    stopped = reply.stopped
    try:
        for frame in reply.frames[1 : cases + 1]:
            outcomes.append(unpack(frame))
    except ValueError:
        stopped = stopped or "what it sent cannot be read"
    if len(outcomes) < cases:
        why = Failure(STOPPED, stopped or "it ended the process it ran in")
        outcomes.append(Outcome(error=why))
    return outcomes


def _assess(exercise: Exercise, outcomes: Sequence[Outcome], seed: int) -> Verdict:
    with _assess_lock:
        try:
            return assess(exercise, outcomes, seed)
        except Exception as error:  # whatever a jail makes up must cost only its own exercise
            why = Failure(type(error).__name__, "what your code returned could not be compared")
            return assess(exercise, [Outcome(error=why)], seed)


def _notes(info: AnswerInfo, verdict: Verdict) -> list[str]:
    """Return notes on how the answer was run and, if it is wrong, on what may have led to that."""
    notes = list(info.notes)
    for id in info.replaced:
        notes.append(
            f"This answer was run with the course's own version of `{id}`, since yours has not"
            " passed."
        )
    if verdict.status != "failed":
        return notes
    for name in info.unresolved:
        if verdict.error and f"'{name}'" in verdict.error.message:
            notes.append(
                f"`{name}` comes from no import, function, class or assignment of the notebook."
                " Loops and bare expressions are not run for grading: use the function's"
                " parameters, or make it inside the function."
            )
    if info.outside:
        names = ", ".join(f"`{name}`" for name in info.outside)
        notes.append(
            f"Your answer uses {names}, made outside of it, rather than only its parameters."
        )
    return notes


def _without_machine(text: str) -> str:
    """Remove what differs between runs or machines from a text: addresses and folders."""
    for folder in sorted(libraries(), key=len, reverse=True):
        text = text.replace(folder, "...")
    return re.sub(r"\b0x[0-9a-f]{6,}", "0x...", text)
