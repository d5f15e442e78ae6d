"""What a class handed in: found in a folder or a zip, and read as data, whatever it may be.

Students' files are untrusted.  Nothing is unpacked to disk, no link is followed, nothing but a regular file is
opened, every size is measured while reading, and whatever is wrong with a file is a note in that student's work.
Only the instructor's own mistakes (no submissions at all, a roster that cannot be read) are errors.
"""

import csv
import hashlib
import math
import os
import re
import stat
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from io import BufferedIOBase, BytesIO, StringIO
from itertools import chain, count, takewhile
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile, ZipInfo

from course_lib.grading.notebook import CELLS, CODE_BYTES, clean, read_json, read_notebook
from course_lib.grading.records import Cell, Work

__all__ = ["Entry", "Submission", "find_submissions", "slug"]

FILE_BYTES = 20_000_000  # of one notebook
ANSWERS_BYTES = 1_000_000  # of one file of quiz answers
BYTES = 100_000_000  # of one submission, unpacked
FILES = 100  # of one submission: notebooks, quiz answers, zips within it
FOLDERS = 10  # within one another, below a student's own
ZIPS = 2  # within one another
LISTING_BYTES = 8_000_000  # of a zip's table of contents, which takes ten times that in memory
NOTES = 50  # of one submission
NAME, PATH = 120, 400  # characters that are shown
CHUNK = 2**16

_SUFFIX = re.compile(r"\.(ipynb|zip)\Z", re.IGNORECASE)
_ANSWERS = re.compile(r"quiz-([A-Za-z0-9_]{1,60})\.json")
_UNSEEMLY = re.compile(  # control characters, line separators, changes of the writing direction, surrogates
    "[\0-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff\ufffe\uffff]"
)
_RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))}  # on Windows


@dataclass(frozen=True)
class Entry:
    """One entry at the top of the submissions.

    name     as it is shown
    path     the file or folder, or the zip that holds it
    members  positions of its files in that zip's table of contents; None: it is `path` itself
    skip     leading folders of the members' names that do not belong to it
    """

    name: str
    path: Path
    members: tuple[int, ...] | None = None
    skip: int = 0


@dataclass(frozen=True)
class Submission:
    """One student's entries, not yet read.  details: the further columns of the roster.  notes: so far."""

    student: str
    details: dict[str, str] = field(default_factory=dict)
    files: tuple[Entry, ...] = ()
    notes: tuple[str, ...] = ()

    def read(self) -> Work:
        """Read all of it within the limits above.  Raises nothing: what is wrong becomes a note."""
        reading = _Reading()
        for entry in self.files:
            reading.add(entry)
        return reading.work(self)


def find_submissions(path: Path, roster: Path | None = None) -> list[Submission]:
    """The submissions in a folder or a .zip, or the one that an .ipynb is, sorted by student.

    Every .ipynb, .zip and folder at the top is one student's, called by its name unless the roster, a CSV with
    the columns `submission` and `student`, calls it otherwise; the roster's students without one come along.
    Raises ValueError when there are no submissions, or the roster cannot be used.
    """
    entries = _entries(path)
    if not entries:
        raise ValueError(f"{path} holds no submissions; expected .ipynb files, .zip files or folders in it")
    found = _name(*(_match(entries, _read_roster(roster), roster) if roster else ([], entries)))
    return sorted(found, key=lambda submission: (submission.student.casefold(), submission.student))


def slug(student: str) -> str:
    """A folder name for a student: at most 60 of a-z, 0-9 and "-", valid everywhere, another for every name.

    A name that is no such folder name, or could be taken for one made here, gets 8 digits of its SHA-256.
    """
    plain = unicodedata.normalize("NFKD", student).encode("ascii", "ignore").decode().lower()
    readable = re.sub(r"[^a-z0-9]+", "-", plain)[:51].strip("-")
    if readable and readable == student and readable not in _RESERVED and not re.search(r"(^|-)[0-9a-f]{8}$", readable):
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
            return [Entry(_shown(n), place / n) for n in sorted(os.listdir(place)) if _is_entry(n, place / n)]
        if suffix == ".zip":
            return _entries_of_zip(place)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    if suffix != ".ipynb":
        raise ValueError(f"{wanted}, got {path}")
    return [Entry(_shown(path.name), place)]


