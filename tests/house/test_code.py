"""Lint, syntax and docstrings."""

import ast
import subprocess
import sys
import tokenize

import pytest

from course_lib import paths

LIBRARY = sorted((paths.ROOT / "course_lib").rglob("*.py"))
OURS = [
    *LIBRARY,
    *sorted((paths.ROOT / "tests").rglob("*.py")),
    *sorted(paths.SOLUTIONS.glob("*.py")),
]
PAPERS = sorted((paths.ROOT / "course_lib" / "papers").glob("*.py"))
OLDEST = (3, 11)
LAYOUT = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
MAX_TOKENS_OF_A_PAPER = 4_000  # of its code: blank lines, line breaks and comments are free
MAX_LINES_OF_A_FORWARD = 20  # of its body


def test_ruff_finds_nothing():
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "."], cwd=paths.ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def test_the_formatter_changes_nothing():
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "format", "--diff", "."],
        cwd=paths.ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.relative_to(paths.ROOT).as_posix())
def test_the_oldest_python_can_read_it(path):
    ast.parse(path.read_text(encoding="utf-8"), feature_version=OLDEST)


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: path.relative_to(paths.ROOT).as_posix())
def test_modules_and_public_functions_say_what_they_do(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    silent = [
        n.name for n in tree.body if isinstance(n, ast.FunctionDef) and not ast.get_docstring(n)
    ]
    assert ast.get_docstring(tree), "the module has no docstring"
    assert [name for name in silent if not name.startswith("_")] == []


@pytest.mark.parametrize("path", PAPERS, ids=lambda path: path.name)
def test_a_paper_is_read_in_one_sitting(path):
    with tokenize.open(path) as file:
        tokens = [t for t in tokenize.generate_tokens(file.readline) if t.type not in LAYOUT]
    assert len(tokens) <= MAX_TOKENS_OF_A_PAPER, "split it in two along a seam of its own"


@pytest.mark.parametrize("path", PAPERS, ids=lambda path: path.name)
def test_a_forward_fits_on_half_a_screen(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    forwards = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == "forward"]
    lines = {f"line {n.lineno}": n.end_lineno - n.body[0].lineno + 1 for n in forwards}
    assert {where: n for where, n in lines.items() if n > MAX_LINES_OF_A_FORWARD} == {}
