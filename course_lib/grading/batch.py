"""A folder of submissions -> a folder of grades: in parallel, atomic, and resumed where it was
stopped.

    GRADES/grading.json                   what the class is marked on: topics, quizzes, seed
    GRADES/students/<student>/            grade.json, results.json (Gradescope), feedback.html
    GRADES/grades.csv, GRADES/class.html  written when all submissions are marked

A student's grade.json is written last and in one piece.  It holds a digest of the work, the
assignment and the course; while that is the same, the submission is not run again.
"""

import contextlib
import json
import logging
import os
import re
import secrets
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    CancelledError,
    Executor,
    Future,
    ThreadPoolExecutor,
    wait,
)
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from pydantic import ValidationError
from tqdm import tqdm

from course_lib.checking import exercises
from course_lib.checking import topics as every_topic
from course_lib.grading.exports import grades_csv, gradescope
from course_lib.grading.isolation import Jail, JailError, libraries
from course_lib.grading.marking import digest, mark
from course_lib.grading.pages import class_page, feedback_page
from course_lib.grading.records import Assignment, Grade, Work
from course_lib.grading.submissions import Submission, find_submissions, slug
from course_lib.paths import SOLUTIONS

ID = re.compile(r"exercise\(\s*(?:id\s*=\s*)?['\"](\w+)\.\w+['\"]")
SEEDS = 2**32  # what numpy takes
JOINING = 30  # seconds in which a cluster must have a worker


def grade(
    submissions: Path,
    out: Path,
    topics: Sequence[str] = (),
    seed: int | None = None,
    jobs: int | None = None,
    isolation: str = "bwrap",
    roster: Path | None = None,
    scheduler: str | None = None,
) -> list[Grade]:
    """Mark every submission and write grades, feedback and the class page into `out`; all grades,
    by student.

    topics     chapters to mark; unless given, those that at least half of the submissions answer something of
    seed       of the cases that answers are tried on; unless given, drawn once and kept in `out`
    jobs       submissions marked at a time (default: one per core)
    isolation  "bwrap" or "process", see isolation.py
    roster     a CSV that maps entries of `submissions` to students
    scheduler  address of a dask.distributed scheduler whose workers mark the submissions instead

    What is finished in `out` is kept and not run again.  Raises ValueError for folders, topics or
    settings that do not fit, JailError where this machine cannot run students' code, and for a
    cluster ImportError without dask.distributed, OSError where none answers and RuntimeError where
    it gives up.
    """
    if jobs is not None and jobs < 1:
        raise ValueError(f"expected at least one job, got {jobs}")
    found = find_submissions(submissions, roster)
    _check_folders(submissions, out)
    out.mkdir(parents=True, exist_ok=True)
    with _alone_in(out):
        assignment = _assignment(found, out, topics, seed)
        unmarked = [
            s for s in _bar(found, "reading", leave=False) if not _is_marked(s, assignment, out)
        ]
        if unmarked:
            with (
                _cluster(scheduler) if scheduler else _threads(jobs, isolation) as (
                    executor,
                    window,
                )
            ):
                marked = _mark_all(unmarked, assignment, isolation, executor, window)
                for done in _bar(
                    marked, "marking", total=len(found), initial=len(found) - len(unmarked)
                ):
                    _publish(done, out)
        grades = [_stored(submission.student, out) for submission in found]
        _write(out / "grades.csv", grades_csv(grades))
        _write(out / "class.html", class_page(grades))
    return grades


def _bar(steps: Iterable, what: str, **options: Any) -> tqdm:
    # None: only where a terminal shows it
    return tqdm(steps, what, disable=None, unit="student", **options)


# -------------------------------------------------------------------------------------------- what to mark


def _check_folders(submissions: Path, out: Path) -> None:
    out, submissions = out.resolve(), submissions.resolve()
    if out.is_relative_to(submissions):
        raise ValueError(
            f"the grades must not lie among the submissions: {out} is inside {submissions}"
        )
    for folder in libraries():
        for path in (out, submissions):
            if path.is_relative_to(folder):
                raise ValueError(
                    f"{path} lies inside {folder}, which students' code can read; choose another"
                    " folder"
                )


