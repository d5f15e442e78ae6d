"""What the student has done: exercises and quizzes, kept in COURSE_HOME/progress.json."""

import json
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from html import escape

from filelock import FileLock, Timeout

from course_lib.checking.exercise import exercises, topics
from course_lib.classroom.bank import load_bank
from course_lib.classroom.markup import STYLE
from course_lib.classroom.state import course_home, save_state
from course_lib.paths import NOTEBOOKS, QUIZZES, SOLUTIONS

Record = dict[str, dict[str, dict]]
Number = int | float
LOCK_SECONDS = 10  # to wait for another notebook that writes
SECOND = "_more"  # ends the name of a chapter's second bank


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


# ------------------------------------------------------------------------------------- the overview

BAR_LETTERS = 20  # of a chapter's bar in plain text
IN_A_BUILD = "Run this cell: it shows your points in every chapter, and what comes next."


@dataclass(frozen=True)
class Line:
    """One exercise or quiz: its name, its status, points earned and possible."""

    name: str
    status: str  # of STATUSES
    earned: Number
    points: Number


STATUSES = {"passed": "good", "answered": "good", "not passed": "bad", "not attempted": "calm"}


@dataclass(frozen=True)
class Progress:
    """The chapters in the order of the notebooks, each with its lines.

    The points possible are those of all exercises and questions there are, whatever is done.  Shows
    itself as a bar for every chapter, with what comes next and, folded away, every line.
    """

    chapters: dict[str, list[Line]]

    @property
    def earned(self) -> Number:
        return sum(_earned(lines) for lines in self.chapters.values())

    @property
    def points(self) -> Number:
        return sum(_possible(lines) for lines in self.chapters.values())

    @property
    def next(self) -> tuple[str, str] | None:
        """The chapter and the name of the first line that is not done; None when all are."""
        for chapter, lines in self.chapters.items():
            for line in lines:
                if line.status not in ("passed", "answered"):
                    return chapter, line.name
        return None

    def __repr__(self) -> str:
        if _is_a_build():
            return IN_A_BUILD
        rows = [f"Progress: {self.earned:g} of {self.points:g} points", ""]
        width = max(map(len, self.chapters), default=0)
        for chapter, lines in self.chapters.items():
            done = round(BAR_LETTERS * _earned(lines) / _possible(lines))
            bar = "#" * done + "." * (BAR_LETTERS - done)
            rows.append(
                f"{chapter:<{width}}  {bar}  {_earned(lines):g} of {_possible(lines):g} points"
            )
        rows += ["", f"Next: {' in '.join(reversed(self.next))}" if self.next else "All done."]
        for chapter, lines in self.chapters.items():
            rows += ["", chapter]
            for line in lines:
                rows.append(
                    f"  {line.name:<32} {line.status:<14} {line.earned:g} / {line.points:g}"
                )
        return "\n".join(rows)

    def _repr_html_(self) -> str:
        if _is_a_build():
            return f"<p>{IN_A_BUILD}</p>"
        head = "<thead><tr><th scope='col'>Chapter</th><th scope='col'>Done</th>"
        head += "<th scope='col'>Points</th></tr></thead>"
        rows = "".join(_bar(chapter, lines) for chapter, lines in self.chapters.items())
        caption = f"<caption>Progress: {self.earned:g} of {self.points:g} points</caption>"
        table = f"<table>{caption}{head}<tbody>{rows}</tbody></table>"
        lines = "".join(_chapter(name, lines) for name, lines in self.chapters.items())
        every = (
            f"<details><summary>Every exercise and quiz</summary><table>{lines}</table></details>"
        )
        return f'{STYLE}<div class="vgc">{table}{self._next_html()}{every}</div>'

    def _next_html(self) -> str:
        if self.next is None:
            return "<p><b>All done.</b></p>"
        chapter, name = self.next
        return f"<p><b>Next:</b> <code>{escape(name)}</code> in {_link(chapter)}</p>"


def _earned(lines: list[Line]) -> Number:
    return sum(line.earned for line in lines)


def _possible(lines: list[Line]) -> Number:
    return sum(line.points for line in lines)


def _is_a_build() -> bool:
    """Whether `course build` runs: what a notebook in the repository stored would soon be wrong."""
    return os.environ.get("COURSE_BUILD") == "1"


def _link(chapter: str) -> str:
    return f'<a href="{escape(chapter)}.ipynb">{escape(chapter)}</a>'


def _bar(chapter: str, lines: list[Line]) -> str:
    points = f"{_earned(lines):g} of {_possible(lines):g}"
    return (
        f'<tr><th scope="row">{_link(chapter)}</th><td><progress value="{_earned(lines):g}"'
        f' max="{_possible(lines):g}" aria-label="{escape(chapter)}: {points} points"'
        f' style="width:16em"></progress></td><td>{points}</td></tr>'
    )


def _chapter(name: str, lines: list[Line]) -> str:
    rows = ""
    for line in lines:
        rows += (
            f'<tr><th scope="row" style="font-weight:400">{escape(line.name)}</th>'
            f'<td class="{STATUSES[line.status]}">{line.status}</td>'
            f"<td>{line.earned:g} of {line.points:g}</td></tr>"
        )
    return f'<tbody><tr><th scope="rowgroup" colspan="3">{escape(name)}</th></tr>{rows}</tbody>'


def progress() -> Progress:
    """Return every chapter's exercises and quiz with what you have done so far."""
    record = read_record()
    declared = topics()
    banks = {path.stem for path in QUIZZES.glob("*.yaml")}
    chapters = {}
    for topic in sorted({*declared, *(bank.removesuffix(SECOND) for bank in banks)}, key=_notebook):
        lines = []
        if topic in declared:
            lines += [_exercise_line(e.id, e.points, record) for e in exercises(topic)]
        lines += [_quiz_line(bank, record) for bank in (topic, topic + SECOND) if bank in banks]
        chapters[_notebook(topic)] = lines
    return Progress(chapters)


def _notebook(topic: str) -> str:
    """Return the notebook of a topic, such as "01_ddpm", by which chapters are ordered.

    Where there is none it is the topic.
    """
    found = sorted(
        p.stem for folder in (SOLUTIONS, NOTEBOOKS) for p in folder.glob(f"[0-9][0-9]_{topic}.*")
    )
    return found[0] if found else topic


def _exercise_line(id: str, points: int, record: Record) -> Line:
    entry = record["exercises"].get(id)
    if entry is None:
        return Line(id, "not attempted", 0, points)
    if entry["status"] == "failed":
        return Line(id, "not passed", 0, points)
    return Line(id, "passed", points, points)


def _quiz_line(topic: str, record: Record) -> Line:
    """Return the best score, in points of the bank as it is today: one for each question."""
    points = len(load_bank(topic).questions)
    best = record["quizzes"].get(topic)
    if best is None:
        return Line(f"{topic} quiz", "not attempted", 0, points)
    return Line(f"{topic} quiz", "answered", best["score"] * points / best["out_of"], points)
