"""One student's files, read as data: notebooks and quiz answers, in folders and zips, within
limits.

Nothing is unpacked to disk, no link is followed, nothing but a regular file is opened, and every
size is measured while reading.  Whatever is wrong with a file is a note, never an exception.
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

from course_lib.grading.notebook import CELLS, CODE_BYTES, clean, read_json, read_notebook
from course_lib.grading.records import Cell, Work

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
_ANSWERS = re.compile(r"quiz-([A-Za-z0-9_]{1,60})\.json")
# control characters, line separators, changes of the writing direction, surrogates
_UNSEEMLY = re.compile(
    "[\0-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff\ufffe\uffff]"
)


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


def is_hidden(name: str, but: str = "") -> bool:
    """Whether a file or folder of this name, unless it is `but`, is the system's and not a
    student's.
    """
    # .. shall be told, not ignored
    return name == "__MACOSX" or (name.startswith(".") and name not in ("..", but))


def split_name(name: str) -> tuple[str, ...]:
    """The folders and the name of a zip's member, however they are separated; of too many, not all."""
    parts = tuple(part for part in re.split(r"[/\\]", name) if part not in ("", "."))
    return parts if len(parts) <= FOLDERS + 3 else (*parts[: FOLDERS + 3], "\u2026", parts[-1])


def is_folder(member: ZipInfo) -> bool:
    """Whether a zip's member stands for a folder, on whatever system the zip was made."""
    return member.filename.endswith(("/", "\\"))


def shown_name(name: str) -> str:
    """A name as it can be shown on one line, and cannot be mistaken for another by its control
    characters.
    """
    # takes quadratic time where accents are piled up
    name = unicodedata.normalize("NFC", _cut(name, 4 * NAME))
    return _cut(_UNSEEMLY.sub("\ufffd", name), NAME)


def _path(parts: Sequence[str]) -> str:
    return _cut("/".join(parts), PATH)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 41] + "\u2026" + text[-40:]


class _Refused(Exception):
    """Why a file was not read: the end of a sentence that begins with its name."""


class _Enough(Exception):
    """Why nothing more of a submission is read: a sentence."""


@dataclass(frozen=True)
class _File:
    """A file that may be read: the names that lead to it, how to open it, its size where the disk
    tells.
    """

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


class Reading:
    """One submission while it is read: `add` its entries, then take its `work`.

    The walks yield files to read, and sentences on what cannot be.
    """

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
        # nothing known does this; if it happens, it shall cost this student alone
        except Exception as error:
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

    def work(self, student: str, details: dict[str, str], notes: Sequence[str]) -> Work:
        """What was read, as a record.  details: of the roster.  notes: to begin with."""
        levels = zip(*(parts[:-1] for parts in self.seen), strict=False)
        # that all have in common
        folders = sum(1 for _ in takewhile(lambda names: len(set(names)) == 1, levels))
        cells = []
        for position, sources in self.sources.items():
            notebook = "" if len(self.seen) == 1 else _path(self.seen[position][folders:]) + ", "
            named = ((f"{notebook}cell {n}", source) for n, source in enumerate(sources, 1))
            cells += [
                Cell(name=name, source=source) for name, source in named if source is not None
            ]
        notes = [*notes, *self.notes]
        if len(notes) > NOTES:
            notes = [*notes[: NOTES - 1], f"There are {len(notes) - NOTES + 1:,} further notes."]
        handed_in = {"files": tuple(self.read), "cells": tuple(cells), "answers": self.answers}
        return Work(student=student, details=details, **handed_in, notes=tuple(notes))

    # ------------------------------------------------------------------------------------------- files

    def read_notebook(self, file: _File) -> None:
        self.seen.append(file.parts)
        sources = read_notebook(self.bytes_of(file, FILE_BYTES))
        everything = [*self.sources.values(), sources]
        if sum(map(len, everything)) > CELLS:
            raise _Refused(f"was not read: all notebooks together have more than {CELLS:,} cells")
        if (
            sum(len(source.encode("utf-8")) for each in everything for source in each if source)
            > CODE_BYTES
        ):
            raise _Refused(
                f"was not read: all notebooks together hold more than {CODE_BYTES:,} bytes of code"
            )
        self.sources[len(self.seen) - 1] = sources
        if not any(sources):
            self.notes.append(f"{file.shown} holds no code.")

    def read_answers(self, file: _File, topic: str) -> None:
        content = read_json(self.bytes_of(file, ANSWERS_BYTES))
        if not isinstance(content, dict):
            raise _Refused(
                f"holds no quiz answers: expected a JSON object, got {type(content).__name__}"
            )
        answers = _plain(content)
        if topic in self.answers:
            self.notes.append(
                f"There are several quiz-{topic}.json; {file.shown}, the last one, counts."
            )
        self.answers[topic] = answers

    def bytes_of(self, file: _File, most: int) -> bytes:
        """All of a file, counted as it comes, whatever its zip says of its size."""
        self.files += 1
        if self.files > FILES:
            raise _Enough(
                f"More than {FILES} files were handed in; {file.shown} and what follows were not"
                " read."
            )
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
            raise _Refused(
                f"cannot be read: {error.strerror}" if on_disk else "is damaged in its zip"
            ) from None
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
        """The members of a zip (all unless chosen), which lies in `level` - 1 other zips; base:
        their folder.
        """
        try:
            stream = file.open() if level == 1 else BytesIO(self.bytes_of(file, BYTES))
        except (OSError, _Refused) as error:
            yield (
                f"{file.shown}"
                f" {error if isinstance(error, _Refused) else f'cannot be read: {error.strerror}'}."
            )
            return
        with stream:
            try:
                archive = ZipFile(Careful(stream))
                listed = archive.infolist()
                chosen = listed if members is None else [listed[position] for position in members]
            except Exception as error:  # as above
                yield (
                    f"{file.shown}"
                    f" {error if isinstance(error, _Refused) else 'is not a zip that can be read'}."
                )
                return
            named = [
                (split_name(member.filename)[skip:], member)
                for member in chosen
                if not is_folder(member)
            ]
            for names, member in sorted(named, key=lambda pair: pair[0]):
                if names and not any(is_hidden(name, but=".course") for name in names):
                    yield from self.walk_member(
                        archive, member, (*base, *map(shown_name, names)), level
                    )

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
        """The file if it is a notebook or quiz answers, what is in it if it is a zip, and nothing
        else.
        """
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
    # zipfile unpacks the others without a limit
    if member.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
        raise _Refused("is compressed in an unusual way; plain zips are read")
    return archive.open(member)


class Careful:
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
