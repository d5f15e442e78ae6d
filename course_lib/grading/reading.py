"""One student's files, read as data within limits: notebooks and quiz answers, in folders and zips.

Nothing is unpacked to disk, no link is followed, only regular files are opened, and every size is
measured while reading.  Whatever is wrong with a file becomes a note, never an exception.
"""

import math
import os
import re
import stat
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from io import BufferedIOBase, BytesIO
from itertools import takewhile
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile, ZipInfo

from course_lib.grading.notebook import (
    MAX_CELLS,
    MAX_CODE_BYTES,
    clean,
    read_json,
    read_notebook,
)
from course_lib.grading.records import Cell, Work

MAX_NOTEBOOK_BYTES = 20_000_000
MAX_QUIZ_BYTES = 1_000_000  # one file of quiz answers
# Limits of one submission; its files are notebooks, quiz answers and inner zips.
MAX_SUBMISSION_BYTES = 100_000_000  # after unpacking
MAX_FILES = 100
MAX_NOTES = 50
MAX_FOLDER_DEPTH = 10  # below a student's own folder
MAX_ZIP_DEPTH = 2
MAX_LISTING_BYTES = 8_000_000  # a zip's table of contents, which takes ten times that in memory
MAX_NAME_CHARS = 120
MAX_PATH_CHARS = 400
CHUNK_BYTES = 2**16
_QUIZ_FILE = re.compile(r"quiz-([A-Za-z0-9_]{1,60})\.json")
# Control characters, line separators, changes of the writing direction, surrogates.
_UNPRINTABLE = re.compile(
    "[\0-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff\ufffe\uffff]"
)


@dataclass(frozen=True)
class Entry:
    """One entry at the top of the submissions.

    name     as it is shown
    path     the file or folder, or the zip that holds it
    members  positions of its files in that zip's table of contents, or None if it is `path` itself
    skip     number of leading folders in the members' names that do not belong to it
    """

    name: str
    path: Path
    members: tuple[int, ...] | None = None
    skip: int = 0


def is_hidden(name: str, but: str = "") -> bool:
    """Tell whether a file or folder belongs to the system, not the student; `but` is exempt."""
    # A member called ".." is not hidden, because it must be reported.
    return name == "__MACOSX" or (name.startswith(".") and name not in ("..", but))


def split_name(name: str) -> tuple[str, ...]:
    """Split the name of a zip's member at either kind of slash; very long paths are abridged."""
    parts = tuple(part for part in re.split(r"[/\\]", name) if part not in ("", "."))
    most = MAX_FOLDER_DEPTH + 3
    return parts if len(parts) <= most else (*parts[:most], "\u2026", parts[-1])


def is_folder(member: ZipInfo) -> bool:
    """Tell whether a zip's member is a folder, on whatever system the zip was made."""
    return member.filename.endswith(("/", "\\"))


def shown_name(name: str) -> str:
    """Return a name that fits on one line and whose control characters cannot disguise it."""
    # The text is shortened first: normalizing takes quadratic time where accents are piled up.
    name = unicodedata.normalize("NFC", _shorten(name, 4 * MAX_NAME_CHARS))
    return _shorten(_UNPRINTABLE.sub("\ufffd", name), MAX_NAME_CHARS)


def _shown_path(parts: Sequence[str]) -> str:
    return _shorten("/".join(parts), MAX_PATH_CHARS)


def _shorten(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 41] + "\u2026" + text[-40:]


class _UnreadableFile(Exception):
    """Why a file was not read: the end of a sentence that begins with its name."""


class _LimitReached(Exception):
    """Why nothing more of a submission is read: a whole sentence."""


@dataclass(frozen=True)
class _File:
    """A file that may be read.

    parts  the names that lead to it
    open   opens it
    size   in bytes where the disk tells, else None
    """

    parts: tuple[str, ...]
    open: Callable[[], Any]
    size: int | None = None

    @property
    def shown(self) -> str:
        return _shown_path(self.parts)

    @property
    def topic(self) -> str | None:
        """The topic of the quiz whose answers the file holds, if it does."""
        match = _QUIZ_FILE.fullmatch(self.parts[-1])
        return match[1] if match else None

    def ends(self, suffix: str) -> bool:
        return self.parts[-1].lower().endswith(suffix) and ".course" not in self.parts


