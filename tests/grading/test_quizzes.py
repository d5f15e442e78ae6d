"""Saved quiz answers are marked by the bank's rule, whatever the file claims."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib.classroom.bank import digest, load_bank, plain
from course_lib.classroom.quiz import QuizWidget
from course_lib.grading.quizzes import CHANGED, MALFORMED, mark_quiz

BANK = load_bank("start_here")
SHAPE, MOVES, TOKENS, LIFE, WHY = (question.id for question in BANK.questions)
RIGHT = {SHAPE: [1], MOVES: [0, 2], TOKENS: 96, LIFE: [0, 1, 2, 3, 4], WHY: [1]}
WRONG = {SHAPE: [0], MOVES: [0, 1], TOKENS: 95, LIFE: [1, 0, 2, 3, 4], WHY: [0]}


def saved(answers, right=False):
    """Return what the student's file holds after these answers."""
    digests = {question.id: digest(question) for question in BANK.questions}
    return {
        i: {"digest": digests[i], "result": {"answer": a, "right": right}}
        for i, a in answers.items()
    }


def marks(stored):
    """Return the marks of the questions by id."""
    return {mark.id: mark for mark in mark_quiz("start_here", stored).questions}


def statuses(stored):
    """Return the statuses of the questions, in order."""
    return [mark.status for mark in mark_quiz("start_here", stored).questions]


def test_right_answers_earn_points_even_if_the_file_calls_them_wrong():
    mark = mark_quiz("start_here", saved(RIGHT, right=False))
    assert (mark.topic, mark.earned, mark.points, mark.note) == ("start_here", 5, 5, "")
    assert [question.id for question in mark.questions] == list(RIGHT)
    assert {question.feedback for question in mark.questions} == {""}


def test_wrong_answers_earn_nothing_even_if_the_file_calls_them_right():
    mark = mark_quiz("start_here", saved(WRONG, right=True))
    assert mark.earned == 0 and {question.status for question in mark.questions} == {"wrong"}


def test_a_file_that_the_widget_saved_is_marked(course_home):
    results = {i: {"answer": a, "right": False} for i, a in (RIGHT | {WHY: [2]}).items()}
    QuizWidget(BANK).save(results, 0)
    stored = json.loads((course_home / "quiz-start_here.json").read_text(encoding="utf-8"))
    assert statuses(stored) == ["right"] * 4 + ["wrong"]


def test_a_mark_holds_question_answer_and_feedback_in_plain_text():
    mark = marks(saved(WRONG))
    shape = BANK.questions[0]
    why = BANK.questions[4]
    assert (
        mark[SHAPE].prompt == plain(shape.prompt)
        and "`" in shape.prompt
        and "`" not in mark[SHAPE].prompt
    )
    assert mark[SHAPE].given == "(8, 17, 3, 32, 48)"
    assert mark[SHAPE].feedback == plain(shape.options[0].feedback)
    assert mark[MOVES].feedback.endswith("1 more belongs to the answer.")
    assert mark[TOKENS].given == "95 tokens"
    assert mark[TOKENS].feedback == plain(BANK.questions[2].feedback_wrong)
    assert mark[LIFE].given.startswith("You run the cell; You read the equation")
    assert mark[WHY].feedback == plain(why.options[0].feedback)


def test_none_means_that_nothing_was_handed_in():
    mark = mark_quiz("start_here", None)
    assert mark.note == "no quiz answers were handed in" and mark.points == 5
    assert {
        (question.status, question.given, question.feedback) for question in mark.questions
    } == {("not answered", "", "")}


def test_a_question_without_an_answer_is_not_answered():
    mark = mark_quiz("start_here", saved({TOKENS: 96}))
    assert [question.status == "not answered" for question in mark.questions] == [
        True,
        True,
        False,
        True,
        True,
    ]
    assert mark.earned == 1 and mark.note == ""
    assert mark_quiz("start_here", {}).note == ""


