"""Five students of chapter 00, which is quick to mark, and ways to run the command on them."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from course_lib.paths import ROOT
from tests.grading.handed_in import notebook

IMPORTS = "import torch\nfrom einops import rearrange\nfrom course_lib.classroom import exercise"
TO_MODEL = """
@exercise("start_here.to_model")
def pixels_to_float(rgb):
    return rearrange(rgb, "b h w c -> b c h w").float() / 127.5 - 1"""
PATCHIFY = """
@exercise("start_here.patchify")
def patchify(image, patch):
    return rearrange(image, "b c (h p1) (w p2) -> b (h w) (p1 p2 c)", p1=patch, p2=patch)"""
HONEST = (IMPORTS, TO_MODEL, PATCHIFY)
LOOP = TO_MODEL.replace("return", "while True: pass\n    return")

CLASS = {
    "ada": HONEST,
    "bob": (IMPORTS, TO_MODEL.replace("127.5 - 1", "255"), PATCHIFY),
    "cyd": (IMPORTS, TO_MODEL, "print('no patches'"),
    "dan": (
        IMPORTS,
        TO_MODEL,
        PATCHIFY.replace("(h w)", "(w h)").replace("return", "print('dan')\n    return"),
    ),
    "eve": (IMPORTS, TO_MODEL.replace("return", "import os; os._exit(3)\n    return"), PATCHIFY),
}


def write_class(folder: Path, students=CLASS) -> Path:
    """Write one notebook per student."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, cells in students.items():
        (folder / f"{name}.ipynb").write_bytes(notebook(*cells))
    return folder


def tree(folder: Path) -> dict[str, bytes]:
    """Return all files below a folder except the lock, with their contents."""
    files = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
    files.pop(".lock", None)
    return files


def grade_files(out: Path) -> list[Path]:
    """Return the grade.json of every student marked so far."""
    return sorted(out.glob("students/*/grade.json"))


def start(submissions: Path, out: Path, *options: str, path: str | None = None) -> subprocess.Popen:
    """Start `course grade`; `path` replaces this process's PATH."""
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "course_lib.cli",
            "grade",
            str(submissions),
            "--out",
            str(out),
            *options,
        ],
        cwd=ROOT,
        env=os.environ | {"PATH": path or os.environ["PATH"]},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell that runs this in the background would ignore the signal.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def wait_until(condition, seconds=60.0):
    """Wait until the condition holds, and fail if it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def counted_bwrap(folder: Path) -> tuple[str, Path]:
    """Return a PATH on which every start of bwrap adds a line to a log, and that log."""
    folder.mkdir()
    log = folder / "starts"
    command = folder / "bwrap"
    log.touch()
    command.write_text(f'#!/bin/sh\necho >> "{log}"\nexec "{shutil.which("bwrap")}" "$@"\n')
    command.chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}", log