def _is_entry(name: str, path: Path) -> bool:
    return not _hidden(name) and (bool(_SUFFIX.search(name)) or os.path.isdir(path))


def _entries_of_zip(path: Path) -> list[Entry]:
    try:
        with open(path, "rb") as file, ZipFile(_Careful(file)) as archive:
            members = [(_split(m.filename), i, _is_folder(m)) for i, m in enumerate(archive.infolist())]
    except OSError:
        raise
    except Exception as error:  # zipfile fails in many ways on a damaged file
        raise ValueError(f"{path} cannot be read as a zip: {error}") from None
    members = [member for member in members if member[0] and not _hidden(member[0][0])]
    tops = {parts[0] for parts, *_ in members}
    skip = 0
    if len(tops) == 1 and tops != {".."} and all(len(parts) > 1 or folder for parts, _, folder in members):
        skip = 1  # nothing but one folder
        members = [(parts[1:], i, folder) for parts, i, folder in members if len(parts) > 1 and not _hidden(parts[1])]
    groups: dict[tuple, list[int]] = defaultdict(list)
    for parts, i, folder in members:
        if folder or len(parts) > 1:
            groups[parts[0],].append(i)
        elif _SUFFIX.search(parts[0]):
            groups[parts[0], i].append(i)  # each file for itself: a zip can hold two of the same name
    return [Entry(_shown(key[0]), path, tuple(groups[key]), skip) for key in sorted(groups)]


def _hidden(name: str, but: str = "") -> bool:
    return name == "__MACOSX" or (name.startswith(".") and name not in ("..", but))  # .. shall be told, not ignored


def _split(name: str) -> tuple[str, ...]:
    """The folders and the name of a zip's member, however they are separated; of too many, not all."""
    parts = tuple(part for part in re.split(r"[/\\]", name) if part not in ("", "."))
    return parts if len(parts) <= FOLDERS + 3 else (*parts[: FOLDERS + 3], "\u2026", parts[-1])


def _is_folder(member: ZipInfo) -> bool:
    return member.filename.endswith(("/", "\\"))


def _shown(name: str) -> str:
    """A name as it can be shown on one line, and cannot be mistaken for another by its control characters."""
    name = unicodedata.normalize("NFC", _cut(name, 4 * NAME))  # takes quadratic time where accents are piled up
    return _cut(_UNSEEMLY.sub("\ufffd", name), NAME)


