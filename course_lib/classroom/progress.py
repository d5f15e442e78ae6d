"""What the student has done: exercises and quizzes, kept in COURSE_HOME/progress.json."""

import json
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from html import escape

from filelock import FileLock, Timeout

from course_lib.checking.exercise import exercises, topics
from course_lib.classroom.markup import STYLE
from course_lib.classroom.state import course_home, save_state
from course_lib.paths import NOTEBOOKS, QUIZZES, SOLUTIONS

Record = dict[str, dict[str, dict]]
Number = int | float
LOCK_SECONDS = 10  # to wait for another notebook that writes


def record_exercise(id: str, status: str, points: int) -> str:
    """Remember a result; an exercise once passed stays passed.

    Returns "" or a sentence on why it was not saved.
    """
    if status == "not attempted":
        return ""

    def change(record: Record) -> None:
        if record["exercises"].get(id, {}).get("status") != "passed":
            record["exercises"][id] = {
                "status": status,
                "points": points if status == "passed" else 0,
            }

    return _update(change)


def record_quiz(topic: str, score: Number, out_of: Number) -> str:
    """Remember the best score of a quiz.

    Returns "" or a sentence on why it was not saved.  Raises ValueError unless
    0 <= score <= out_of and out_of > 0.
    """
    if not 0 <= score <= out_of or not out_of > 0:
        raise ValueError(
            f"expected 0 <= score <= out_of and out_of > 0, got score {score} out of {out_of}"
        )

    def change(record: Record) -> None:
        best = record["quizzes"].get(topic)
        if best is None or score / out_of >= best["score"] / best["out_of"]:
            record["quizzes"][topic] = {"score": score, "out_of": out_of}

    return _update(change)


# ----------------------------------------------------------------------------------------- the file


def read_record() -> Record:
    """Read the record; it is empty where there is none.  A damaged file is set aside, warning."""
    if not (course_home() / "progress.json").exists():
        return _empty()
    try:
        with _lock():
            return _read()
    except (OSError, Timeout):
        return _empty()


def _update(change: Callable[[Record], None]) -> str:
    """Read, change and replace the file under a lock: two notebooks lose nothing of each other."""
    try:
        course_home().mkdir(parents=True, exist_ok=True)
        with _lock():
            record = _read()
            change(record)
            save_state("progress", record)
    except (OSError, Timeout) as error:
        return f"This result could not be saved in {course_home()}: {error}"
    return ""


def _lock() -> FileLock:
    return FileLock(course_home() / "progress.lock", timeout=LOCK_SECONDS)


def _empty() -> Record:
    return {"exercises": {}, "quizzes": {}}


def _read() -> Record:
    path = course_home() / "progress.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        _validate(record)
    except FileNotFoundError:
        return _empty()
    except (ValueError, RecursionError) as error:
        number = 1
        while (aside := path.with_name(f"progress.damaged-{number}.json")).exists():
            number += 1
        os.replace(path, aside)
        warnings.warn(
            f"{path} was damaged ({error}); it is kept as {aside.name}, a new one starts.",
            stacklevel=2,
        )
        return _empty()
    return record


def _validate(record: object) -> None:
    """Raise ValueError unless `record` is one that this module wrote."""
    try:
        answers = list(record["exercises"].values())
        quizzes = list(record["quizzes"].values())
        statuses = {entry["status"] for entry in answers}
        numbers = [entry["points"] for entry in answers]
        numbers += [entry[key] for entry in quizzes for key in ("score", "out_of")]
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"not a progress record: {error!r}") from None
    known = statuses <= {"passed", "failed"}
    plain = all(type(number) in (int, float) for number in numbers)
    if not known or not plain or not all(quiz["out_of"] > 0 for quiz in quizzes):
        raise ValueError("not a progress record: unexpected values")


# ---------------------------------------------------------------------------------------- the table


@dataclass(frozen=True)
class Line:
    """One exercise or quiz: its name, its status, points earned and possible (None: unknown)."""

    name: str
    status: str
    earned: Number
    points: Number | None


@dataclass(frozen=True)
class Progress:
    """The chapters in the order of the notebooks, each with its lines.  Shows itself as a table."""

    chapters: dict[str, list[Line]]

    @property
    def earned(self) -> Number:
        return sum(line.earned for lines in self.chapters.values() for line in lines)

    @property
    def points(self) -> Number:
        return sum(line.points or 0 for lines in self.chapters.values() for line in lines)

    def __repr__(self) -> str:
        rows = [f"Progress: {self.earned:g} of {self.points:g} points"]
        for chapter, lines in self.chapters.items():
            rows += [
                "",
                chapter,
                *(f"  {line.name:<32} {line.status:<14} {_points(line)}" for line in lines),
            ]
        return "\n".join(rows)

    def _repr_html_(self) -> str:
        bodies = "".join(_chapter(name, lines) for name, lines in self.chapters.items())
        caption = f"<caption>Progress: {self.earned:g} of {self.points:g} points</caption>"
        head = (
            "<thead><tr><th scope='col'>Task</th><th scope='col'>Result</th><th"
            " scope='col'>Points</th></tr></thead>"
        )
        return f'{STYLE}<div class="vgc"><table>{caption}{head}{bodies}</table></div>'


TONES = {"passed": "good", "not passed": "bad", "not attempted": "calm"}


def _chapter(name: str, lines: list[Line]) -> str:
    rows = ""
    for line in lines:
        tone = TONES.get(line.status, "")
        rows += (
            f'<tr><th scope="row" style="font-weight:400">{escape(line.name)}</th>'
            f'<td class="{tone}">{escape(line.status)}</td><td>{_points(line)}</td></tr>'
        )
    return f'<tbody><tr><th scope="rowgroup" colspan="3">{escape(name)}</th></tr>{rows}</tbody>'


def _points(line: Line) -> str:
    return f"{line.earned:g} / {line.points:g}" if line.points is not None else ""


def progress() -> Progress:
    """Every chapter's exercises and quiz with what you have done so far."""
    record = read_record()
    declared = topics()
    banks = {path.stem for path in QUIZZES.glob("*.yaml")} | record["quizzes"].keys()
    chapters = {}
    for topic in sorted({*declared, *banks}, key=_notebook):
        lines = [
            _exercise_line(e.id, e.points, record)
            for e in (exercises(topic) if topic in declared else [])
        ]
        chapters[_notebook(topic)] = [
            *lines,
            *([_quiz_line(topic, record)] if topic in banks else []),
        ]
    return Progress(chapters)


def _notebook(topic: str) -> str:
    """The notebook of a topic, such as "01_ddpm", by which chapters are ordered; the topic if there
    is none.
    """
    found = sorted(
        p.stem for folder in (SOLUTIONS, NOTEBOOKS) for p in folder.glob(f"[0-9][0-9]_{topic}.*")
    )
    return found[0] if found else topic


def _exercise_line(id: str, points: int, record: Record) -> Line:
    entry = record["exercises"].get(id)
    status = (
        "not attempted"
        if entry is None
        else {"failed": "not passed"}.get(entry["status"], "passed")
    )
    return Line(id, status, points if status == "passed" else 0, points)


def _quiz_line(topic: str, record: Record) -> Line:
    best = record["quizzes"].get(topic)
    if best is None:
        return Line(f"{topic} quiz", "not attempted", 0, None)
    return Line(f"{topic} quiz", "best score", best["score"], best["out_of"])
