"""A chapter's source, ``solutions/NN_topic.py``, and the two notebooks that it holds.

The source is a jupytext percent script.  A cell titled ``exercise: ...`` holds one definition
decorated with ``@exercise("topic.name")``; the lines between ``# SOLUTION`` and ``# END`` in it are
the answer:

    # %% [markdown]
    # ### Jump to step t
    # Write Eq. 4.

    # %% exercise: jump to step t
    @exercise("ddpm.q_sample")
    def q_sample(x_start, t, noise, alphas_cumprod):
        # SOLUTION
        ...
        # END

The solution edition shows them.  The student edition has ``raise NotImplementedError`` there.  In
both, `links` makes links of the places that the text names.
"""

import hashlib
import keyword
import re
from collections import Counter
from pathlib import Path

import jupytext
from nbformat import NotebookNode, from_dict
from nbformat.v4 import new_notebook

from course_lib.build.links import add_links
from course_lib.checking import find_exercise

__all__ = [
    "METADATA",
    "SourceError",
    "exercise_ids",
    "secrets",
    "solution_edition",
    "student_edition",
]

OPEN, CLOSE = "# SOLUTION", "# END"
STUB = "raise NotImplementedError  # your turn"
METADATA = {  # says nothing of the machine that built the notebook
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {"name": "python", "file_extension": ".py", "pygments_lexer": "ipython3"},
}
_DECORATOR = re.compile(r'^@exercise\(["\']([^"\']+)["\']\)', re.MULTILINE)
_HEADING = re.compile(r"^#{1,6} .+$", re.MULTILINE)


class SourceError(ValueError):
    """A source that is not a chapter; the message begins with file and line."""


def solution_edition(path: Path) -> NotebookNode:
    """Make the notebook with every answer in it, not executed.

    path: the percent script.  Raises SourceError where markers, decorators and headings do not fit
    together.
    """
    text = path.read_text(encoding="utf-8")
    _check_cells(text, path.name)
    cells = jupytext.reads(text, fmt="py:percent").cells
    seen = Counter()
    for before, cell in zip([None, *cells], cells, strict=False):
        if cell.cell_type == "code" and _DECORATOR.search(cell.source):
            _announce(before, cell)
        tags = cell.metadata.get("tags")
        cell.metadata = NotebookNode({"tags": tags} if tags else {})
        digest = hashlib.sha256(cell.source.encode()).hexdigest()[:12]
        seen[digest] += 1  # the same text twice in a notebook still needs two ids
        cell.id = digest if seen[digest] == 1 else f"{digest}-{seen[digest]}"
    notebook = new_notebook(cells=cells, metadata=from_dict(METADATA))
    add_links(notebook, path)  # last, so that a cell keeps its id when another place is renamed
    return notebook


def student_edition(path: Path) -> NotebookNode:
    """Make the solution edition with a stub for every answer; cells keep their ids."""
    notebook = solution_edition(path)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.source = _without_answers(cell.source)
    return notebook


def exercise_ids(notebook: NotebookNode) -> list[str]:
    """Return the ids of a notebook's exercises, in order."""
    code = (cell.source for cell in notebook.cells if cell.cell_type == "code")
    return [name for source in code for name in _DECORATOR.findall(source)]


def secrets(path: Path) -> list[str]:
    """Return the solution lines that must not be seen in a student edition.

    A line counts when it says enough to be recognized: sixteen characters, without blanks and
    comment, and three different names or numbers.  ``return x`` or ``for i in range(3):`` give
    nothing away.
    """
    lines = []
    hidden = False
    for line in path.read_text(encoding="utf-8").splitlines():
        mark = line.strip()
        hidden = (hidden or mark == OPEN) and mark != CLOSE
        code = re.split(r"\s+#\s", mark)[0]
        words = {word for word in re.findall(r"\w+", code) if not keyword.iskeyword(word)}
        long = len("".join(code.split())) >= 16
        if hidden and not mark.startswith("#") and long and len(words) >= 3:
            lines.append(code)
    return lines


def _check_cells(text: str, name: str) -> None:
    """Check that markers come in pairs, only in exercise cells, each after a heading.

    Raises SourceError.
    """
    cells = [(0, "# %%", [])]  # (line of the cell marker, that marker, numbered lines below it)
    for number, line in enumerate(text.splitlines(), start=1):
        if re.match(r"# ?%%", line):
            cells.append((number, line, []))
        else:
            cells[-1][2].append((number, line))
    before = ""
    for number, marker, lines in cells:
        body = "\n".join(line for _, line in lines)
        titled = re.match(r"# ?%% exercise\b", marker) is not None
        decorated = len(_DECORATOR.findall(body)) if "[markdown]" not in marker else 0
        regions = _count_regions(lines, name)
        if titled and decorated != 1:
            raise SourceError(
                f'{name}:{number}: an exercise cell holds one @exercise("..."), found {decorated}'
            )
        if titled and not regions:
            raise SourceError(
                f"{name}:{number}: expected '{OPEN}' and '{CLOSE}' around the answer, got neither"
            )
        if not titled and (regions or decorated):
            raise SourceError(
                f"{name}:{number}: this cell holds an exercise: title it '# %% exercise: ...'"
            )
        if titled and not re.search(r"^# #{1,6} ", before, re.MULTILINE):
            raise SourceError(
                f"{name}:{number}: an exercise cell follows a markdown cell with a heading"
            )
        before = body if "[markdown]" in marker else ""


def _count_regions(lines: list[tuple[int, str]], name: str) -> int:
    opened = None
    regions = 0
    for number, line in lines:
        if line.strip() == OPEN:
            if opened:
                raise SourceError(
                    f"{name}:{number}: a second '{OPEN}' before the '{CLOSE}' of line {opened}"
                )
            opened = number
            regions += 1
        elif line.strip() == CLOSE:
            if not opened:
                raise SourceError(f"{name}:{number}: '{CLOSE}' without '{OPEN}'")
            opened = None
    if opened:
        raise SourceError(f"{name}:{opened}: '{OPEN}' is never closed by '{CLOSE}' in its cell")
    return regions


def _without_answers(source: str) -> str:
    shown = []
    hidden = False
    for line in source.splitlines():
        mark = line.strip()
        if mark == OPEN:
            shown.append(line.replace(OPEN, STUB))
        hidden = (hidden or mark == OPEN) and mark != CLOSE
        if not hidden and mark != CLOSE:
            shown.append(line)
    return "\n".join(shown)


def _announce(markdown: NotebookNode, cell: NotebookNode) -> None:
    """Write an exercise's difficulty, minutes, points, equation and id under its heading."""
    declared = find_exercise(_DECORATOR.search(cell.source)[1])
    facts = [
        "★" * declared.stars + "☆" * (5 - declared.stars),
        f"about {declared.minutes} minute{'s' * (declared.minutes != 1)}",
        f"{declared.points} point{'s' * (declared.points != 1)}",
        declared.equation,
        f"`{declared.id}`",
    ]
    line = " · ".join(fact for fact in facts if fact)
    *_, heading = _HEADING.finditer(markdown.source)
    markdown.source = (
        f"{markdown.source[: heading.end()]}\n\n{line}{markdown.source[heading.end() :]}"
    )
