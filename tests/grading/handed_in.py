"""Notebooks as students hand them in, made from text."""

import ast
import inspect
import json
from textwrap import dedent, indent

from course_lib.build import solution_edition
from course_lib.checking import find_exercise
from course_lib.grading.records import Cell, Work
from course_lib.paths import SOLUTIONS

CHAPTER = solution_edition(SOLUTIONS / "01_ddpm.py")
CELLS = [cell.source for cell in CHAPTER.cells if cell.cell_type == "code"]
IMPORTS = "\n".join(
    ast.unparse(node)
    for source in CELLS
    for node in ast.parse(source).body
    if isinstance(node, (ast.Import, ast.ImportFrom))
)
# Exercise id -> the cell with the course's own answer, which needs only the names of IMPORTS.
RIGHT = {
    source.partition('"')[2].partition('"')[0]: source
    for source in CELLS
    if source.startswith("@exercise(")
}


def notebook(*cells: str) -> bytes:
    """Return a notebook of format 4 with these code cells, as Jupyter saves it."""
    code = {"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": []}
    made = [
        code | {"id": f"cell-{n}", "source": cell.splitlines(keepends=True)}
        for n, cell in enumerate(cells)
    ]
    return json.dumps(
        {"cells": made, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}, indent=1
    ).encode()


def answer(id: str, body: str, decorator: str = "@exercise") -> str:
    """Return a cell that answers an exercise with this body, below the stub's own lines."""
    exercise = find_exercise(id)
    taken = inspect.signature(exercise.reference).parameters
    parameters = ", ".join(name for name in exercise.make_cases(0)[0] if name in taken)
    name = id.partition(".")[2]
    return (
        f'{decorator}("{id}")\ndef {name}({parameters}):\n{indent(dedent(body).strip(), "    ")}\n'
    )


def work(*cells: str, student: str = "Ada") -> Work:
    """Return what is read from a notebook of these cells."""
    return Work(
        student=student,
        cells=tuple(Cell(name=f"cell {n}", source=cell) for n, cell in enumerate(cells, 1)),
    )
