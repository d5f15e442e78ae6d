"""The committed notebooks are what solutions/ makes; nbval runs them (see conftest.py)."""

import ast

import nbformat
import pytest

from course_lib import build, paths

CHAPTERS = build.sources()
LONGEST_CELL = 25  # lines
WIDEST_LINE = 88  # characters of code: more would scroll sideways on a page of 900 pixels


def test_there_are_chapters():
    assert len(CHAPTERS) >= 2


@pytest.mark.parametrize("source", CHAPTERS, ids=lambda path: path.stem)
def test_the_notebook_is_what_its_source_makes_and_gives_nothing_away(source):
    assert build.check_chapters([source]) == []


@pytest.mark.parametrize("source", CHAPTERS, ids=lambda path: path.stem)
def test_code_cells_are_short(source):
    notebook = nbformat.read(paths.NOTEBOOKS / f"{source.stem}.ipynb", as_version=4)
    code = [cell.source.splitlines() for cell in notebook.cells if cell.cell_type == "code"]
    assert [lines[0] for lines in code if len(lines) > LONGEST_CELL] == []


@pytest.mark.parametrize("source", CHAPTERS, ids=lambda path: path.stem)
def test_code_lines_are_short(source):
    code = [c.source for c in build.solution_edition(source).cells if c.cell_type == "code"]
    assert [ln for text in code for ln in text.splitlines() if len(ln) > WIDEST_LINE] == []


@pytest.mark.parametrize("source", CHAPTERS, ids=lambda path: path.stem)
def test_a_table_is_the_last_value_of_its_cell(source):
    """Elsewhere it would be made, and never shown."""
    code = [c.source for c in build.solution_edition(source).cells if c.cell_type == "code"]
    unseen = [
        ast.unparse(node)
        for text in code
        for node in ast.parse(text).body[:-1]
        if isinstance(node, ast.Expr) and _makes_a_table(node.value)
    ]
    assert unseen == []


def _makes_a_table(value: ast.expr) -> bool:
    return isinstance(value, ast.Call) and ast.unparse(value.func) in {
        "room.table",
        "room.scorecard",
    }


def test_every_declared_exercise_is_in_a_notebook():
    from course_lib.checking import exercises, topics

    asked = {
        name for source in CHAPTERS for name in build.exercise_ids(build.solution_edition(source))
    }
    assert {exercise.id for topic in topics() for exercise in exercises(topic)} == asked