@pytest.mark.parametrize("answer", [RIGHT[SHAPE], WRONG[SHAPE], "of another form"])
def test_an_answer_to_a_question_that_has_changed_does_not_count(answer):
    stored = saved(RIGHT | {SHAPE: answer}, right=True)
    stored[SHAPE]["digest"] = "0" * 12
    mark = marks(stored)[SHAPE]
    assert (mark.status, mark.given, mark.feedback) == ("changed", "", CHANGED)
    assert mark_quiz("start_here", stored).earned == 4


@pytest.mark.parametrize(
    "entry",
    [
        *(None, True, 3, "text", [], [1], {}),
        {"digest": None, "result": {"answer": [1]}},
        {"digest": 7, "result": {"answer": [1]}},
        {"result": {"answer": [1], "right": True}},
        {"digest": digest(BANK.questions[0])},
        {"digest": digest(BANK.questions[0]), "result": None},
        {"digest": digest(BANK.questions[0]), "result": [1]},
        {"digest": digest(BANK.questions[0]), "result": {"right": True}},
        {"digest": digest(BANK.questions[0]), "result": {"answer": "1", "right": True}},
    ],
)
def test_an_answer_of_another_form_is_wrong_and_the_others_count(entry):
    stored = saved(RIGHT) | {SHAPE: entry}
    mark = marks(stored)[SHAPE]
    assert (mark.status, mark.given, mark.feedback) == ("wrong", "", MALFORMED)
    assert mark_quiz("start_here", stored).earned == 4


def test_answers_to_unknown_questions_are_counted_in_the_note():
    mark = mark_quiz("start_here", saved(RIGHT) | {"nobody": None})
    assert mark.earned == mark.points == 5
    assert mark.note == "1 saved answer belongs to no question of this quiz"
    assert (
        mark_quiz("start_here", {"a": 1, "b": 2}).note
        == "2 saved answers belong to no question of this quiz"
    )


def test_a_topic_without_a_bank_is_refused():
    with pytest.raises(ValueError, match=r"expected one of .*start_here"):
        mark_quiz("no-such-topic", {})


# --------------------------------------------------------------------------------------------- junk


NUMBERS = st.integers() | st.floats() | st.integers(-2, 6) | st.floats(95, 97) | st.just(10**400)
SCALARS = (
    st.none()
    | st.booleans()
    | NUMBERS
    | st.text(max_size=5)
    | st.sampled_from(["96", "[1]", "right"])
)
ANYTHING = st.recursive(
    SCALARS | st.lists(st.integers(-1, 5), max_size=6),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=8,
)
CLOSE = st.sampled_from(
    [*RIGHT.values(), [2, 0], [True], [1.0], [1, 1], [[1]], {"0": 1}, (1,), 95.5, 96.6]
)
CALM = settings(derandomize=True, deadline=None, max_examples=150, database=None)
WRITTEN = {SHAPE: ["[1]"], MOVES: ["[0, 2]", "[2, 0]"], LIFE: ["[0, 1, 2, 3, 4]"], WHY: ["[1]"]}


def deserves(name, answer):
    """Tell by its text whether an answer is right: `[True]` and `[1.0]` are not `[1]`."""
    if name == TOKENS:
        return type(answer) in (int, float) and 95.5 <= answer <= 96.5
    return repr(answer) in WRITTEN[name]


@CALM
@given(st.dictionaries(st.sampled_from([*RIGHT, "nobody", ""]), ANYTHING, max_size=7))
def test_a_file_of_junk_raises_nothing_and_earns_nothing(stored):
    mark = mark_quiz("start_here", stored)
    assert mark.earned == 0 and mark.points == 5


@CALM
@given(st.fixed_dictionaries({name: CLOSE | ANYTHING for name in RIGHT}), st.booleans() | ANYTHING)
def test_only_a_right_answer_in_the_right_form_earns_a_point(answers, flag):
    for name, mark in marks(saved(answers, right=flag)).items():
        assert (mark.status == "right") == deserves(name, answers[name])
        assert mark.status in ("right", "wrong") and (mark.given != "") == (
            mark.feedback != MALFORMED
        )
