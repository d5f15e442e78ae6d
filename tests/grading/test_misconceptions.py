"""Every declared misconception, handed in as an answer, is named in the mark and the feedback."""

import inspect

import pytest

from course_lib.checking import exercises, topics
from course_lib.classroom.markup import prose
from course_lib.grading import marking
from course_lib.grading.isolation import Jail
from course_lib.grading.marking import mark_work
from course_lib.grading.pages import feedback_page
from course_lib.grading.records import Assignment, Cell, Work

DECLARED = [exercise for topic in topics() for exercise in exercises(topic)]

# A misconception may call the reference, which refuses to be called by an answer.  So a twin that
# does not refuse takes its place wherever the course's modules look it up.
CELL = """\
import sys, types
from course_lib.classroom import exercise
from course_lib.checking import find_exercise

def wrong_answer(id, name):
    original = find_exercise(id).reference
    twin = types.FunctionType(
        original.__code__, original.__globals__, original.__name__, original.__defaults__
    )
    twin.__kwdefaults__ = original.__kwdefaults__
    modules = sys.modules.items()
    for module in [module for path, module in modules if path.startswith("course_lib.")]:
        for key in [key for key, value in vars(module).items() if value is original]:
            setattr(module, key, twin)
    return find_exercise(id).misconceptions[name].answer

wrong = wrong_answer("{id}", "{name}")

@exercise("{id}")
def answer({parameters}):
    return wrong({arguments})
"""


def parameters(exercise):
    """Return what the exercise's stub takes, defaults included: "x", "stride=1"."""
    given = {name for case in exercise.make_cases(0) for name in case}
    return [
        name if parameter.default is parameter.empty else f"{name}={parameter.default!r}"
        for name, parameter in inspect.signature(exercise.reference).parameters.items()
        if name in given
    ]


def notebook(exercise, name):
    """Return a notebook whose only answer is this misconception."""
    declared = parameters(exercise)
    source = CELL.format(
        id=exercise.id,
        name=name,
        parameters=", ".join(declared),
        arguments=", ".join(name.partition("=")[0] for name in declared),
    )
    return Work(student=name, cells=(Cell(name="cell 1", source=source),))


@pytest.fixture(scope="module")
def jail():
    """Provide a bwrap jail."""
    with Jail() as jail:
        yield jail


@pytest.mark.parametrize("exercise", DECLARED, ids=lambda exercise: exercise.id)
def test_every_misconception_is_named_in_mark_and_feedback(exercise, jail, monkeypatch):
    monkeypatch.setattr(marking, "exercises", lambda topic: [exercise])
    assignment = Assignment(topics=(exercise.topic,), quizzes=False, seed=5)
    assert len(exercise.misconceptions) >= 3
    for name, misconception in exercise.misconceptions.items():
        grade = mark_work(notebook(exercise, name), assignment, jail)
        [found] = grade.exercises
        assert (found.id, found.misconception) == (exercise.id, name)
        assert found.sentence == misconception.sentence
        assert found.status in ("wrong", "partly right")
        assert prose(misconception.sentence) in feedback_page(grade)
