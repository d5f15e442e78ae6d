"""Run a notebook from top to bottom, so that nothing of the machine stays in it."""

import json
import os
import re
import tempfile
import time
from hashlib import sha256
from pathlib import Path

from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode, from_dict, reads, writes

from course_lib import busy
from course_lib.build.source import METADATA

__all__ = ["ExecutionError", "execute"]

# Version 4, without hyphens.
_UUID = re.compile(r"(?<![0-9a-f])[0-9a-f]{12}4[0-9a-f]{3}[89ab][0-9a-f]{15}(?![0-9a-f])")
_ANSI = re.compile(r"\x1b\[[0-9;]*m")
THREADS = "2"  # with which the course's budgets are measured


class ExecutionError(RuntimeError):
    """A cell that failed; the message names it."""


def execute(
    notebook: NotebookNode, folder: Path, timeout: int = 300, building: bool = False
) -> tuple[NotebookNode, list[float]]:
    """Execute a notebook; return it and the seconds that each of its cells took.

    folder: the kernel's working directory.  timeout: seconds for one cell.  building: the
    outputs are to be committed, so live training notes its steps (classroom/live.py), and a
    student's progress is not shown.
    The student's state (COURSE_HOME) starts empty; COURSE_FAST is passed on.  Raises
    ExecutionError, also for a claim that does not hold.
    """
    started: dict[int, float] = {}
    seconds = [0.0] * len(notebook.cells)

    def begin(cell: NotebookNode, cell_index: int) -> None:
        started[cell_index] = time.perf_counter()

    def end(cell: NotebookNode, cell_index: int, execute_reply: dict) -> None:
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
        environment = {
            "COURSE_HOME": home,
            "COURSE_BUILD": "1" if building else "0",
            "COURSE_STRICT": "1",
            "PYTHONHASHSEED": "0",
            "OMP_NUM_THREADS": THREADS,
        }
        try:
            client.execute(env=os.environ | environment)
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
            index = max(started)
            first = notebook.cells[index].source.strip().splitlines()[0]
            raise ExecutionError(
                f"cell {index} ({first}) failed\n{_ANSI.sub('', str(error))}"
            ) from None
    return _neutral(notebook), seconds


def _neutral(notebook: NotebookNode) -> NotebookNode:
    """Derive the widgets' ids from the cells, so that the same run gives the same bytes.

    Widgets name themselves and each other by random UUIDs, in their state and in the pages that
    show them.
    """
    for cell in notebook.cells:
        if cell.cell_type == "code":  # a sign of life says how busy this machine was
            cell.outputs = [o for o in cell.outputs if o.get("metadata") != busy.MARK]
    notebook.metadata.update(from_dict(METADATA))  # the kernel has written its Python's version
    # The cells' ids are part of a name, so that no two notebooks share one.
    cells = "".join(cell.id for cell in notebook.cells)
    names: dict[str, str] = {}
    # In the order of creation; `writes` sorts by id.
    for uuid in _UUID.findall(json.dumps(notebook)):
        names.setdefault(uuid, sha256(f"{cells}{len(names)}".encode()).hexdigest()[:32])
    return reads(_UUID.sub(lambda uuid: names[uuid[0]], writes(notebook)), as_version=4)
