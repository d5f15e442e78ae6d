"""Wrong answers made by machine are refused, and none is given a false name.

Every run tries a fixed sample; `pytest tests/mutants/test_machine.py --all-mutants` tries them all.
"""

import functools
import re
import threading
from dataclasses import replace

import pytest
import torch

from course_lib.checking import Exercise, edit, exercises, find_exercise, topics
from tests.mutants import machine
from tests.mutants.machine import (
    SEEDS,
    Mutant,
    Report,
    Trial,
    covered,
    details,
    equal_list,
    mutants,
    trial,
)
from tests.mutants.syntax import slips

SHARE = 0.1
IDS = [exercise.id for topic in topics() for exercise in exercises(topic)]


@pytest.fixture(params=IDS)
def exercise(request):
    return find_exercise(request.param)


@functools.cache
def reported(id: str, everything: bool) -> Report:
    exercise = find_exercise(id)
    if everything:
        return trial(id).report(mutants(exercise))
    return trial(id).report(machine.sample(exercise, SHARE), SEEDS[:1])


def test_a_mutant_is_refused_or_as_good_as_the_reference(exercise, pytestconfig, record_property):
    report = reported(exercise.id, pytestconfig.option.all_mutants)
    unexplained = len(report.unexplained)
    equal = len(report.survivors) - unexplained
    tried = len(report.tried)
    refused = tried - len(report.survivors)
    record_property(
        "machine", [exercise.id, refused, equal, tried, len(report.named), len(report.false)]
    )
    assert not report.unexplained, (
        f"{exercise.id}: add a case, or a reason to tests/mutants/equal.yaml\n\n{details(report)}"
    )


def test_no_mutant_is_given_a_false_name(exercise, pytestconfig):
    report = reported(exercise.id, pytestconfig.option.all_mutants)
    assert not report.false, details(report)


def test_listed_mutants_exist_and_survive(exercise, pytestconfig):
    seeds = SEEDS if pytestconfig.option.all_mutants else SEEDS[:1]

    def survives(mutant: Mutant) -> bool:
        return all(trial(exercise.id).verdict(mutant.answer, seed).passed for seed in seeds)

    for entry, reason in equal_list().get(exercise.id, {}).items():
        found = covered(entry, exercise)
        assert found, f"{exercise.id}: no such mutant: {entry}"
        assert any(survives(m) for m in found), f"{exercise.id}: refused, take it off: {entry}"
        assert len(str(reason).split()) >= 3, f"{exercise.id}: {entry}: a reason, please"


