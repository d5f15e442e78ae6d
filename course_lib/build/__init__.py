"""``course build``: solutions/NN_topic.py -> notebooks/NN_topic.ipynb, executed and checked."""

from collections.abc import Iterable
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from course_lib import paths
from course_lib.build.check import check_notebook
from course_lib.build.execute import ExecutionError, execute
from course_lib.build.source import (
    SourceError,
    exercise_ids,
    secrets,
    solution_edition,
    student_edition,
)
from course_lib.checking import exercises, topics
from course_lib.files import write_if_changed

__all__ = [
    "ExecutionError",
    "SourceError",
    "build",
    "check_chapters",
    "check_notebook",
    "execute",
    "exercise_ids",
    "secrets",
    "solution_edition",
    "sources",
    "student_edition",
    "write",
    "write_solutions",
]


def sources(names: Iterable[str] = ()) -> list[Path]:
    """List the chapters' sources, all or those named: ``01``, ``01_ddpm``, or a path that ends so.

    Raises ValueError for a name that fits none of them.
    """
    every = sorted(paths.SOLUTIONS.glob("[0-9][0-9]_*.py"))
    chosen = []
    for name in names:
        fitting = [path for path in every if Path(name).stem in (path.stem, path.stem[:2])]
        if not fitting:
            raise ValueError(
                f"no chapter named {name}; there are: {', '.join(path.stem for path in every)}"
            )
        chosen += fitting
    return chosen or every


def build(source: Path, run: bool = True) -> list[float]:
    """Write the student edition of one chapter into notebooks/; return each cell's seconds.

    Raises SourceError or ExecutionError, and then leaves the notebook that is there as it is.
    """
    notebook = student_edition(source)
    seconds: list[float] = []
    if run:
        try:
            notebook, seconds = execute(notebook, folder=paths.NOTEBOOKS, building=True)
        except ExecutionError as error:
            raise ExecutionError(f"{source.stem}: {error}") from None
    write(notebook, paths.NOTEBOOKS / f"{source.stem}.ipynb")
    return seconds


def write_solutions(folder: Path, chapters: Iterable[Path]) -> list[Path]:
    """Write the chapters' solution editions, not executed, as notebooks into `folder`."""
    return [write(solution_edition(source), folder / f"{source.stem}.ipynb") for source in chapters]


def check_chapters(chapters: Iterable[Path]) -> list[str]:
    """Say what is wrong with the committed notebooks of these chapters, one line each."""
    problems = []
    for source in chapters:
        committed = paths.NOTEBOOKS / f"{source.stem}.ipynb"
        for problem in check_notebook(source, committed, _declared(source)):
            problems.append(f"{committed.name}: {problem}")
    known = {source.stem for source in sources()}
    strays = [path for path in sorted(paths.NOTEBOOKS.glob("*.ipynb")) if path.stem not in known]
    return problems + [f"{path.name}: has no source in solutions/" for path in strays]


def write(notebook: NotebookNode, path: Path) -> Path:
    """Write a notebook, whole or not at all, and only where it differs from what is there."""
    write_if_changed(path, nbformat.writes(notebook) + "\n")
    return path


def _declared(source: Path) -> list[str]:
    """Return the ids of all exercises of a chapter's topics: its own, and any that it asks from."""
    asked = {name.partition(".")[0] for name in exercise_ids(solution_edition(source))}
    own = source.stem.partition("_")[2]
    return [
        exercise.id
        for topic in sorted({own, *asked} & set(topics()))
        for exercise in exercises(topic)
    ]