@contextlib.contextmanager
def _alone_in(out: Path) -> Iterator[None]:
    try:
        with FileLock(out / ".lock", timeout=0):
            yield
    except Timeout:
        raise ValueError(f"another `course grade` is writing into {out}") from None


def _assignment(
    found: Sequence[Submission], out: Path, topics: Sequence[str], seed: int | None
) -> Assignment:
    """The assignment kept in `out`, or a new one; it must not change between two runs."""
    unknown = set(topics) - set(every_topic())
    if unknown:
        raise ValueError(
            f"expected topics out of {', '.join(every_topic())}, got {', '.join(sorted(unknown))}"
        )
    if seed is not None and not 0 <= seed < SEEDS:
        raise ValueError(f"expected a seed from 0 to {SEEDS - 1}, got {seed}")
    path = out / "grading.json"
    if path.exists():
        kept = _read_assignment(path)
        if topics and set(topics) != set(kept.topics):
            raise ValueError(
                f"{out} was graded for {', '.join(kept.topics)}; choose another folder for other"
                " topics"
            )
        if seed not in (None, kept.seed):
            raise ValueError(
                f"{out} was graded with the seed {kept.seed}; choose another folder for another"
                " seed"
            )
        return kept
    chosen, quizzes = _what_the_class_answers(found, topics)
    if not chosen:
        raise ValueError(
            "no topic is answered by half of the submissions; say which to mark with --topic"
        )
    order = [source.stem.partition("_")[2] for source in sorted(SOLUTIONS.glob("[0-9][0-9]_*.py"))]
    chosen = sorted(
        set(chosen), key=lambda topic: (order.index(topic) if topic in order else len(order), topic)
    )
    seed = secrets.randbelow(2**31) if seed is None else seed
    assignment = Assignment(topics=tuple(chosen), quizzes=quizzes, seed=seed)
    _write(path, assignment.model_dump_json(indent=1))
    return assignment


def _read_assignment(path: Path) -> Assignment:
    try:
        return Assignment.model_validate_json(path.read_bytes())
    except (ValidationError, OSError) as error:
        raise ValueError(
            f"{path} is damaged ({str(error).splitlines()[0]}); grade into another folder"
        ) from None


def _what_the_class_answers(
    found: Sequence[Submission], topics: Sequence[str]
) -> tuple[Sequence[str], bool]:
    """The topics to mark, and whether their quizzes count: what half of those who handed something
    in answer.

    One student alone cannot change what the others are marked on.
    """
    votes: Counter[str] = Counter()
    quizzes: Counter[str] = Counter()
    present = 0
    for submission in found:
        work = submission.read()
        present += bool(work.cells or work.answers)
        votes.update(
            {topic for cell in work.cells for topic in ID.findall(cell.source)} & set(every_topic())
        )
        quizzes.update(work.answers.keys())
    chosen = topics or [topic for topic, n in votes.items() if 2 * n >= present]
    return chosen, any(2 * quizzes[topic] >= present > 0 for topic in chosen)


# ------------------------------------------------------------------------------------------------ marking


@contextlib.contextmanager
def _threads(jobs: int | None, isolation: str) -> Iterator[tuple[Executor, int]]:
    """Who marks on this machine, and how many submissions to hand out at a time."""
    with Jail(isolation) as jail:
        _try_out(jail)  # rather an error now than in the middle
    jobs = jobs or os.cpu_count() or 1
    executor = ThreadPoolExecutor(jobs)
    try:
        yield executor, jobs + 1  # one in reserve, so that nobody waits while a grade is written
    finally:
        executor.shutdown(wait=False, cancel_futures=True)


