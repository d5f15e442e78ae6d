"""What a class handed in: who, and which files, found in a folder or a zip by their names alone.

Students' files are untrusted (see reading.py): whatever is wrong with them is a note in that
student's work.  Only the instructor's own mistakes (no submissions at all, a roster that cannot be
read) are errors.
"""

import csv
import hashlib
import os
import re
import unicodedata
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from io import StringIO
from itertools import chain, count
from pathlib import Path
from zipfile import ZipFile

from course_lib.grading.notebook import clean
from course_lib.grading.reading import (
    Careful,
    Entry,
    Reading,
    is_folder,
    is_hidden,
    shown_name,
    split_name,
)
from course_lib.grading.records import Work

__all__ = ["Submission", "find_submissions", "slug"]

_SUFFIX = re.compile(r"\.(ipynb|zip)\Z", re.IGNORECASE)
# on Windows
_RESERVED = {
    "con",
    "prn",
    "aux",
    "nul",
    *(f"{port}{n}" for port in ("com", "lpt") for n in range(10)),
}


@dataclass(frozen=True)
class Submission:
    """One student's entries, not yet read.  details: the further columns of the roster.  notes: so
    far.
    """

    student: str
    details: dict[str, str] = field(default_factory=dict)
    files: tuple[Entry, ...] = ()
    notes: tuple[str, ...] = ()

    def read(self) -> Work:
        """Read all of it within the limits of reading.py.  Raises nothing: what is wrong becomes a
        note.
        """
        reading = Reading()
        for entry in self.files:
            reading.add(entry)
        return reading.work(self.student, self.details, self.notes)


def find_submissions(path: Path, roster: Path | None = None) -> list[Submission]:
    """The submissions in a folder or a .zip, or the one that an .ipynb is, sorted by student.

    Every .ipynb, .zip and folder at the top is one student's, called by its name unless the roster,
    a CSV with the columns `submission` and `student`, calls it otherwise; the roster's students
    without one come along. Raises ValueError when there are no submissions, or the roster cannot be
    used.
    """
    entries = _entries(path)
    if not entries:
        raise ValueError(
            f"{path} holds no submissions; expected .ipynb files, .zip files or folders in it"
        )
    found = _name(*(_match(entries, _read_roster(roster), roster) if roster else ([], entries)))
    return sorted(found, key=lambda submission: (submission.student.casefold(), submission.student))


