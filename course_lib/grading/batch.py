"""A folder of submissions -> a folder of grades: in parallel, atomically, and resumable.

    GRADES/grading.json                   what the class is marked on: topics, quizzes, seed
    GRADES/students/<student>/            grade.json, results.json (Gradescope), feedback.html
    GRADES/grades.csv, GRADES/class.html  written when all submissions are marked

A student's grade.json is written last and atomically.  It holds a digest of the work, the
assignment and the course; as long as that is the same, the submission is not run again.
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
from course_lib.files import remove_parts, write_if_changed
from course_lib.grading.exports import grades_csv, gradescope
from course_lib.grading.isolation import Jail, JailError, libraries
from course_lib.grading.marking import mark_work, work_digest
from course_lib.grading.pages import class_page, feedback_page
from course_lib.grading.records import Assignment, Grade, Work
from course_lib.grading.submissions import Submission, find_submissions, slug
from course_lib.paths import SOLUTIONS

EXERCISE_ID = re.compile(r"exercise\(\s*(?:id\s*=\s*)?['\"](\w+)\.\w+['\"]")
MAX_SEED = 2**32 - 1  # the largest seed that NumPy accepts
WORKER_SECONDS = 30  # how long to wait for a cluster's first worker


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
    """Mark every submission, write grades, feedback and the class page, and return all grades.

    out        the folder to write into; what is finished there is kept and not run again
    topics     chapters to mark; default: those that at least half of the submissions answer
    seed       of the cases that answers are tried on; default: drawn once and kept in `out`
    jobs       submissions marked at a time; default: one per core
    isolation  "bwrap" or "process", see isolation.py
    roster     a CSV that maps entries of `submissions` to students
    scheduler  address of a dask.distributed scheduler whose workers mark the submissions instead

    The grades are sorted by student.  Raises ValueError for unsuitable folders, topics or settings
    and JailError where this machine cannot run students' code; for a cluster, ImportError without
    dask.distributed, OSError where no scheduler answers and RuntimeError where it gives up.
    """
    if jobs is not None and jobs < 1:
        raise ValueError(f"expected at least one job, got {jobs}")
    found = find_submissions(submissions, roster)
    _check_folders(submissions, out)
    out.mkdir(parents=True, exist_ok=True)
    with _locked(out):
        remove_parts(out)
        assignment = _assignment(found, out, topics, seed)
        unmarked = []
        for submission in _progress(found, "reading", leave=False):
            if not _is_marked(submission, assignment, out):
                unmarked.append(submission)
        if unmarked:
            place = _cluster(scheduler) if scheduler else _threads(jobs, isolation)
            with place as (executor, window):
                marked = _mark_all(unmarked, assignment, isolation, executor, window)
                done = len(found) - len(unmarked)
                for finished in _progress(marked, "marking", total=len(found), initial=done):
                    _write_grade(finished, out)
        grades = [_read_grade(submission.student, out) for submission in found]
        write_if_changed(out / "grades.csv", grades_csv(grades))
        write_if_changed(out / "class.html", class_page(grades))
    return grades


def _progress(steps: Iterable, what: str, **options: Any) -> tqdm:
    # disable=None shows the bar only in a terminal.
    return tqdm(steps, what, disable=None, unit="student", **options)


# ------------------------------------------------------------------------------------- what to mark


def _check_folders(submissions: Path, out: Path) -> None:
    out = out.resolve()
    submissions = submissions.resolve()
    if out.is_relative_to(submissions):
        raise ValueError(f"expected a folder for the grades outside {submissions}, got {out}")
    for folder in libraries():
        for path in (out, submissions):
            if path.is_relative_to(folder):
                raise ValueError(
                    f"expected folders that students' code cannot read, got {path} inside {folder};"
                    " choose another folder"
                )


@contextlib.contextmanager
def _locked(out: Path) -> Iterator[None]:
    try:
        with FileLock(out / ".lock", timeout=0):
            yield
    except Timeout:
        raise ValueError(f"another `course grade` is writing into {out}") from None


def _assignment(
    found: Sequence[Submission], out: Path, topics: Sequence[str], seed: int | None
) -> Assignment:
    """Return the assignment kept in `out`, or store a new one; it is the same in every run."""
    known = every_topic()
    unknown = set(topics) - set(known)
    if unknown:
        raise ValueError(
            f"expected topics out of {', '.join(known)}, got {', '.join(sorted(unknown))}"
        )
    if seed is not None and not 0 <= seed <= MAX_SEED:
        raise ValueError(f"expected a seed from 0 to {MAX_SEED}, got {seed}")
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
    chosen, quizzes = _answered_by_half(found, topics)
    if not chosen:
        raise ValueError(
            "no topic is answered by half of the submissions; say which to mark with --topic"
        )
    order = [source.stem.partition("_")[2] for source in sorted(SOLUTIONS.glob("[0-9][0-9]_*.py"))]

    def position(topic: str) -> tuple[int, str]:
        return (order.index(topic) if topic in order else len(order), topic)

    assignment = Assignment(
        topics=tuple(sorted(set(chosen), key=position)),
        quizzes=quizzes,
        seed=secrets.randbelow(2**31) if seed is None else seed,
    )
    write_if_changed(path, assignment.model_dump_json(indent=1))
    return assignment


def _read_assignment(path: Path) -> Assignment:
    try:
        return Assignment.model_validate_json(path.read_bytes())
    except (ValidationError, OSError) as error:
        raise ValueError(
            f"{path} is damaged ({str(error).splitlines()[0]}); grade into another folder"
        ) from None


def _answered_by_half(
    found: Sequence[Submission], topics: Sequence[str]
) -> tuple[Sequence[str], bool]:
    """Return the topics that at least half of the (non-empty) submissions answer.

    The second value says whether the quiz of a chosen topic is answered by as many.  `topics`, if
    given, are chosen instead.  A single student cannot change what the others are marked on.
    """
    topic_votes: Counter[str] = Counter()
    quiz_votes: Counter[str] = Counter()
    present = 0
    for submission in found:
        work = submission.read()
        present += bool(work.cells or work.answers)
        answered = {topic for cell in work.cells for topic in EXERCISE_ID.findall(cell.source)}
        topic_votes.update(answered & set(every_topic()))
        quiz_votes.update(work.answers.keys())
    chosen = topics or [topic for topic, votes in topic_votes.items() if 2 * votes >= present]
    return chosen, any(2 * quiz_votes[topic] >= present > 0 for topic in chosen)


# ------------------------------------------------------------------------------------------ marking


@contextlib.contextmanager
def _threads(jobs: int | None, isolation: str) -> Iterator[tuple[Executor, int]]:
    """Provide an executor on this machine, and how many submissions to hand out at a time."""
    with Jail(isolation) as jail:
        _try_out(jail)  # so that it fails now, not halfway
    jobs = jobs or os.cpu_count() or 1
    executor = ThreadPoolExecutor(jobs)
    try:
        yield executor, jobs + 1  # one in reserve, so that no thread waits while a grade is written
    finally:
        executor.shutdown(wait=False, cancel_futures=True)


@contextlib.contextmanager
def _cluster(scheduler: str) -> Iterator[tuple[Executor, int]]:
    """Provide an executor on a cluster, and how many submissions to hand out at a time."""
    try:
        from distributed import Client, KilledWorker
    except ImportError:
        raise ImportError(
            "--scheduler: dask.distributed is not installed; get it with pip install"
            ' "visual-generation-course[cluster]"'
        ) from None
    # The library's own messages are silenced, because the errors below say it in one line.
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    with Client(scheduler) as client:
        try:
            client.wait_for_workers(1, timeout=WORKER_SECONDS)
        except TimeoutError:
            raise ValueError(
                f"the scheduler at {scheduler} has no workers; start some with `dask worker`"
            ) from None
        try:
            yield client.get_executor(), 2 * sum(client.nthreads().values())
        except (CancelledError, KilledWorker):
            raise RuntimeError(
                f"the cluster at {scheduler} lost the workers, or the scheduler, of a submission;"
                " what is finished is kept, and the same command resumes from there"
            ) from None


def _mark_all(
    submissions: Sequence[Submission],
    assignment: Assignment,
    isolation: str,
    executor: Executor,
    window: int,
) -> Iterator[Grade]:
    """Yield the grades as they are finished; at most `window` works are in memory."""

    def has_failed(future: Future) -> bool:
        return future.cancelled() or future.exception() is not None

    digests: dict[Future, str] = {}  # of the works in progress
    todo = iter(submissions)
    while True:
        for submission in todo:
            work = submission.read()
            future = executor.submit(
                mark_json, work.model_dump_json(), assignment.model_dump_json(), isolation
            )
            digests[future] = work_digest(work, assignment)
            if len(digests) >= window:
                break
        if not digests:
            return
        done = wait(digests, return_when=FIRST_COMPLETED).done
        for future in sorted(done, key=has_failed):  # successes come first, so that they are kept
            finished = Grade.model_validate_json(future.result())
            if finished.digest != digests.pop(future):
                raise ValueError(
                    "a worker has another version of the course; install the same everywhere"
                )
            yield finished


def mark_json(work: str, assignment: str, isolation: str) -> str:
    """Run `mark_work` in a jail of its own, on records as JSON so that any worker can do it."""
    handed_in = Work.model_validate_json(work)
    with Jail(isolation) as jail:
        if handed_in.cells:
            _try_out(jail)
        done = mark_work(handed_in, Assignment.model_validate_json(assignment), jail)
        return done.model_dump_json()


def _try_out(jail: Jail) -> None:
    """Look for an answer in an empty notebook.

    A machine on which even that fails must not cost a student's marks.
    """
    request = {
        "exercise": exercises(every_topic()[0])[0].id,
        "seed": 0,
        "seconds": 30,
        "cells": [],
        "passed": [],
    }
    reply = jail.run(request)
    if not reply.frames:
        raise JailError(
            f"the course does not run in its jail: {reply.stopped or reply.printed.strip()}"
        )


# ------------------------------------------------------------------------------------------ writing


def _is_marked(submission: Submission, assignment: Assignment, out: Path) -> bool:
    """Tell whether `out` holds an up-to-date grade of this submission; complete its files if so."""
    try:
        stored = _read_grade(submission.student, out)
    except (OSError, ValidationError):
        return False
    if stored.digest != work_digest(submission.read(), assignment):
        return False
    _write_grade(stored.model_copy(update={"details": submission.details}), out)
    return True


def _read_grade(student: str, out: Path) -> Grade:
    return Grade.model_validate_json((out / "students" / slug(student) / "grade.json").read_bytes())


def _write_grade(grade: Grade, out: Path) -> None:
    folder = out / "students" / slug(grade.student)
    folder.mkdir(parents=True, exist_ok=True)
    write_if_changed(folder / "feedback.html", feedback_page(grade))
    write_if_changed(
        folder / "results.json", json.dumps(gradescope(grade), indent=1, ensure_ascii=False)
    )
    # Written last: it marks the folder complete.
    write_if_changed(folder / "grade.json", grade.model_dump_json(indent=1))
