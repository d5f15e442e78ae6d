"""``course build --nbgrader DIR``: the chapters as assignments in a course folder for nbgrader.

    DIR/nbgrader_config.py                 what nbgrader has to know about the course
    DIR/seed.txt                           the seed of the marked cases; keep it from students
    DIR/source/01_ddpm/01_ddpm.ipynb       from solutions/01_ddpm.py

In an assignment every exercise is a solution cell, followed by a locked test cell worth its
points.  The value of that cell, from `classroom.mark`, is what nbgrader takes for the points.
All other cells are the student's to change, so nbgrader's metadata are not in them.  Only the
format is written here (nbgrader 0.9.6, metadata schema 3); nbgrader is never imported, and the
course does not need it.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from secrets import randbelow

from nbformat import NotebookNode
from nbformat.v4 import new_code_cell

from course_lib.build import exercise_ids, solution_edition, write
from course_lib.build.source import CLOSE, OPEN, STUB
from course_lib.checking import Exercise, find_exercise

__all__ = ["assignment", "relocate", "write_course_folder"]

CONFIG = f'''"""nbgrader's settings for the course, written once: edit them freely."""

c = get_config()

c.CourseDirectory.course_id = "visual_generation"

# a student reads the same line where an answer goes as in the course's own notebooks
c.ClearSolutions.code_stub = {{"python": "{STUB}"}}

# a cell may take this many seconds
c.Execute.timeout = 300

# while marking, live training stops after a few steps, and a notebook's state ends with its kernel
START = """
import os, tempfile
_home = tempfile.TemporaryDirectory()
os.environ.update(COURSE_FAST="1", COURSE_HOME=_home.name)
del os, tempfile
"""
c.Execute.extra_arguments = [f"--IPKernelApp.exec_lines={{START}}"]
'''
MARKERS = {OPEN: "### BEGIN SOLUTION", CLOSE: "### END SOLUTION"}


def write_course_folder(folder: Path, chapters: Iterable[Path]) -> list[Path]:
    """Write the chapters as nbgrader's source notebooks, with its configuration and the seed.

    Returns their paths.  An existing configuration or seed stays as it is.  Raises SourceError for
    a chapter that cannot be read and ValueError for a seed.txt without a whole number.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = _write_once(folder / "nbgrader_config.py", CONFIG)
    seed = _write_once(folder / "seed.txt", f"{randbelow(10**9) + 1}\n")
    try:
        number = int(seed.read_text(encoding="utf-8"))
    except ValueError:
        raise ValueError(
            f"{seed}: expected one whole number; delete the file to draw another"
        ) from None
    notebooks = {source.stem: assignment(source, number) for source in chapters}
    written = [
        write(notebook, folder / "source" / name / f"{name}.ipynb")
        for name, notebook in notebooks.items()
    ]
    return [config, seed, *written]


def assignment(path: Path, seed: int) -> NotebookNode:
    """Make the solution edition with nbgrader's cells; nbgrader makes the student's from it.

    path: the percent script.  seed: of the cases that marks are taken on, removed from what
    students get.  Raises SourceError.
    """
    notebook = solution_edition(path)
    cells = []
    for cell in notebook.cells:
        cells.append(cell)
        if cell.cell_type == "markdown":
            cell.source = relocate(cell.source)
        for name in exercise_ids(NotebookNode(cells=[cell])):  # an exercise cell holds one
            cell.source = "\n".join(_marker(line) for line in cell.source.splitlines())
            cell.metadata["nbgrader"] = _metadata(name.replace(".", "-"), solution=True)
            cells.append(_test_cell(find_exercise(name), seed, f"{cell.id}-mark"))
    notebook.cells = cells
    return notebook


def relocate(text: str) -> str:
    """Let links lead from an assignment's own folder, where the library's files are not."""
    text = re.sub(r"\[([^\]]+?)(?: ↗)?\]\(\.\./[^)]*\)", r"\1", text)
    return re.sub(r'(\]\(|href=")(\d\d_\w+)\.ipynb', r"\1../\2/\2.ipynb", text)


def _test_cell(exercise: Exercise, seed: int, id: str) -> NotebookNode:
    """Make the cell whose value is the points that the answer earns.

    Students get it without the hidden lines, with the decorator's own seed.
    """
    source = f"""\
# {exercise.points} point{"s" * (exercise.points != 1)}: this cell shows what your answer earns. \
It will be marked on other inputs.
from course_lib.classroom import mark

mark(
    "{exercise.id}",
    ### BEGIN HIDDEN TESTS
    seed={seed},
    ### END HIDDEN TESTS
)"""
    name = exercise.id.replace(".", "-") + "-mark"
    metadata = _metadata(name, grade=True, locked=True, points=exercise.points)
    return new_code_cell(source, id=id, metadata={"nbgrader": metadata})


def _metadata(
    grade_id: str, solution: bool = False, grade: bool = False, locked: bool = False, **points: int
) -> dict:
    kind = {"solution": solution, "grade": grade, "locked": locked, "task": False}
    return {"schema_version": 3, "grade_id": grade_id, **kind, **points}


def _marker(line: str) -> str:
    mark = line.strip()
    return line.replace(mark, MARKERS[mark]) if mark in MARKERS else line


def _write_once(path: Path, text: str) -> Path:
    if not path.exists():
        path.write_text(text, encoding="utf-8", newline="\n")
    return path