def _path(parts: Sequence[str]) -> str:
    return _cut("/".join(parts), PATH)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 41] + "\u2026" + text[-40:]


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
        lines = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if any(map(str.strip, row))]
    except OSError as error:
        raise ValueError(f"the roster {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"the roster {path} is not text in UTF-8; save it as CSV UTF-8") from None
    except csv.Error as error:
        raise ValueError(f"the roster {path} is not CSV: {error}") from None
    header = [c.lower() if c.lower() in ("submission", "student") else c for c in lines[0][1]] if lines else []
    if not {"submission", "student"} <= set(header) or any(n > 1 for c, n in Counter(header).items() if c):
        got = ", ".join(header) or "nothing"
        raise ValueError(f"the roster {path}: expected the columns submission and student, none twice; got {got}")
    rows = []
    for number, cells in lines[1:]:
        if any(cells[len(header) :]):
            raise ValueError(f"the roster {path}, line {number}: expected {len(header)} cells, got {len(cells)}")
        row = dict(zip(header, cells + [""] * len(header), strict=False))
        row.pop("", None)
        submission, student = _shown(row.pop("submission")), _shown(row.pop("student"))
        if not student:
            raise ValueError(f"the roster {path}, line {number}: expected a student, got an empty cell")
        rows.append(_Row(number, submission, student, {clean(k): clean(v) for k, v in row.items()}))
    return rows


def _match(entries: list[Entry], rows: list[_Row], path: Path) -> tuple[list[Submission], list[Entry]]:
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
            raise ValueError(f"{where}: {row.submission} can be {' or '.join(entry.name for entry in meant)}")
        if row.submission and (row.submission in seen or owner.keys() & set(meant)):
            raise ValueError(f"{where}: the submission {row.submission} stands here for the second time")
        if listed.setdefault(row.student, row).details != row.details:
            raise ValueError(f"{where}: {row.student} stood before with other details; two students need two names")
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
    """All submissions: those of the roster, and one for every other entry, no two of which share name or slug."""

    def key(name: str) -> str:
        return unicodedata.normalize("NFC", name.casefold())

    found = list(listed)
    names = Counter(key(name) for name in [s.student for s in listed] + [_stem(e.name) for e in entries])
    taken = {slug(submission.student) for submission in listed}
    for entry in entries:
        short = _stem(entry.name)
        full = entry.name if entry.name.strip(" .") else short
        choices = chain([full] if names[key(short)] > 1 else [short, full], (f"{full} ({n})" for n in count(2)))
        student = next(name for name in choices if slug(name) not in taken)
        taken.add(slug(student))
        notes = [f"{entry.name} is not in the roster."] if listed else []
        if student != short or names[key(short)] > 1:
            notes.append(f"Another submission is called {short}, too; this one is {student}.")
        found.append(Submission(student, {}, (entry,), tuple(notes)))
    return found


# ----------------------------------------------------------------------------------------------- reading


class _Refused(Exception):
    """Why a file was not read: the end of a sentence that begins with its name."""


class _Enough(Exception):
    """Why nothing more of a submission is read: a sentence."""


@dataclass(frozen=True)
class _File:
    """A file that may be read: the names that lead to it, how to open it, its size where the disk tells."""

    parts: tuple[str, ...]
    open: Callable[[], Any]
    size: int | None = None

    @property
    def shown(self) -> str:
        return _path(self.parts)

    @property
    def topic(self) -> str | None:
        """Of the quiz that it holds the answers to."""
        match = _ANSWERS.fullmatch(self.parts[-1])
        return match[1] if match else None

    def ends(self, suffix: str) -> bool:
        return self.parts[-1].lower().endswith(suffix) and ".course" not in self.parts


class _Reading:
    """One submission while it is read.  The walks yield files to read, and sentences on what cannot be."""

    def __init__(self):
        self.left, self.files = BYTES, 0
        self.seen: list[tuple[str, ...]] = []  # notebooks, readable or not
        self.sources: dict[int, list[str | None]] = {}  # by position in `seen`
        self.answers: dict[str, dict] = {}
        self.read: list[str] = []
        self.notes: list[str] = []

    def add(self, entry: Entry) -> None:
        """Read the notebooks and answers of an entry."""
        before = len(self.seen)
        try:
            for found in self.walk(entry):
                self.take_in(found)
        except _Enough as enough:
            self.notes.append(str(enough))
        except Exception as error:  # nothing known does this; if it happens, it shall cost this student alone
            self.notes.append(f"{entry.name} was not read to its end: {type(error).__name__}.")
        if before == len(self.seen):
            self.notes.append(f"No notebook was found in {entry.name}.")

    def take_in(self, found: _File | str) -> None:
        if isinstance(found, str):
            self.notes.append(found)
            return
        try:
            if found.topic:
                self.read_answers(found, found.topic)
            else:
                self.read_notebook(found)
            self.read.append(found.shown)
        except (_Refused, ValueError) as error:
            self.notes.append(f"{found.shown} {error}.")

    def work(self, submission: Submission) -> Work:
        """What was read, as a record."""
        levels = zip(*(parts[:-1] for parts in self.seen), strict=False)
        folders = sum(1 for _ in takewhile(lambda names: len(set(names)) == 1, levels))  # that all have in common
        cells = []
        for position, sources in self.sources.items():
            notebook = "" if len(self.seen) == 1 else _path(self.seen[position][folders:]) + ", "
            named = ((f"{notebook}cell {n}", source) for n, source in enumerate(sources, 1))
            cells += [Cell(name=name, source=source) for name, source in named if source is not None]
        notes = [*submission.notes, *self.notes]
        if len(notes) > NOTES:
            notes = [*notes[: NOTES - 1], f"There are {len(notes) - NOTES + 1:,} further notes."]
        who = {"student": submission.student, "details": submission.details}
        return Work(**who, files=tuple(self.read), cells=tuple(cells), answers=self.answers, notes=tuple(notes))

    # ------------------------------------------------------------------------------------------- files

    def read_notebook(self, file: _File) -> None:
        self.seen.append(file.parts)
        sources = read_notebook(self.bytes_of(file, FILE_BYTES))
        everything = [*self.sources.values(), sources]
        if sum(map(len, everything)) > CELLS:
            raise _Refused(f"was not read: all notebooks together have more than {CELLS:,} cells")
        if sum(len(source.encode("utf-8")) for each in everything for source in each if source) > CODE_BYTES:
            raise _Refused(f"was not read: all notebooks together hold more than {CODE_BYTES:,} bytes of code")
        self.sources[len(self.seen) - 1] = sources
        if not any(sources):
            self.notes.append(f"{file.shown} holds no code.")

    def read_answers(self, file: _File, topic: str) -> None:
        content = read_json(self.bytes_of(file, ANSWERS_BYTES))
        if not isinstance(content, dict):
            raise _Refused(f"holds no quiz answers: expected a JSON object, got {type(content).__name__}")
        answers = _plain(content)
        if topic in self.answers:
            self.notes.append(f"There are several quiz-{topic}.json; {file.shown}, the last one, counts.")
        self.answers[topic] = answers

    def bytes_of(self, file: _File, most: int) -> bytes:
        """All of a file, counted as it comes, whatever its zip says of its size."""
        self.files += 1
        if self.files > FILES:
            raise _Enough(f"More than {FILES} files were handed in; {file.shown} and what follows were not read.")
        if file.size is not None and file.size > most:
            raise _Refused(f"is {_megabytes(file.size)}; at most {_megabytes(most)} are read")
        data = BytesIO()
        try:
            with file.open() as stream:
                while chunk := stream.read(CHUNK):
                    self.left -= data.write(chunk)
                    if self.left < 0:
                        least = f"More than {_megabytes(BYTES)} were handed in, unpacked"
                        raise _Enough(f"{least}; {file.shown} and what follows were not read.")
                    if data.tell() > most:
                        raise _Refused(f"holds more than {_megabytes(most)}, the most that is read")
        except (_Refused, _Enough):
            raise
        except Exception as error:  # zipfile and zlib fail in many ways on what a stranger made
            on_disk = isinstance(error, OSError) and file.size is not None
            raise _Refused(f"cannot be read: {error.strerror}" if on_disk else "is damaged in its zip") from None
        return data.getvalue()

    # ------------------------------------------------------------------------------------------- walks

    def walk(self, entry: Entry) -> Iterator[_File | str]:
        """All files of an entry that may be read, in the order of their names."""
        if entry.members is None:
            yield from self.walk_disk(entry.path, (entry.name,))
        else:
            whole = _File((entry.name,), partial(_open, entry.path))
            yield from self.walk_zip(whole, (), 1, entry.members, entry.skip)

    def walk_disk(self, path: Path, parts: tuple[str, ...]) -> Iterator[_File | str]:
        shown = _path(parts)
        try:
            status = os.lstat(path)
            names = sorted(os.listdir(path)) if stat.S_ISDIR(status.st_mode) else []
        except OSError as error:
            yield f"{shown} cannot be read: {error.strerror}."
            return
        if stat.S_ISLNK(status.st_mode):
            yield f"{shown} is a symbolic link, which is not followed."
        elif stat.S_ISREG(status.st_mode):
            yield from self.sift(_File(parts, partial(_open, path), status.st_size), 0)
        elif not stat.S_ISDIR(status.st_mode):
            yield f"{shown} is neither a file nor a folder."
        elif len(parts) > FOLDERS + 1:
            yield f"{shown} lies more than {FOLDERS} folders deep and was not read."
        else:
            for name in names:
                if not _hidden(name, but=".course"):
                    yield from self.walk_disk(path / name, (*parts, _shown(name)))

    def walk_zip(
        self, file: _File, base: tuple[str, ...], level: int, members: tuple[int, ...] | None = None, skip: int = 0
    ) -> Iterator[_File | str]:
        """The members of a zip (all unless chosen), which lies in `level` - 1 other zips; base: their folder."""
        try:
            stream = file.open() if level == 1 else BytesIO(self.bytes_of(file, BYTES))
        except (OSError, _Refused) as error:
            yield f"{file.shown} {error if isinstance(error, _Refused) else f'cannot be read: {error.strerror}'}."
            return
        with stream:
            try:
                archive = ZipFile(_Careful(stream))
                listed = archive.infolist()
                chosen = listed if members is None else [listed[position] for position in members]
            except Exception as error:  # as above
                yield f"{file.shown} {error if isinstance(error, _Refused) else 'is not a zip that can be read'}."
                return
            named = [(_split(member.filename)[skip:], member) for member in chosen if not _is_folder(member)]
            for names, member in sorted(named, key=lambda pair: pair[0]):
                if names and not any(_hidden(name, but=".course") for name in names):
                    yield from self.walk_member(archive, member, (*base, *map(_shown, names)), level)

    def walk_member(
        self, archive: ZipFile, member: ZipInfo, parts: tuple[str, ...], level: int
    ) -> Iterator[_File | str]:
        shown = _path(parts)
        if ".." in parts:
            yield f"{shown} has a name that leads out of its folder and was not read."
        elif stat.S_ISLNK(member.external_attr >> 16):
            yield f"{shown} is a symbolic link, which is not followed."
        else:
            yield from self.sift(_File(parts, partial(_open_member, archive, member)), level)

    def sift(self, file: _File, level: int) -> Iterator[_File | str]:
        """The file if it is a notebook or quiz answers, what is in it if it is a zip, and nothing else."""
        if not (file.topic or file.ends(".ipynb") or file.ends(".zip")):
            return
        if len(file.parts) > FOLDERS + 2:
            yield f"{file.shown} lies more than {FOLDERS} folders deep and was not read."
        elif not file.ends(".zip"):
            yield file
        elif level == ZIPS:
            yield f"{file.shown} is a zip within {ZIPS} others and was not read."
        else:
            yield from self.walk_zip(file, file.parts, level + 1)


def _open(path: Path) -> BufferedIOBase:
    """A regular file for reading, never through a link, never waiting for a pipe."""
    flags = os.O_RDONLY
    for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"):  # not every system has them
        flags |= getattr(os, name, 0)
    handle = os.open(path, flags)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise _Refused("is not a regular file")
    return os.fdopen(handle, "rb")


def _open_member(archive: ZipFile, member: ZipInfo) -> Any:
    if member.flag_bits & 1:
        raise _Refused("is encrypted")
    if member.compress_type not in (ZIP_STORED, ZIP_DEFLATED):  # zipfile unpacks the others without a limit
        raise _Refused("is compressed in an unusual way; plain zips are read")
    return archive.open(member)


class _Careful:
    """A file for ZipFile, which reads the table of contents, be it endless, in one piece."""

    def __init__(self, file: BufferedIOBase):
        self.file = file

    def read(self, size: int = -1) -> bytes:
        if size > LISTING_BYTES:
            raise _Refused("lists more files than are read")
        return self.file.read(size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


def _plain(value: Any) -> Any:
    """JSON that can be written again, without lone surrogates and infinite numbers."""
    if isinstance(value, dict):
        return {clean(name): _plain(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_plain(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return clean(value) if isinstance(value, str) else value


def _megabytes(size: int) -> str:
    return f"{math.ceil(size / 1e5) / 10:,g} MB"