class SubmissionReader:
    """Reads one submission: `add` its entries, then take its `work`.

    The `walk` methods yield files to read, and sentences on what cannot be read.
    """

    def __init__(self):
        self.bytes_left = MAX_SUBMISSION_BYTES
        self.files = 0
        self.seen: list[tuple[str, ...]] = []  # paths of notebooks, readable or not
        self.sources: dict[int, list[str | None]] = {}  # by position in `seen`
        self.answers: dict[str, dict] = {}
        self.read: list[str] = []
        self.notes: list[str] = []

    def add(self, entry: Entry) -> None:
        """Read the notebooks and answers of an entry."""
        before = len(self.seen)
        try:
            for found in self.walk(entry):
                if isinstance(found, str):
                    self.notes.append(found)
                else:
                    self.read_file(found)
        except _LimitReached as limit:
            self.notes.append(str(limit))
        # Nothing known raises anything else; if something does, it must affect only this student.
        except Exception as error:
            self.notes.append(f"{entry.name} was not read to its end: {type(error).__name__}.")
        if before == len(self.seen):
            self.notes.append(f"No notebook was found in {entry.name}.")

    def work(self, student: str, details: dict[str, str], notes: Sequence[str]) -> Work:
        """Return what was read as a record, with the roster's `details`, `notes` coming first."""
        # Leading folders that all notebooks share are left out of the cells' labels.
        levels = zip(*(parts[:-1] for parts in self.seen), strict=False)
        shared = sum(1 for _ in takewhile(lambda names: len(set(names)) == 1, levels))
        cells = []
        for position, sources in self.sources.items():
            prefix = ""
            if len(self.seen) > 1:
                prefix = _shown_path(self.seen[position][shared:]) + ", "
            for n, source in enumerate(sources, 1):
                if source is not None:
                    cells.append(Cell(name=f"{prefix}cell {n}", source=source))
        notes = [*notes, *self.notes]
        if len(notes) > MAX_NOTES:
            further = len(notes) - MAX_NOTES + 1
            notes = [*notes[: MAX_NOTES - 1], f"There are {further:,} further notes."]
        return Work(
            student=student,
            details=details,
            files=tuple(self.read),
            cells=tuple(cells),
            answers=self.answers,
            notes=tuple(notes),
        )

    # ---------------------------------------------------------------------------------------- files

    def read_file(self, file: _File) -> None:
        """Read a notebook or quiz answers; what cannot be read becomes a note."""
        try:
            if file.topic:
                self.read_answers(file, file.topic)
            else:
                self.read_notebook(file)
            self.read.append(file.shown)
        except (_UnreadableFile, ValueError) as error:
            self.notes.append(f"{file.shown} {error}.")

    def read_notebook(self, file: _File) -> None:
        self.seen.append(file.parts)
        sources = read_notebook(self.read_bytes(file, MAX_NOTEBOOK_BYTES))
        notebooks = [*self.sources.values(), sources]
        if sum(map(len, notebooks)) > MAX_CELLS:
            raise _UnreadableFile(
                f"was not read: all notebooks together have more than {MAX_CELLS:,} cells"
            )
        code = [source for cells in notebooks for source in cells if source]
        if sum(len(source.encode("utf-8")) for source in code) > MAX_CODE_BYTES:
            raise _UnreadableFile(
                f"was not read: all notebooks together hold more than {MAX_CODE_BYTES:,} bytes of"
                " code"
            )
        self.sources[len(self.seen) - 1] = sources
        if not any(sources):
            self.notes.append(f"{file.shown} holds no code.")

    def read_answers(self, file: _File, topic: str) -> None:
        content = read_json(self.read_bytes(file, MAX_QUIZ_BYTES))
        if not isinstance(content, dict):
            raise _UnreadableFile(
                f"holds no quiz answers: expected a JSON object, got {type(content).__name__}"
            )
        answers = _storable(content)
        if topic in self.answers:
            self.notes.append(
                f"There are several quiz-{topic}.json; {file.shown}, the last one, counts."
            )
        self.answers[topic] = answers

    def read_bytes(self, file: _File, most: int) -> bytes:
        """Read all of a file, counting what arrives, whatever its zip says about its size."""
        self.files += 1
        if self.files > MAX_FILES:
            raise _LimitReached(
                f"More than {MAX_FILES} files were handed in; {file.shown} and what follows were"
                " not read."
            )
        if file.size is not None and file.size > most:
            raise _UnreadableFile(
                f"is {_megabytes(file.size)}; at most {_megabytes(most)} are read"
            )
        data = BytesIO()
        try:
            with file.open() as stream:
                while chunk := stream.read(CHUNK_BYTES):
                    self.bytes_left -= data.write(chunk)
                    if self.bytes_left < 0:
                        raise _LimitReached(
                            f"More than {_megabytes(MAX_SUBMISSION_BYTES)} were handed in,"
                            f" unpacked; {file.shown} and what follows were not read."
                        )
                    if data.tell() > most:
                        raise _UnreadableFile(
                            f"holds more than {_megabytes(most)}, the most that is read"
                        )
        except (_UnreadableFile, _LimitReached):
            raise
        except Exception as error:  # zipfile and zlib fail in many ways on untrusted data
            on_disk = isinstance(error, OSError) and file.size is not None
            raise _UnreadableFile(
                f"cannot be read: {error.strerror}" if on_disk else "is damaged in its zip"
            ) from None
        return data.getvalue()

    # ---------------------------------------------------------------------------------------- walks

    def walk(self, entry: Entry) -> Iterator[_File | str]:
        """Yield all files of an entry that may be read, in the order of their names."""
        if entry.members is None:
            yield from self.walk_disk(entry.path, (entry.name,))
        else:
            whole = _File((entry.name,), partial(_open, entry.path))
            yield from self.walk_zip(whole, (), 1, entry.members, entry.skip)

    def walk_disk(self, path: Path, parts: tuple[str, ...]) -> Iterator[_File | str]:
        shown = _shown_path(parts)
        try:
            status = os.lstat(path)
            names = sorted(os.listdir(path)) if stat.S_ISDIR(status.st_mode) else []
        except OSError as error:
            yield f"{shown} cannot be read: {error.strerror}."
            return
        if stat.S_ISLNK(status.st_mode):
            yield f"{shown} is a symbolic link, which is not followed."
        elif stat.S_ISREG(status.st_mode):
            yield from self.select(_File(parts, partial(_open, path), status.st_size), 0)
        elif not stat.S_ISDIR(status.st_mode):
            yield f"{shown} is neither a file nor a folder."
        elif len(parts) > MAX_FOLDER_DEPTH + 1:
            yield f"{shown} is more than {MAX_FOLDER_DEPTH} folders deep and was not read."
        else:
            for name in names:
                if not is_hidden(name, but=".course"):
                    yield from self.walk_disk(path / name, (*parts, shown_name(name)))

    def walk_zip(
        self,
        file: _File,
        base: tuple[str, ...],
        level: int,
        members: tuple[int, ...] | None = None,
        skip: int = 0,
    ) -> Iterator[_File | str]:
        """Yield the readable members of a zip.

        base     the folder that they are shown in
        level    1 for a zip on disk, 2 for a zip within it, ...
        members  positions of those to read; all if None
        skip     number of leading folders to leave out of their names
        """
        try:
            if level == 1:
                stream = file.open()
            else:
                stream = BytesIO(self.read_bytes(file, MAX_SUBMISSION_BYTES))
        except _UnreadableFile as error:
            yield f"{file.shown} {error}."
            return
        except OSError as error:
            yield f"{file.shown} cannot be read: {error.strerror}."
            return
        with stream:
            try:
                archive = ZipFile(ListingGuard(stream))
                listed = archive.infolist()
                chosen = listed if members is None else [listed[position] for position in members]
            except _UnreadableFile as error:
                yield f"{file.shown} {error}."
                return
            except Exception:  # zipfile fails in many ways on untrusted data
                yield f"{file.shown} is not a zip that can be read."
                return
            files = [member for member in chosen if not is_folder(member)]
            named = [(split_name(member.filename)[skip:], member) for member in files]
            for names, member in sorted(named, key=lambda pair: pair[0]):
                if names and not any(is_hidden(name, but=".course") for name in names):
                    parts = (*base, *map(shown_name, names))
                    yield from self.walk_member(archive, member, parts, level)

    def walk_member(
        self, archive: ZipFile, member: ZipInfo, parts: tuple[str, ...], level: int
    ) -> Iterator[_File | str]:
        shown = _shown_path(parts)
        if ".." in parts:
            yield f"{shown} has a name that leads out of its folder and was not read."
        elif stat.S_ISLNK(member.external_attr >> 16):
            yield f"{shown} is a symbolic link, which is not followed."
        else:
            yield from self.select(_File(parts, partial(_open_member, archive, member)), level)

    def select(self, file: _File, level: int) -> Iterator[_File | str]:
        """Yield a notebook or quiz answers as they are, a zip's contents, and nothing else."""
        if not (file.topic or file.ends(".ipynb") or file.ends(".zip")):
            return
        if len(file.parts) > MAX_FOLDER_DEPTH + 2:
            yield f"{file.shown} is more than {MAX_FOLDER_DEPTH} folders deep and was not read."
        elif not file.ends(".zip"):
            yield file
        elif level == MAX_ZIP_DEPTH:
            yield f"{file.shown} is a zip within {MAX_ZIP_DEPTH} others and was not read."
        else:
            yield from self.walk_zip(file, file.parts, level + 1)


