"""Whoever promises a ValueError keeps it, and says what was expected and what came."""

import ast
import functools
import importlib
import re

import pytest

from course_lib import paths
from tests.house import promises

# Sentences of their own: the end of one that begins with a file's name, a list of faults, advice.
WORDED_OTHERWISE = {
    "build.sources",
    "classroom.bank.load_bank",
    "grading.batch.grade",
    "grading.notebook.read_json",
    "grading.submissions.find_submissions",
    "training.store.Store.load_state",
    "training.store.load_checkpoint",
}
# Where a module has to be changed for it, or the environment.
SHOWN_ELSEWHERE = {
    "checking.exercise.exercises": "tests/checking/test_exercise.py",
    "classroom.figures.webp": "tests/classroom/test_figures.py",
}
CAME = re.compile(r"\b(got|recognized|this one|these|yours|there is|holds|has|is not|delete)\b")


def promised(path):
    """The names of the public functions, methods and classes whose docstring has a ValueError."""
    module = ".".join(path.relative_to(paths.ROOT / "course_lib").with_suffix("").parts)
    names = [module.removesuffix(".__init__")]

    def walk(node, prefix):
        for child in ast.iter_child_nodes(node):
            if not isinstance(child, ast.FunctionDef | ast.ClassDef):
                continue
            if child.name.startswith("_") and not child.name.startswith("__"):
                continue
            name = f"{prefix}.{child.name}"
            if "ValueError" in (ast.get_docstring(child) or ""):
                yield name
            if isinstance(child, ast.ClassDef):
                yield from walk(child, name)

    return walk(ast.parse(path.read_text(encoding="utf-8")), names[0])


PROMISED = sorted(
    name
    for path in (paths.ROOT / "course_lib").rglob("*.py")
    for name in promised(path)
    if name not in SHOWN_ELSEWHERE
)


@pytest.fixture(scope="module")
def calls(tmp_path_factory):
    return promises.calls(tmp_path_factory.mktemp("promises"))


def resolve(name):
    parts = name.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        try:
            found = importlib.import_module(".".join(["course_lib", *parts[:cut]]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            found = getattr(found, part)
        return found.func if isinstance(found, functools.cached_property) else found
    raise LookupError(name)


def refusal(function, call):
    """Return the error of a call; a generator is asked for its first value."""
    given, named = [], {}
    for part in call:
        if isinstance(part, promises.Before):
            part.act()
        elif isinstance(part, promises.Named):
            named = part
        else:
            given.append(part)
    try:
        result = function(*given, **named)
        return next(result, None) and None if hasattr(result, "__next__") else None
    except Exception as error:
        return error


def shown(call):
    return ", ".join(repr(part)[:60] for part in call)


@functools.cache
def refusing_tests():
    """The words of all test files in which a ValueError is expected."""
    every = (paths.ROOT / "tests").rglob("test_*.py")
    files = [path.read_text(encoding="utf-8") for path in every]
    return {word for text in files if "(ValueError" in text for word in re.findall(r"\w+", text)}


def has_its_own_test(name):
    """Tell whether a test that expects ValueErrors names the function, its class or its module."""
    return not refusing_tests().isdisjoint(name.split(".")[1:])


@pytest.mark.parametrize("name", PROMISED)
@pytest.mark.usefixtures("untyped")
def test_a_promise_of_a_value_error_is_kept(name, calls):
    if name not in calls:
        assert has_its_own_test(name), "add calls that break it to tests/house/promises.py"
        return
    function = resolve(name)
    wrong = []
    for call in calls[name]:
        error = refusal(function, call)
        said = str(error)
        kept = isinstance(error, ValueError) and not isinstance(error, UnicodeError)
        told = name in WORDED_OTHERWISE or ("expected" in said and CAME.search(said))
        if not kept:
            wrong.append(f"({shown(call)}): {type(error).__name__}: {said[:90]}")
        elif not told:
            wrong.append(f"({shown(call)}): says only {said[:160]}")
    assert not wrong, "\n".join(wrong)


def test_every_call_belongs_to_a_promise(calls):
    assert calls.keys() <= set(PROMISED)
