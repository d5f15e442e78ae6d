import functools
import math
import sys
import zipfile

import pytest
import torch

from course_lib.checking import Exercise, edit, exercises, topics
from course_lib.checking.edits import Edit
from course_lib.papers import vit

DECLARED = [
    pytest.param(misconception, id=f"{exercise.id}:{name}")
    for topic in topics()
    for exercise in exercises(topic)
    for name, misconception in exercise.misconceptions.items()
    if isinstance(misconception.slip, Edit)
]


def halve(x):
    return x / 2


def halve_and_add(x, y=1):
    """Half of x, and y."""
    return halve(x) + y


def root(x):
    return math.sqrt(x) + math.sqrt(x)


class Scale:
    def __init__(self, factor):
        self.factor = factor

    def __call__(self, x):
        return halve(x) * self.factor


def declared(slip, reference=halve_and_add):
    return Exercise("a.half", reference, lambda rng: [], {"slip": (slip, "A sentence.")})


def wrong(slip, reference=halve_and_add):
    return declared(slip, reference).misconceptions["slip"].answer


@pytest.mark.parametrize("misconception", DECLARED)
def test_every_declared_edit_compiles_and_shows_its_lines(misconception):
    assert callable(misconception.answer)
    assert misconception.diff


def test_an_edit_changes_one_place_of_the_reference():
    assert wrong(edit("+ y", "- y"))(4) == 1
    assert halve_and_add(4) == 3


def test_an_edit_changes_several_places_each_found_in_the_reference():
    swapped = edit("halve(x)", "y", "+ y", "+ halve(x) * 0")
    assert wrong(swapped)(4, y=5) == 5


def test_an_edit_of_a_function_that_the_reference_calls():
    answer = wrong(edit("/ 2", "/ 4", of=halve))
    assert answer(4) == 2
    assert halve(4) == 2 and halve_and_add(4) == 3


def test_an_edit_of_a_function_that_the_reference_calls_by_its_module(monkeypatch):
    monkeypatch.setattr(functools, "halve", halve, raising=False)
    monkeypatch.setitem(globals(), "functools", functools)
    answer = wrong(edit("/ 2", "/ 4", of=halve), reference=halve_by_module)
    assert answer(4) == 1
    assert halve_by_module(4) == 2


def halve_by_module(x):
    return functools.halve(x)


def test_a_class_can_be_edited_and_its_callees_too():
    assert wrong(edit("* self.factor", "+ self.factor"), Scale)(3)(4) == 5
    assert wrong(edit("/ 2", "/ 4", of=halve), Scale)(3)(4) == 3


def test_an_edited_paper_is_not_checked_for_its_types():
    qkv = torch.randn(1, 4, 18)
    answer = wrong(edit("return rearrange(", "return qkv, rearrange("), vit.attention)
    assert len(answer(qkv, 2)) == 3


def test_an_edit_is_compiled_when_asked_for_and_once(monkeypatch):
    exercise = declared(edit("no such text", ""))
    with pytest.raises(ValueError, match=r"halve_and_add: expected exactly one 'no such text'"):
        _ = exercise.misconceptions["slip"].answer
    misconception = declared(edit("+ y", "- y")).misconceptions["slip"]
    assert misconception.answer is misconception.answer


@pytest.mark.parametrize(
    ("slip", "message"),
    [
        (lambda: edit("/ 3", "/ 2"), "expected exactly one '/ 3' in its source, got 0"),
        (lambda: edit("y", "z"), "expected exactly one 'y' in its source, got 3"),
        (lambda: edit("halve(x) +", "", "(x) + y", ""), "overlaps another old text"),
        (lambda: edit("(x) +", "(x) *", of=root), r"calls, got of=.*root"),
        (lambda: edit("x", "y", "z"), "expected pairs of old and new, got 3 texts"),
        (lambda: edit("+ y", "+ y"), "expected a text and a different one"),
        (lambda: edit("", "y"), "expected a text and a different one"),
    ],
)
def test_an_edit_that_fits_nowhere_is_refused_by_name(slip, message):
    with pytest.raises(ValueError, match=message):
        wrong(slip())


def test_a_function_without_a_source_file_is_refused():
    with pytest.raises(ValueError, match="expected a function or class with a source file"):
        wrong(edit("a", "b"), reference=len)


def test_the_diff_holds_the_changed_lines_only():
    misconception = declared(edit("+ y", "- y")).misconceptions["slip"]
    assert misconception.diff == "-    return halve(x) + y\n+    return halve(x) - y"
    assert declared(edit("/ 2", "/ 4", of=halve)).misconceptions["slip"].diff == (
        "-    return x / 2\n+    return x / 4"
    )
    assert declared(abs).misconceptions["slip"].diff == ""


def test_an_edit_works_from_an_installed_archive(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "package.zip", "w") as archive:
        archive.writestr("packed_paper.py", "def double(x):\n    return x * 2\n")
    monkeypatch.syspath_prepend(str(tmp_path / "package.zip"))
    import packed_paper

    assert wrong(edit("* 2", "* 3"), packed_paper.double)(1) == 3
    sys.modules.pop("packed_paper")
