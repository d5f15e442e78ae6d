"""Who handed in what: a class's submissions, found in a folder or a zip by file names only.

Students' files are untrusted (see reading.py): whatever is wrong with them becomes a note in that
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
    Entry,
    ListingGuard,
    SubmissionReader,
    is_folder,
    is_hidden,
    shown_name,
    split_name,
)
from course_lib.grading.records import Work

__all__ = ["Submission", "find_submissions", "slug"]

_SUFFIX = re.compile(r"\.(ipynb|zip)\Z", re.IGNORECASE)
_PORTS = {f"{port}{n}" for port in ("com", "lpt") for n in range(10)}
_RESERVED_ON_WINDOWS = {"con", "prn", "aux", "nul"} | _PORTS


@dataclass(frozen=True)
class Submission:
    """One student's entries, not yet read.

    details  the further columns of the roster
    notes    what is already known to be wrong
    """

    student: str
    details: dict[str, str] = field(default_factory=dict)
    files: tuple[Entry, ...] = ()
    notes: tuple[str, ...] = ()

    def read(self) -> Work:
        """Read everything within the limits of reading.py; problems become notes, not errors."""
        reader = SubmissionReader()
        for entry in self.files:
            reader.add(entry)
        return reader.work(self.student, self.details, self.notes)


def find_submissions(path: Path, roster: Path | None = None) -> list[Submission]:
    """Return the submissions in a folder or a .zip, or a single .ipynb, sorted by student.

    Every .ipynb, .zip and folder at the top belongs to one student, named after it unless the
    roster, a CSV with the columns `submission` and `student`, says otherwise; students on the
    roster who handed in nothing are included.  Raises ValueError when there are no submissions, or
    the roster cannot be used.
    """
    entries = _find_entries(path)
    if not entries:
        raise ValueError(
            f"{path} holds no submissions; expected .ipynb files, .zip files or folders in it"
        )
    listed = []
    if roster:
        listed, entries = _match_roster(entries, _read_roster(roster), roster)
    found = _name_others(listed, entries)
    return sorted(found, key=lambda submission: (submission.student.casefold(), submission.student))


def slug(student: str) -> str:
    """Return a folder name for a student: at most 60 of a-z, 0-9 and "-", valid everywhere.

    Different names get different slugs: a name that cannot be used as it is, or that could be
    mistaken for a slug made here, gets 8 digits of its SHA-256.
    """
    plain = unicodedata.normalize("NFKD", student).encode("ascii", "ignore").decode().lower()
    readable = re.sub(r"[^a-z0-9]+", "-", plain)[:51].strip("-")
    looks_made = re.search(r"(^|-)[0-9a-f]{8}$", readable)
    if readable == student and readable not in {"", *_RESERVED_ON_WINDOWS} and not looks_made:
        return readable
    digest = hashlib.sha256(student.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{readable or 'student'}-{digest}"


# ------------------------------------------------------------------------------------------ entries


def _find_entries(path: Path) -> list[Entry]:
    wanted = "expected a folder, a .zip or an .ipynb"
    if not os.path.exists(path):
        raise ValueError(f"{wanted}; there is nothing at {path}")
    place = path.resolve()  # a symbolic link here is the instructor's own
    suffix = path.suffix.lower() if place.is_file() else ""
    try:
        if place.is_dir():
            return _entries_of_folder(place)
        if suffix == ".zip":
            return _entries_of_zip(place)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    if suffix != ".ipynb":
        raise ValueError(f"{wanted}, got {path}")
    return [Entry(shown_name(path.name), place)]


def _entries_of_folder(folder: Path) -> list[Entry]:
    entries = []
    for name in sorted(os.listdir(folder)):
        path = folder / name
        if not is_hidden(name) and (_SUFFIX.search(name) or os.path.isdir(path)):
            entries.append(Entry(shown_name(name), path))
    return entries


def _entries_of_zip(path: Path) -> list[Entry]:
    try:
        with open(path, "rb") as file, ZipFile(ListingGuard(file)) as archive:
            listed = archive.infolist()
            members = [(split_name(m.filename), i, is_folder(m)) for i, m in enumerate(listed)]
    except OSError:
        raise
    except Exception as error:  # zipfile fails in many ways on a damaged file
        raise ValueError(f"{path} cannot be read as a zip: {error}") from None
    members = [member for member in members if member[0] and not is_hidden(member[0][0])]
    tops = {parts[0] for parts, *_ in members}
    only_a_folder = all(len(parts) > 1 or folder for parts, _, folder in members)
    skip = 0
    if len(tops) == 1 and tops != {".."} and only_a_folder:
        # The zip holds one folder and nothing else, so the entries are inside it.
        skip = 1
        inner = [(parts[1:], i, folder) for parts, i, folder in members if len(parts) > 1]
        members = [member for member in inner if not is_hidden(member[0][0])]
    groups: dict[tuple, list[int]] = defaultdict(list)
    for parts, i, folder in members:
        if folder or len(parts) > 1:
            groups[parts[0],].append(i)
        elif _SUFFIX.search(parts[0]):
            # Every file is an entry of its own, because a zip can hold two of the same name.
            groups[parts[0], i].append(i)
    return [Entry(shown_name(key[0]), path, tuple(groups[key]), skip) for key in sorted(groups)]


def _stem(name: str) -> str:
    name = _SUFFIX.sub("", name).strip()
    return name if name.strip(" .") else "(no name)"


# ------------------------------------------------------------------------------------------- roster


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
        lines = []
        for cells in reader:
            cells = [cell.strip() for cell in cells]
            if any(cells):
                lines.append((reader.line_num, cells))
    except OSError as error:
        raise ValueError(f"the roster {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"the roster {path} is not text in UTF-8; save it as CSV UTF-8") from None
    except csv.Error as error:
        raise ValueError(f"the roster {path} is not CSV: {error}") from None
    header = []
    for name in lines[0][1] if lines else ():
        header.append(name.lower() if name.lower() in ("submission", "student") else name)
    repeated = any(n > 1 for name, n in Counter(header).items() if name)
    if not {"submission", "student"} <= set(header) or repeated:
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
        submission = shown_name(row.pop("submission"))
        student = shown_name(row.pop("student"))
        if not student:
            raise ValueError(
                f"the roster {path}, line {number}: expected a student, got an empty cell"
            )
        details = {clean(name): clean(value) for name, value in row.items()}
        rows.append(_Row(number, submission, student, details))
    return rows


def _match_roster(
    entries: list[Entry], rows: list[_Row], path: Path
) -> tuple[list[Submission], list[Entry]]:
    """Return the roster's students with their entries, and the entries that belong to nobody."""
    by_name = defaultdict(list)
    by_stem = defaultdict(list)
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
            choices = " or ".join(entry.name for entry in meant)
            raise ValueError(f"{where}: {row.submission} can be {choices}")
        if row.submission and (row.submission in seen or owner.keys() & set(meant)):
            raise ValueError(f"{where}: the submission {row.submission} is listed a second time")
        if listed.setdefault(row.student, row).details != row.details:
            raise ValueError(
                f"{where}: {row.student} was listed before with other details; give two students"
                " two different names"
            )
        seen.add(row.submission)
        owner.update(dict.fromkeys(meant, row.student))
    files: dict[str | None, list[Entry]] = defaultdict(list)
    for entry in entries:
        files[owner.get(entry)].append(entry)
    students = []
    for student, row in listed.items():
        notes = () if files[student] else ("Nothing was handed in.",)
        students.append(Submission(student, row.details, tuple(files[student]), notes))
    return students, files[None]


def _name_others(listed: list[Submission], entries: list[Entry]) -> list[Submission]:
    """Return the roster's submissions and one for every other entry.

    No two of them share a name or a slug.
    """

    def key(name: str) -> str:
        return unicodedata.normalize("NFC", name.casefold())

    found = list(listed)
    names = [submission.student for submission in listed] + [_stem(e.name) for e in entries]
    count_of = Counter(map(key, names))
    taken = {slug(submission.student) for submission in listed}
    for entry in entries:
        short = _stem(entry.name)
        full = entry.name if entry.name.strip(" .") else short
        is_shared = count_of[key(short)] > 1
        numbered = (f"{full} ({n})" for n in count(2))
        choices = chain([full] if is_shared else [short, full], numbered)
        student = next(name for name in choices if slug(name) not in taken)
        taken.add(slug(student))
        notes = [f"{entry.name} is not in the roster."] if listed else []
        if student != short or is_shared:
            notes.append(f"Another submission is called {short}, too; this one is {student}.")
        found.append(Submission(student, {}, (entry,), tuple(notes)))
    return found
