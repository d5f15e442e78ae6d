"""Every exercise refuses wrong answers, names the declared ones, and accepts other right ones.

For the exercises of exercises/ddpm.py, tests/mutants/ddpm.py holds WRONG and RIGHT:
{"ddpm.q_sample": {name: answer}}.
"""

import importlib
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from course_lib.checking import Exercise, check_defaults, exercises, topics
from course_lib.checking.compare import compare
from course_lib.checking.diagnose import Verdict
from course_lib.checking.observe import Outcome, flatten
from tests.mutants.generic import applicable
from tests.mutants.machine import trial

SEEDS = (0, 1)
WRONG_AT_LEAST, RIGHT_AT_LEAST = 6, 2
EXERCISES = [exercise for topic in topics() for exercise in exercises(topic)]


@pytest.fixture(params=EXERCISES, ids=lambda exercise: exercise.id)
def exercise(request):
    return request.param


def answers(module: str) -> ModuleType:
    if not Path(__file__).with_name(f"{module}.py").exists():
        pytest.fail(
            f"tests/mutants/{module}.py is missing; it holds WRONG and RIGHT for the exercises of"
            f" {module}"
        )
    return importlib.import_module(f"tests.mutants.{module}")


def wrong(exercise: Exercise) -> dict:
    return answers(exercise.module).WRONG.get(exercise.id, {})


def verdict(exercise: Exercise, answer, seed: int, changed: Exercise | None = None) -> Verdict:
    return trial(exercise.id).verdict(answer, seed, changed)


def test_the_reference_passes_on_every_seed(exercise):
    for seed in range(3):
        assert verdict(exercise, exercise.reference, seed).passed


def test_cases_depend_only_on_the_seed(exercise):
    first, again = (
        [Outcome(inputs=flatten(case)) for case in exercise.make_cases(0)] for _ in range(2)
    )
    assert len(first) >= 2, f"{exercise.id}: expected at least two cases, got {len(first)}"
    assert all(compare(a, b) is None for a, b in zip(first, again, strict=True))
    assert any(set(exercise.gradients) <= case.keys() for case in exercise.make_cases(0))


def test_wrong_answers_are_refused(exercise, record_property):
    mutants = {**{name: m.answer for name, m in exercise.misconceptions.items()}, **wrong(exercise)}
    assert len(mutants) == len(exercise.misconceptions) + len(wrong(exercise)), (
        "one name for two wrong answers"
    )
    refused = {
        name
        for name, a in mutants.items()
        if all(verdict(exercise, a, s).status == "failed" for s in SEEDS)
    }
    record_property("mutants", [exercise.id, len(refused), len(mutants)])
    assert refused == mutants.keys(), f"{exercise.id} accepts {sorted(mutants.keys() - refused)}"
    assert len(mutants) >= WRONG_AT_LEAST, (
        f"{exercise.id} has {len(mutants)} wrong answers; declare misconceptions, or add to WRONG"
        f" in tests/mutants/{exercise.module}.py, until there are {WRONG_AT_LEAST}"
    )


def test_misconceptions_read_their_own_sentence(exercise, record_property):
    found = {}
    for name, misconception in exercise.misconceptions.items():
        verdicts = [verdict(exercise, misconception.answer, seed) for seed in SEEDS]
        found[name] = {v.misconception for v in verdicts if v.sentence == misconception.sentence}
    named = [name for name, names in found.items() if names == {name}]
    record_property("diagnosed", [exercise.id, len(named)])
    assert named == list(found), f"{exercise.id}: diagnosed as something else: {found}"
    sentences = {misconception.sentence for misconception in exercise.misconceptions.values()}
    assert len(sentences) == len(exercise.misconceptions), "two misconceptions share a sentence"


def test_a_name_given_to_another_wrong_answer_holds_on_every_seed(exercise):
    false = {}
    for name, answer in wrong(exercise).items():
        if given := verdict(exercise, answer, SEEDS[0]).misconception:
            others = {verdict(exercise, answer, seed).misconception for seed in (5, 6)}
            if others != {given}:
                false[name] = {given, *others}
    assert not false


def test_misconceptions_have_the_defaults_of_the_stub(exercise):
    # A student with this mistake has them, so that one with others would never be named.
    for misconception in exercise.misconceptions.values():
        for case in exercise.make_cases(0):
            check_defaults(misconception.answer, exercise.reference, case)


def test_right_answers_are_accepted(exercise, record_property):
    right = answers(exercise.module).RIGHT.get(exercise.id, {})
    refused = {
        n: v.sentence
        for n, a in right.items()
        for s in SEEDS
        if not (v := verdict(exercise, a, s)).passed
    }
    record_property("accepted", [exercise.id, len(right) - len(refused)])
    assert not refused
    assert len(right) >= RIGHT_AT_LEAST, (
        f"{exercise.id} has {len(right)} right answers in RIGHT of"
        f" tests/mutants/{exercise.module}.py; write {RIGHT_AT_LEAST} that differ from the"
        " reference"
    )


def test_generic_mutants_are_refused(exercise, record_property):
    tried = applicable(exercise)
    accepted = []
    for name, change in tried.items():
        changed = replace(
            exercise, probe=lambda answer, case, m=change: m(exercise.probe(answer, case), case)
        )
        if any(verdict(exercise, exercise.reference, seed, changed).passed for seed in SEEDS):
            accepted.append(name)
    record_property("generic", [exercise.id, len(tried) - len(accepted), len(tried)])
    assert not accepted
    assert len(tried) >= 4
