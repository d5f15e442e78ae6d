"""Links in a chapter's text: contents, previous and next, and wherever another place is named.

The source names a place in plain words, and the build makes the link:

    section 8                  the heading "## 8 ..." of this notebook
    section 8 of chapter 04    that of another one
    chapter 04, 04_vqgan       its notebook
    arXiv 2012.09841           its page
    `papers/vqgan.py`          the file, named from the root or from course_lib/
    `vqgan.hinge`              the exercise

"Section 3.1", with a capital, is the paper's and stays text; so does what stands in headings, code,
mathematics and links.  A place that is not there (yet) stays text, too.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import quote

from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell

from course_lib import paths

__all__ = ["Chapter", "add_links", "anchor", "read_chapter"]

CONTENTS = "## Contents"
_NUMBER = r"\d+(?!\d|\.\d)"  # the paper's sections have dots
_AND = r"(?:,|,?\s+and|,?\s+or|\s+to)\s+"
_PLACE = re.compile(
    rf"""
    \barXiv\s(?P<arxiv>\d{{4}}\.\d{{4,5}})\b
    | \bsections?\s+{_NUMBER}(?:{_AND}{_NUMBER})*(?:\s+of\s+chapter\s+(?P<there>\d\d)\b)?
    | \b[Cc]hapters?\s+\d\d\b(?:{_AND}\d\d\b)*
    | \b(?P<stem>\d\d_[a-z]\w*)\b
    """,
    re.VERBOSE,
)
# What is passed over.  A code span is looked at as a whole: it may be a file or an exercise.
_APART = re.compile(
    r"""
    (?P<fence>^```.*?^```[^\n]*$)
    | (?P<maths>\$\$.*?\$\$ | \$[^$]+\$)
    | `(?P<code>[^`\n]+)`
    | (?P<link>!?\[[^\]]*\]\([^)]*\) | <a\b.*?</a>)
    | (?P<html><code>.*?</code> | </?(?P<tag>[a-z]\w*)[^<>]*>)
    | (?P<heading>^\#{1,6}\s[^\n]*$)
    """,
    re.VERBOSE | re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class Chapter:
    """What can be linked to in a chapter."""

    stem: str  # "04_vqgan"
    title: str  # "04 VQGAN"
    sections: dict[str, str]  # number -> heading
    exercises: dict[str, str]  # id -> heading

    @property
    def file(self) -> str:
        return f"{self.stem}.ipynb"

    @property
    def name(self) -> str:
        """The title, as far as its colon."""
        return self.title.partition(":")[0]


def read_chapter(source: Path) -> Chapter:
    """Read the headings of a chapter's source, a percent script."""
    title = heading = ""
    sections: dict[str, str] = {}
    exercises: dict[str, str] = {}
    is_text = False
    for line in source.read_text(encoding="utf-8").splitlines():
        if re.match(r"# ?%%", line):
            is_text = "[markdown]" in line
        elif is_text and (found := re.match(r"# (#{1,6}) (.+)", line)):
            heading = found[2].strip()
            title = title or heading
            if found[1] == "##" and (number := re.match(r"\d+(?= )", heading)):
                sections[number[0]] = heading
        elif found := re.match(r'@exercise\(["\']([^"\']+)["\']\)', line):
            exercises[found[1]] = heading
    return Chapter(source.stem, title, sections, exercises)


def anchor(heading: str) -> str:
    """Return the fragment by which JupyterLab, Notebook and exported HTML know a heading."""
    return "#" + quote(heading.replace(" ", "-"), safe="/?:;,@!$&'*+=")


def add_links(notebook: NotebookNode, source: Path) -> None:
    """Put the contents, previous and next into a chapter's notebook, and link its text, in place.

    The other chapters are the sources beside `source`.
    """
    chapters = [read_chapter(path) for path in sorted(source.parent.glob("[0-9][0-9]_*.py"))]
    here = read_chapter(source)
    linker = _Linker(here, {chapter.stem: chapter for chapter in chapters})
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = linker.link(cell.source)
    place = [chapter.stem for chapter in chapters].index(here.stem) if here in chapters else 0
    before = chapters[place - 1] if place else None
    after = chapters[place + 1] if place + 1 < len(chapters) else None
    _add_cells(notebook, here, before, after)


def _add_cells(
    notebook: NotebookNode, here: Chapter, before: Chapter | None, after: Chapter | None
) -> None:
    previous = [f"← [{before.name}]({before.file})"] if before else []
    following = [f"[{after.name}]({after.file}) →"] if after else []
    if here.sections:
        entries = []
        for heading in here.sections.values():
            words = heading.replace(" ", "\N{NO-BREAK SPACE}", 1)  # no line ends after the number
            entries.append(f"[{words}]({anchor(heading)})")
        text = f"{CONTENTS}\n\n{' · '.join(entries)}"
        if previous or following:
            text += f"\n\n{' | '.join([*previous, *following])}"
        first = next(
            index
            for index, cell in enumerate(notebook.cells)
            if cell.cell_type == "markdown" and re.search(r"^## \d+ ", cell.source, re.MULTILINE)
        )
        notebook.cells.insert(first, new_markdown_cell(text, id="contents"))
        previous.append(f"[Contents]({anchor(CONTENTS.removeprefix('## '))})")
    if line := " | ".join([*previous, *following]):
        notebook.cells.append(new_markdown_cell(line, id="previous-next"))


class _Linker:
    """Links the text of one chapter."""

    def __init__(self, here: Chapter, chapters: dict[str, Chapter]):
        self.here = here
        self.chapters = {chapter.stem[:2]: chapter for chapter in chapters.values()}
        self.exercises = {
            name: (chapter, heading)
            for chapter in [*chapters.values(), here]
            for name, heading in chapter.exercises.items()
        }

    def link(self, text: str) -> str:
        """Return a cell's text with its links."""
        headings = {found["heading"].lstrip("# ") for found in self._headings(text)}
        depth = end = 0
        linked = []
        for found in _APART.finditer(text):
            make = _html if depth else _markdown
            linked.append(self._prose(text[end : found.start()], make))
            linked.append(self._code(found, make, headings) if found["code"] else found[0])
            if found["tag"] == "details":
                depth += -1 if found[0].startswith("</") else 1
            end = found.end()
        return "".join([*linked, self._prose(text[end:], _html if depth else _markdown)])

    def _headings(self, text: str) -> Iterator[re.Match]:
        return (found for found in _APART.finditer(text) if found["heading"])

    def _code(self, found: re.Match, make: Callable, headings: set[str]) -> str:
        """Link a code span that is a file, or an exercise whose heading is not in this cell."""
        name = found["code"]
        shown = f"<code>{name}</code>" if make is _html else f"`{name}`"
        shown += " ↗"  # code keeps its colour in a link
        chapter, heading = self.exercises.get(name, (None, ""))
        if chapter and not (chapter.stem == self.here.stem and heading in headings):
            return make(shown, self._to(chapter, heading))
        for folder in ("", "course_lib/"):
            if "/" in name and (paths.ROOT / folder / name).is_file():
                return make(shown, f"../{folder}{name}")
        return found[0]

    def _prose(self, text: str, make: Callable) -> str:
        return _PLACE.sub(partial(self._place, make), text)

    def _place(self, make: Callable, found: re.Match) -> str:
        """Link a place that is named in plain words, if it is there."""
        words = found[0]
        if found["arxiv"]:
            return make(words, f"https://arxiv.org/abs/{found['arxiv']}")
        if stem := found["stem"]:
            chapter = self.chapters.get(stem[:2])
            return make(words, chapter.file) if chapter and chapter.stem == stem else words
        if words.startswith("section"):
            if re.search(r"papers?'s?\s+$", found.string[: found.start()]):
                return words
            chapter = self.chapters.get(found["there"]) if found["there"] else self.here
            return self._numbers(words, make, lambda number: self._section(chapter, number))
        return self._numbers(words, make, self._chapter)

    def _numbers(self, words: str, make: Callable, find: Callable[[str], str | None]) -> str:
        """Link "section 8" as a whole, and each number of "sections 8 and 10"."""
        numbers = re.findall(r"\d+", words)
        if "of chapter" in words or len(numbers) == 1:
            target = find(numbers[0])
            return make(words, target) if target else words

        def one(found: re.Match) -> str:
            target = find(found[0])
            return make(found[0], target) if target else found[0]

        return re.sub(r"\d+", one, words)

    def _chapter(self, number: str) -> str | None:
        chapter = self.chapters.get(number)
        return chapter.file if chapter and chapter.stem != self.here.stem else None

    def _section(self, chapter: Chapter | None, number: str) -> str | None:
        heading = chapter.sections.get(number) if chapter else None
        return self._to(chapter, heading) if chapter and heading else None

    def _to(self, chapter: Chapter, heading: str) -> str:
        file = "" if chapter.stem == self.here.stem else chapter.file
        return file + anchor(heading)


def _markdown(words: str, target: str) -> str:
    return f"[{words}]({target})"


def _html(words: str, target: str) -> str:
    """For what is folded away: Markdown is not read inside an HTML block."""
    return f'<a href="{target.replace("&", "&amp;")}">{words}</a>'