def _open(path: Path) -> BufferedIOBase:
    """Open a regular file for reading, without following a link or waiting for a pipe."""
    flags = os.O_RDONLY
    for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"):  # not every system has them
        flags |= getattr(os, name, 0)
    handle = os.open(path, flags)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise _UnreadableFile("is not a regular file")
    return os.fdopen(handle, "rb")


def _open_member(archive: ZipFile, member: ZipInfo) -> Any:
    if member.flag_bits & 1:
        raise _UnreadableFile("is encrypted")
    # zipfile unpacks the other methods without a limit.
    if member.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
        raise _UnreadableFile("is compressed in an unusual way; plain zips are read")
    return archive.open(member)


class ListingGuard:
    """A file for ZipFile that refuses to read an oversized table of contents in one piece."""

    def __init__(self, file: BufferedIOBase):
        self.file = file

    def read(self, size: int = -1) -> bytes:
        if size > MAX_LISTING_BYTES:
            raise _UnreadableFile("lists more files than are read")
        return self.file.read(size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


def _storable(value: Any) -> Any:
    """Return JSON that can be written again: no lone surrogates, no infinite numbers."""
    if isinstance(value, dict):
        return {clean(name): _storable(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_storable(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return clean(value) if isinstance(value, str) else value


def _megabytes(size: int) -> str:
    return f"{math.ceil(size / 1e5) / 10:,g} MB"