def slug(student: str) -> str:
    """A folder name for a student: at most 60 of a-z, 0-9 and "-", valid everywhere, another for
    every name.

    A name that is no such folder name, or could be taken for one made here, gets 8 digits of its
    SHA-256.
    """
    plain = unicodedata.normalize("NFKD", student).encode("ascii", "ignore").decode().lower()
    readable = re.sub(r"[^a-z0-9]+", "-", plain)[:51].strip("-")
    if (
        readable
        and readable == student
        and readable not in _RESERVED
        and not re.search(r"(^|-)[0-9a-f]{8}$", readable)
    ):
        return readable
    digest = hashlib.sha256(student.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{readable or 'student'}-{digest}"


# ----------------------------------------------------------------------------------------------- entries


def _entries(path: Path) -> list[Entry]:
    wanted = "expected a folder, a .zip or an .ipynb"
    if not os.path.exists(path):
        raise ValueError(f"{wanted}; there is nothing at {path}")
    place = path.resolve()  # a link here is the instructor's own
    suffix = path.suffix.lower() if place.is_file() else ""
    try:
        if place.is_dir():
            return [
                Entry(shown_name(n), place / n)
                for n in sorted(os.listdir(place))
                if _is_entry(n, place / n)
            ]
        if suffix == ".zip":
            return _entries_of_zip(place)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    if suffix != ".ipynb":
        raise ValueError(f"{wanted}, got {path}")
    return [Entry(shown_name(path.name), place)]


def _is_entry(name: str, path: Path) -> bool:
    return not is_hidden(name) and (bool(_SUFFIX.search(name)) or os.path.isdir(path))


def _entries_of_zip(path: Path) -> list[Entry]:
    try:
        with open(path, "rb") as file, ZipFile(Careful(file)) as archive:
            members = [
                (split_name(m.filename), i, is_folder(m)) for i, m in enumerate(archive.infolist())
            ]
    except OSError:
        raise
    except Exception as error:  # zipfile fails in many ways on a damaged file
        raise ValueError(f"{path} cannot be read as a zip: {error}") from None
    members = [member for member in members if member[0] and not is_hidden(member[0][0])]
    tops = {parts[0] for parts, *_ in members}
    skip = 0
    if (
        len(tops) == 1
        and tops != {".."}
        and all(len(parts) > 1 or folder for parts, _, folder in members)
    ):
        skip = 1  # nothing but one folder
        members = [
            (parts[1:], i, folder)
            for parts, i, folder in members
            if len(parts) > 1 and not is_hidden(parts[1])
        ]
    groups: dict[tuple, list[int]] = defaultdict(list)
    for parts, i, folder in members:
        if folder or len(parts) > 1:
            groups[parts[0],].append(i)
        elif _SUFFIX.search(parts[0]):
            # each file for itself: a zip can hold two of the same name
            groups[parts[0], i].append(i)
    return [Entry(shown_name(key[0]), path, tuple(groups[key]), skip) for key in sorted(groups)]


def _stem(name: str) -> str:
    name = _SUFFIX.sub("", name).strip()
    return name if name.strip(" .") else "(no name)"


# ------------------------------------------------------------------------------------------------ roster


@dataclass(frozen=True)
class _Row:
    line: int
    submission: str
    student: str
    details: dict[str, str]


def _read_roster(path: Path) -> list[_Row]:
    try:
        text = path.read_bytes().decode("utf-8-sig")
        first = next((line for line in text.splitlines() if line.strip()), "")
        reader = csv.reader(StringIO(text, newline=""), delimiter=max(",;\t", key=first.count))
        lines = [
            (reader.line_num, [cell.strip() for cell in row])
            for row in reader
            if any(map(str.strip, row))
        ]
    except OSError as error:
        raise ValueError(f"the roster {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"the roster {path} is not text in UTF-8; save it as CSV UTF-8") from None
    except csv.Error as error:
        raise ValueError(f"the roster {path} is not CSV: {error}") from None
    header = (
        [c.lower() if c.lower() in ("submission", "student") else c for c in lines[0][1]]
        if lines
        else []
    )
    if not {"submission", "student"} <= set(header) or any(
        n > 1 for c, n in Counter(header).items() if c
    ):
        got = ", ".join(header) or "nothing"
        raise ValueError(
            f"the roster {path}: expected the columns submission and student, none twice; got {got}"
        )
    rows = []
    for number, cells in lines[1:]:
        if any(cells[len(header) :]):
            raise ValueError(
                f"the roster {path}, line {number}: expected {len(header)} cells, got {len(cells)}"
            )
        row = dict(zip(header, cells + [""] * len(header), strict=False))
        row.pop("", None)
        submission, student = shown_name(row.pop("submission")), shown_name(row.pop("student"))
        if not student:
            raise ValueError(
                f"the roster {path}, line {number}: expected a student, got an empty cell"
            )
        rows.append(_Row(number, submission, student, {clean(k): clean(v) for k, v in row.items()}))
    return rows


def _match(
    entries: list[Entry], rows: list[_Row], path: Path
) -> tuple[list[Submission], list[Entry]]:
    """The students of the roster with their entries, and the entries that are nobody's."""
    by_name, by_stem = defaultdict(list), defaultdict(list)
    for entry in entries:
        by_name[entry.name].append(entry)
        by_stem[_stem(entry.name)].append(entry)
    owner: dict[Entry, str] = {}
    listed: dict[str, _Row] = {}
    seen: set[str] = set()
    for row in rows:
        meant = by_name.get(row.submission) or by_stem.get(row.submission) or []
        where = f"the roster {path}, line {row.line}"
        if len(meant) > 1:
            raise ValueError(
                f"{where}: {row.submission} can be {' or '.join(entry.name for entry in meant)}"
            )
        if row.submission and (row.submission in seen or owner.keys() & set(meant)):
            raise ValueError(
                f"{where}: the submission {row.submission} stands here for the second time"
            )
        if listed.setdefault(row.student, row).details != row.details:
            raise ValueError(
                f"{where}: {row.student} stood before with other details; two students need two"
                " names"
            )
        seen.add(row.submission)
        owner.update(dict.fromkeys(meant, row.student))
    files: dict[str | None, list[Entry]] = defaultdict(list)
    for entry in entries:
        files[owner.get(entry)].append(entry)
    missing = ("Nothing was handed in.",)
    students = [
        Submission(student, row.details, tuple(files[student]), () if files[student] else missing)
        for student, row in listed.items()
    ]
    return students, files[None]


def _name(listed: list[Submission], entries: list[Entry]) -> list[Submission]:
    """All submissions: those of the roster, and one for every other entry, no two of which share
    name or slug.
    """

    def key(name: str) -> str:
        return unicodedata.normalize("NFC", name.casefold())

    found = list(listed)
    names = Counter(
        key(name) for name in [s.student for s in listed] + [_stem(e.name) for e in entries]
    )
    taken = {slug(submission.student) for submission in listed}
    for entry in entries:
        short = _stem(entry.name)
        full = entry.name if entry.name.strip(" .") else short
        choices = chain(
            [full] if names[key(short)] > 1 else [short, full], (f"{full} ({n})" for n in count(2))
        )
        student = next(name for name in choices if slug(name) not in taken)
        taken.add(slug(student))
        notes = [f"{entry.name} is not in the roster."] if listed else []
        if student != short or names[key(short)] > 1:
            notes.append(f"Another submission is called {short}, too; this one is {student}.")
        found.append(Submission(student, {}, (entry,), tuple(notes)))
    return found
