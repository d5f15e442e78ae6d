"""Run a notebook from top to bottom, so that nothing of the machine stays in it."""

import os
import re
import tempfile
import time
from pathlib import Path

from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode, from_dict, reads, writes

from course_lib.build.source import METADATA

__all__ = ["ExecutionError", "execute"]

_ANSI = re.compile(r"\x1b\[[0-9;]*m")
THREADS = "2"  # what the course's budgets are measured with


class ExecutionError(RuntimeError):
    """A cell that failed; the message names it."""


def execute(notebook: NotebookNode, folder: Path, timeout: int = 300) -> tuple[NotebookNode, list[float]]:
    """The executed notebook and the seconds that each of its cells took.

    folder: the kernel's working directory.  timeout: seconds for one cell.
    The student's state (COURSE_HOME) starts empty; COURSE_FAST is passed on.  Raises ExecutionError.
    """
    started, seconds = {}, [0.0] * len(notebook.cells)

    def begin(cell, cell_index):
        started[cell_index] = time.perf_counter()

    def end(cell, cell_index, execute_reply):
        seconds[cell_index] = time.perf_counter() - started[cell_index]

    client = NotebookClient(
        notebook,
        kernel_name="python3",
        timeout=timeout,
        record_timing=False,
        store_widget_state=True,
        resources={"metadata": {"path": str(folder)}},
        on_cell_execute=begin,
        on_cell_executed=end,
    )
    with tempfile.TemporaryDirectory() as home:
        environment = {"COURSE_HOME": home, "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": THREADS}
        try:
            client.execute(env=os.environ | environment)
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
            index = max(started)
            first = notebook.cells[index].source.strip().splitlines()[0]
            raise ExecutionError(f"cell {index} ({first}) failed\n{_ANSI.sub('', str(error))}") from None
    return _neutral(notebook), seconds


def _neutral(notebook: NotebookNode) -> NotebookNode:
    """The notebook with widget ids counted instead of drawn at random: the same run, the same bytes."""
    notebook.metadata.update(from_dict(METADATA))  # the kernel has written its Python's version here
    text = writes(notebook)
    widgets = notebook.metadata.get("widgets", {}).get("application/vnd.jupyter.widget-state+json", {})
    names = {name: f"{count:032x}" for count, name in enumerate(widgets.get("state", {}))}
    if names:
        text = re.sub("|".join(names), lambda name: names[name[0]], text)
    return reads(text, as_version=4)
