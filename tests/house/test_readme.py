"""The README's promises: its commands, its links; and the pins that the commands install."""

import re
import subprocess
import sys
import tomllib

import numpy as np
import pytest
from PIL import Image

from course_lib import build, paths

README = (paths.ROOT / "README.md").read_text(encoding="utf-8")
LINES = README.splitlines()


def pins(name):
    lines = (paths.ROOT / name).read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def test_the_two_commands_stand_on_lines_of_their_own():
    assert "pip install -r requirements.txt && jupyter lab notebooks/00_start_here.ipynb" in LINES
    assert "pip install -r requirements-dev.txt && pytest" in LINES


def test_ci_reads_its_command_from_the_readme():
    script = (paths.ROOT / ".ci" / "run").read_text(encoding="utf-8")
    pattern = re.search(r"grep -m1 '(.+)' README.md", script)[1]
    assert next(line for line in LINES if re.search(pattern, line)).endswith("&& pytest")


def test_every_chapter_is_on_the_map_with_a_link():
    for source in build.sources():
        assert f"(notebooks/{source.stem}.ipynb)" in README


@pytest.mark.parametrize("target", re.findall(r"\]\(((?!http)[^)#]+)\)", README))
def test_what_the_readme_links_to_is_there(target):
    assert (paths.ROOT / target).exists()


def test_every_requirement_is_pinned_once():
    lines = pins("requirements.txt") + pins("requirements-dev.txt")
    loose = [
        line
        for line in lines
        if not re.fullmatch(r"[\w.-]+==[\w.]+|-e \.|-r requirements\.txt", line)
    ]
    names = [line.split("==")[0].lower() for line in lines]
    assert loose == [] and sorted(names) == sorted(set(names))
    assert "-e ." in pins("requirements.txt") and "-r requirements.txt" in pins(
        "requirements-dev.txt"
    )


def test_the_python_that_the_readme_names_is_the_one_that_is_required():
    project = tomllib.loads((paths.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["requires-python"] == ">=3.11,<3.14" and "Python 3.11, 3.12 or 3.13" in README


def test_the_picture_is_made_by_the_course(tmp_path):
    """To within what other processors round differently."""
    again = tmp_path / "world.png"
    subprocess.run([sys.executable, paths.ROOT / "docs" / "make_picture.py", again], check=True)
    old, new = (
        np.asarray(Image.open(path).convert("RGB"), dtype=float)
        for path in (paths.ROOT / "docs" / "world.png", again)
    )
    assert old.shape == new.shape and abs(old - new).mean() < 1
    assert (paths.ROOT / "docs" / "world.png").stat().st_size < 150_000