@contextlib.contextmanager
def _cluster(scheduler: str) -> Iterator[tuple[Executor, int]]:
    """The same on a cluster."""
    try:
        from distributed import Client, KilledWorker
    except ImportError:
        advice = 'pip install "visual-generation-course[cluster]"'
        raise ImportError(f"--scheduler needs dask.distributed: {advice}") from None
    # what goes wrong is said below, in one line
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    with Client(scheduler) as client:
        try:
            client.wait_for_workers(1, timeout=JOINING)
        except TimeoutError:
            raise ValueError(
                f"the scheduler at {scheduler} has no workers; start some with `dask worker`"
            ) from None
        try:
            yield client.get_executor(), 2 * sum(client.nthreads().values())
        except (CancelledError, KilledWorker):
            trouble = (
                f"the cluster at {scheduler} lost the workers, or the scheduler, of a submission"
            )
            raise RuntimeError(
                f"{trouble}; what is finished is kept, the same command goes on from there"
            ) from None


def _mark_all(
    submissions: Sequence[Submission],
    assignment: Assignment,
    isolation: str,
    executor: Executor,
    window: int,
) -> Iterator[Grade]:
    """The grades as they come.  A few works at a time are in memory."""
    waiting: dict[Future, str] = {}  # with the digest that the grade must have
    todo = iter(submissions)
    while True:
        for submission in todo:
            work = submission.read()
            future = executor.submit(
                mark_work, work.model_dump_json(), assignment.model_dump_json(), isolation
            )
            waiting[future] = digest(work, assignment)
            if len(waiting) >= window:
                break
        if not waiting:
            return
        done = wait(waiting, return_when=FIRST_COMPLETED).done
        for future in sorted(done, key=_has_failed):  # what went well first, so that it is kept
            grade = Grade.model_validate_json(future.result())
            if grade.digest != waiting.pop(future):
                raise ValueError(
                    "a worker has another version of the course; install the same everywhere"
                )
            yield grade


def _has_failed(future: Future) -> bool:
    return future.cancelled() or future.exception() is not None


def mark_work(work: str, assignment: str, isolation: str) -> str:
    """`mark` in a jail of its own; records come and go as JSON, so that any worker can do it."""
    handed_in = Work.model_validate_json(work)
    with Jail(isolation) as jail:
        if handed_in.cells:
            _try_out(jail)
        return mark(handed_in, Assignment.model_validate_json(assignment), jail).model_dump_json()


def _try_out(jail: Jail) -> None:
    """Look for an answer where none is; a machine on which even that fails must not cost a
    student's marks.
    """
    nothing = {
        "exercise": exercises(every_topic()[0])[0].id,
        "seed": 0,
        "seconds": 30,
        "cells": [],
        "passed": [],
    }
    reply = jail.run(nothing)
    if not reply.frames:
        raise JailError(
            f"the course does not run in its jail: {reply.stopped or reply.printed.strip()}"
        )


# ------------------------------------------------------------------------------------------------ writing


def _is_marked(submission: Submission, assignment: Assignment, out: Path) -> bool:
    """Whether a grade of this very work is there; the pages are written again if they are missing."""
    try:
        stored = _stored(submission.student, out)
    except (OSError, ValidationError):
        return False
    if stored.digest != digest(submission.read(), assignment):
        return False
    _publish(stored.model_copy(update={"details": submission.details}), out)
    return True


def _stored(student: str, out: Path) -> Grade:
    return Grade.model_validate_json((out / "students" / slug(student) / "grade.json").read_bytes())


def _publish(grade: Grade, out: Path) -> None:
    folder = out / "students" / slug(grade.student)
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "feedback.html", feedback_page(grade))
    _write(folder / "results.json", json.dumps(gradescope(grade), indent=1, ensure_ascii=False))
    _write(folder / "grade.json", grade.model_dump_json(indent=1))  # last: where it is, all is


def _write(path: Path, text: str) -> None:
    """Write in one piece, and only what differs."""
    data = text.encode()
    if path.is_file() and path.read_bytes() == data:
        return
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(data)
    os.replace(part, path)
