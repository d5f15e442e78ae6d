import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from course_lib.checking import (
    Exercise,
    UnknownExercise,
    call_by_name,
    check_defaults,
    exercises,
    find_exercise,
    topics,
    with_weights,
)
from course_lib.exercises import MODULES_OF


def double(x, scale=2):
    return x * scale


def declared(**changes):
    values = {
        "id": "ddpm.double",
        "reference": double,
        "cases": lambda rng: [{"x": torch.randn(2, generator=rng)}],
    }
    return Exercise(**{**values, **changes})


def test_every_topic_declares_exercises_under_its_own_name():
    assert "start_here" in topics()
    for topic in topics():
        assert exercises(topic)
        assert {exercise.topic for exercise in exercises(topic)} == {topic}


def test_find_returns_the_declaration():
    assert find_exercise("start_here.patchify").name == "patchify"


def test_two_papers_of_a_notebook_are_one_topic(monkeypatch):
    monkeypatch.setattr("course_lib.checking.exercise._modules", lambda: ["dance", "dance2"])
    monkeypatch.setitem(MODULES_OF, "dance", ("dance", "dance2"))
    for name, ids in (("dance", ["dance.double"]), ("dance2", ["dance2.turn", "dance2.step"])):
        module = SimpleNamespace(EXERCISES=[declared(id=id) for id in ids])
        monkeypatch.setitem(sys.modules, f"course_lib.exercises.{name}", module)
    assert topics() == ["dance"]
    assert [exercise.id for exercise in exercises("dance")] == [
        "dance.double",
        "dance2.turn",
        "dance2.step",
    ]
    found = find_exercise("dance2.turn")
    assert (found.module, found.topic, found.name) == ("dance2", "dance", "turn")
    with pytest.raises(UnknownExercise, match=r"dance2\.turn"):
        find_exercise("dance.turn")
    sys.modules["course_lib.exercises.dance2"].EXERCISES.append(declared(id="dance.step"))
    with pytest.raises(ValueError, match=r"exercises/dance2\.py: .* dance\.step"):
        exercises("dance")


def test_the_modules_of_one_paper_share_the_ids_of_its_topic(monkeypatch):
    monkeypatch.setattr("course_lib.checking.exercise._modules", lambda: ["song", "song_words"])
    monkeypatch.setitem(MODULES_OF, "song", ("song_words", "song"))
    modules = {"song": ["song.refrain"], "song_words": ["song.rhyme", "song.metre"]}
    for name, ids in modules.items():
        module = SimpleNamespace(EXERCISES=[declared(id=id) for id in ids])
        monkeypatch.setitem(sys.modules, f"course_lib.exercises.{name}", module)
    in_order = ["song.rhyme", "song.metre", "song.refrain"]
    assert [exercise.id for exercise in exercises("song")] == in_order
    found = find_exercise("song.metre")
    assert (found.module, found.topic, found.name) == ("song_words", "song", "metre")
    assert find_exercise("song.refrain").module == "song"
    sys.modules["course_lib.exercises.song"].EXERCISES.append(declared(id="song.rhyme"))
    with pytest.raises(ValueError, match=r"exercises/song\.py: .* song\.rhyme"):
        exercises("song")


def test_a_topic_may_end_in_a_digit(monkeypatch):
    monkeypatch.setattr("course_lib.checking.exercise._modules", lambda: ["sd", "sd3"])
    for name in ("sd", "sd3"):
        module = SimpleNamespace(EXERCISES=[declared(id=f"{name}.double")])
        monkeypatch.setitem(sys.modules, f"course_lib.exercises.{name}", module)
    assert topics() == ["sd", "sd3"]
    assert find_exercise("sd3.double").topic == "sd3"


@pytest.mark.parametrize("id", ["start_here.patchfy", "start_hear.patchify"])
def test_an_unknown_id_names_near_ones(id):
    with pytest.raises(UnknownExercise, match=r"start_here\.patchify"):
        find_exercise(id)


@pytest.mark.parametrize(
    "id", ["base.Exercise", "", "start_here", "../start_here.patchify", "nothing.like_it_at_all"]
)
def test_what_is_not_an_exercise_is_unknown(id):
    with pytest.raises(UnknownExercise):
        find_exercise(id)


