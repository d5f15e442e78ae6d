"""Check a committed notebook without executing it."""

import html
import re
from collections.abc import Iterable, Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from course_lib.build.source import exercise_ids, secrets, student_edition

__all__ = ["check_notebook"]

MAX_NOTEBOOK_BYTES = 2_000_000  # outputs included
_MACHINE_PATH = re.compile(r"(?<![\w.])/(?:home|root|Users|tmp|private|work)/[\w.]|\b[A-Z]:\\[\w.]")
_WIDGETS = "application/vnd.jupyter.widget-state+json"


def check_notebook(source: Path, committed: Path, declared: Iterable[str]) -> list[str]:
    """List every reason why `committed` is not the notebook that `source` makes.

    declared: the ids of the exercises that the chapter must hold.
    """
    if not committed.is_file():
        return ["is missing"]
    notebook = nbformat.read(committed, as_version=4)
    problems = list(_drift(student_edition(source), notebook, source.name))
    problems += _outputs(notebook)
    problems += _leaks(secrets(source), notebook)
    problems += _exercises(set(declared), exercise_ids(notebook))
    if (size := committed.stat().st_size) > MAX_NOTEBOOK_BYTES:
        problems.append(f"is {size / 1e6:.1f} MB, {MAX_NOTEBOOK_BYTES / 1e6:.0f} MB are allowed")
    return problems


def _drift(expected: NotebookNode, notebook: NotebookNode, source: str) -> Iterator[str]:
    for index, (new, old) in enumerate(zip_longest(expected.cells, notebook.cells)):
        if new is None or old is None:
            yield f"has {len(notebook.cells)} cells, {source} makes {len(expected.cells)}"
        elif any(new.get(key) != old.get(key) for key in ("cell_type", "id", "source", "metadata")):
            yield f"cell {index} ({_first_line(old)}) is not what {source} makes"
            return  # one insertion shifts all cells after it
    if any(notebook.metadata.get(key) != value for key, value in expected.metadata.items()):
        yield f"its metadata are not what {source} makes"


def _outputs(notebook: NotebookNode) -> Iterator[str]:
    code = [(index, cell) for index, cell in enumerate(notebook.cells) if cell.cell_type == "code"]
    if [cell.execution_count for _, cell in code] != list(range(1, len(code) + 1)):
        yield "its code cells have not been executed in order, once each"
    for index, cell in code:
        where = f"cell {index} ({_first_line(cell)})"
        for output in cell.outputs:
            text = "\n".join(_texts([output.get("text"), output.get("data")]))
            if output.output_type == "error":
                yield f"{where} stores a traceback: {output.ename}"
            if output.get("name") == "stderr" and "warn" in text.lower():
                yield f"{where} stores a warning: {text.strip().splitlines()[0]}"
            if path := _MACHINE_PATH.search(text):
                yield f"{where} shows a path of the machine that built it: {path[0]}..."


def _leaks(hidden: list[str], notebook: NotebookNode) -> Iterator[str]:
    places = {"the widgets' state": _texts(notebook.metadata.get("widgets", {}).get(_WIDGETS, {}))}
    for index, cell in enumerate(notebook.cells):
        # A folded hint may show the line: unfolding it is the student's choice.
        source = re.sub(r"<details>.*?</details>", "", cell.source, flags=re.DOTALL)
        places[f"cell {index} ({_first_line(cell)})"] = [source, *_texts(cell.get("outputs", []))]
    squeezed = {place: _squeeze("\n".join(texts)) for place, texts in places.items()}
    for line in hidden:
        for place, text in squeezed.items():
            if _squeeze(line) in text:
                yield f"{place} gives a solution away: {line}"


def _exercises(declared: set[str], present: list[str]) -> Iterator[str]:
    for name in sorted(declared - set(present)):
        yield f"exercise {name} is declared and not in the notebook"
    for name in sorted({name for name in present if present.count(name) > 1}):
        yield f"exercise {name} is in the notebook more than once"
    for name in sorted(set(present) - declared):
        yield f"exercise {name} is in the notebook and not declared for this chapter"


def _texts(value: Any) -> Iterator[str]:
    """Yield all readable strings in an output or a widget state; images are skipped."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            if not str(key).startswith("image/"):
                yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)


def _squeeze(text: str) -> str:
    return "".join(html.unescape(re.sub(r"</?\w[^<>]*>", "", text)).split())


def _first_line(cell: NotebookNode) -> str:
    return next((line for line in cell.source.splitlines() if line.strip()), "empty")
