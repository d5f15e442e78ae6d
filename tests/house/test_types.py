"""The static types of the papers, of what they are made of and of how they are trained."""

import subprocess
import sys

from course_lib import paths


def test_mypy_finds_nothing():
    """The folders and the settings are in pyproject.toml; build/ keeps what mypy has read."""
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--cache-dir", paths.ROOT / "build" / "mypy"],
        cwd=paths.ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
