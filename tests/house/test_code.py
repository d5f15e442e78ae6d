"""Lint, syntax and docstrings."""

import ast
import subprocess
import sys

import pytest

from course_lib import paths

LIBRARY = sorted((paths.ROOT / "course_lib").rglob("*.py"))
OURS = [*LIBRARY, *sorted((paths.ROOT / "tests").rglob("*.py")), *sorted(paths.SOLUTIONS.glob("*.py"))]
OLDEST = (3, 11)


def test_ruff_finds_nothing():
    done = subprocess.run([sys.executable, "-m", "ruff", "check", "."], cwd=paths.ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.relative_to(paths.ROOT).as_posix())
def test_the_oldest_python_can_read_it(path):
    ast.parse(path.read_text(encoding="utf-8"), feature_version=OLDEST)


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: path.relative_to(paths.ROOT).as_posix())
def test_modules_and_public_functions_say_what_they_do(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    silent = [n.name for n in tree.body if isinstance(n, ast.FunctionDef) and not ast.get_docstring(n)]
    assert ast.get_docstring(tree), "the module has no docstring"
    assert [name for name in silent if not name.startswith("_")] == []


@pytest.mark.parametrize(
    "path", sorted((paths.ROOT / "course_lib" / "papers").glob("*.py")), ids=lambda path: path.name
)
def test_a_paper_is_read_in_one_sitting(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 380