def test_an_unknown_topic_names_the_topics():
    with pytest.raises(UnknownExercise, match="start_here"):
        exercises("nowhere")


@pytest.mark.parametrize(
    "changes",
    [
        {"id": "double"},
        {"id": "a.b.c"},
        {"stars": 0},
        {"points": 0},
        {"seconds": 0},
        {"misconceptions": {"mute": (double, " ")}},
    ],
)
def test_a_careless_declaration_is_refused(changes):
    with pytest.raises(ValueError, match=r"ddpm.double|topic\.name"):
        declared(**changes)


def test_cases_are_fresh_and_in_the_order_of_the_reference():
    exercise = declared(cases=lambda rng: [{"scale": 3, "x": torch.randn(2, generator=rng)}])
    [first], [again] = exercise.make_cases(5), exercise.make_cases(5)
    assert list(first) == ["x", "scale"]
    assert torch.equal(first["x"], again["x"]) and first["x"] is not again["x"]
    assert not torch.equal(exercise.make_cases(6)[0]["x"], first["x"])


@pytest.mark.parametrize(
    "answer",
    [
        lambda x, scale: x * scale,
        lambda x, scale, extra=1: x * scale,
        lambda x, scale, *more, **others: x * scale,
        lambda x, scale=5: x * scale,
        lambda x, scale, /: x * scale,
    ],
)
def test_call_accepts_parameters_of_ones_own(answer):
    assert call_by_name(answer, {"x": 3, "scale": 2}) == 6


@pytest.mark.parametrize(
    "answer", [lambda y, scale: 0, lambda scale, x: 0, lambda x: 0, lambda x, scale, more: 0]
)
def test_call_asks_for_the_names_and_order_of_the_stub(answer):
    with pytest.raises(TypeError, match=r"keep the parameters \(x, scale\)"):
        call_by_name(answer, {"x": 3, "scale": 2})


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda **named: 0, r"write the parameters \(x, scale\) out.*yours are \(\*\*named\)"),
        (lambda *args: 0, r"write the parameters .* out.*yours are \(\*args\)"),
        (lambda x, *, scale: 0, r"gives `scale` by its place.*take the `\*` out"),
    ],
)
def test_parameters_that_the_chapters_call_does_not_reach_are_told(answer, words):
    with pytest.raises(TypeError, match=words):
        call_by_name(answer, {"x": 3, "scale": 2})


def test_a_case_may_leave_out_an_argument_before_others():
    assert call_by_name(lambda x, scale=2, shift=0: x * scale + shift, {"x": 3, "shift": 1}) == 7


def test_a_default_that_the_chapter_relies_on_is_asked_for():
    check_defaults(lambda x, scale=2: 0, double, {"x": 3})
    check_defaults(lambda x, scale: 0, double, {"x": 3, "scale": 2})
    check_defaults(len, double, {"x": 3})
    with pytest.raises(
        TypeError, match=r"`scale` has no default; the chapter calls .*write scale=2"
    ):
        check_defaults(lambda x, scale: 0, double, {"x": 3})
    with pytest.raises(TypeError, match=r"the default of `scale` is 3; expected 2"):
        check_defaults(lambda x, scale=3: 0, double, {"x": 3})


def test_with_weights_copies_by_name_and_by_order():
    source = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    same, other = (
        nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)),
        nn.ModuleList([nn.Linear(3, 4), nn.Linear(4, 2)]),
    )
    x = torch.randn(5, 3)
    assert torch.equal(with_weights(same, source)(x), source(x))
    renamed = nn.Sequential()
    renamed.add_module("first", other[0])
    renamed.add_module("second", other[1])
    assert torch.equal(with_weights(renamed, source)(x), source(x))


def test_with_weights_shows_both_lists_when_they_do_not_correspond():
    with pytest.raises(
        ValueError, match=r"expected the parameters weight \(4, 3\).*yours are weight \(3, 4\)"
    ):
        with_weights(nn.Linear(4, 3), nn.Linear(3, 4))