def test_the_list_is_about_exercises_that_exist_each_once():
    headings = re.findall(r"^(\S+):\s*$", machine.EQUAL.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(headings) == len(set(headings))
    assert set(equal_list()) == set(headings) <= set(IDS)


# ------------------------------------------------------------------------------------ the machinery


def halved(x, y):
    """Return half of the positive part of a difference."""
    return (x - y).clamp(min=0) / 2


def counted(n):
    total = 0
    while total < n:
        total += 1
    return total


class Scaled(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = 3

    def forward(self, x):
        return x * self.scale


def pairs(rng):
    return [{"x": torch.randn(2, 3, generator=rng), "y": torch.randn(2, 3, generator=rng)}]


HALVED = Exercise("here.halved", halved, pairs)


def by_name(exercise: Exercise) -> dict[str, Mutant]:
    return {mutant.name: mutant for mutant in mutants(exercise)}


def test_a_slip_is_named_after_what_it_changes():
    found = by_name(HALVED)
    assert {
        "line 3: `x - y` -> `x + y`",
        "line 3: `(x - y).clamp(min=0)` -> `(x - y)`",
        "line 3: `(x - y).clamp(min=0) / 2` -> `(x - y).clamp(min=0) * 2`",
        "line 3: `(x - y).clamp(min=0) / 2` -> `(x - y).clamp(min=0) / 3`",
        "line 3: `min=0` -> `min=1`",
    } <= found.keys()
    wrong = found["line 3: `x - y` -> `x + y`"]
    assert float(wrong.answer(torch.tensor(1.0), torch.tensor(3.0))) == 2
    assert (
        wrong.diff == "-    return (x - y).clamp(min=0) / 2\n+    return (x + y).clamp(min=0) / 2"
    )


def test_every_slip_is_another_program():
    texts = [slip.text for slip in slips("def f(a, b):\n    return a + 0 - (b)\n")]
    assert len(texts) == len(set(texts)) > 5
    assert "def f(a, b):\n    return a + 0 - (b)\n" not in texts


def test_patterns_lose_their_order():
    names = {slip.name for slip in slips('def f(x):\n    return g(x, "b (h p) -> (b h) p")\n')}
    assert 'line 2: `"b (h p) -> (b h) p"` -> `"b (h p) -> (h b) p"`' in names
    assert 'line 2: `"b (h p) -> (b h) p"` -> `"b (p h) -> (b h) p"`' in names


def test_a_function_that_the_reference_calls_is_edited_too():
    names = by_name(find_exercise("vit.attention"))
    assert any(name.startswith("split_heads, line") for name in names)


def test_a_class_is_mutated_in_its_methods():
    exercise = Exercise(
        "here.scaled", Scaled, pairs, probe=lambda answer, case: answer()(case["x"])
    )
    report = Trial(exercise).report(mutants(exercise))
    names = {mutant.name for mutant in report.tried}
    assert "line 7: `x * self.scale` -> `x / self.scale`" in names
    assert not report.survivors


def test_what_has_no_case_survives():
    always_positive = replace(
        HALVED, cases=lambda rng: [{"x": torch.tensor([2.5]), "y": torch.tensor([0.5])}]
    )
    survivors = {m.name for m in Trial(always_positive).report(mutants(always_positive)).survivors}
    assert "line 3: `(x - y).clamp(min=0)` -> `(x - y)`" in survivors
    assert "line 3: `(x - y).clamp(min=0)` -> `(x - y)`" not in {
        m.name for m in Trial(HALVED).report(mutants(HALVED)).survivors
    }


def test_a_hang_is_stopped_and_refused(monkeypatch):
    monkeypatch.setattr(machine, "LIMIT_SECONDS", 0.2)
    exercise = Exercise("here.counted", counted, lambda rng: [{"n": 3}, {"n": 5}])
    threads = threading.active_count()
    hanging = by_name(exercise)["line 4: `total += 1` left out"]
    assert Trial(exercise).verdict(hanging.answer, 0).status == "failed"
    assert threading.active_count() == threads


def test_a_name_is_false_where_the_answers_differ():
    """The two mistakes agree on the first case; the second, which only seed 3 has, tells."""

    def cases(rng):
        y = 0.0 if rng.initial_seed() != 3 else 1.0
        return [{"x": torch.tensor([2.0]), "y": torch.tensor([y])}]

    exercise = Exercise(
        "here.halved",
        halved,
        cases,
        misconceptions={"not_halved": (edit(" / 2", ""), "You did not halve.")},
    )
    true = by_name(exercise)["line 3: `(x - y).clamp(min=0) / 2` -> `(x - y).clamp(min=0)`"]
    false = Mutant("x", edit("(x - y).clamp(min=0) / 2", "x"), halved)
    assert Trial(exercise).report([true]).named == {true.name: {"not_halved"}}
    assert not Trial(exercise).report([true]).false
    report = Trial(exercise).report([false])
    assert report.false["x"].startswith("not_halved: seed 3, case 1")


def test_the_sample_is_the_same_in_every_run():
    exercise = find_exercise("vit.attention")
    names = [mutant.name for mutant in machine.sample(exercise, 0.2)]
    assert names == [mutant.name for mutant in machine.sample(exercise, 0.2)]
    assert 0.15 < len(names) / len(mutants(exercise)) < 0.25
