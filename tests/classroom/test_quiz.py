"""Quiz banks and the widget: what is refused, what is escaped, what is kept."""

import copy
import json
import math
import sys

import pytest
import yaml

from course_lib import paths
from course_lib.classroom.bank import digest, load_bank, plain, rich
from course_lib.classroom.bridge import script_json
from course_lib.classroom.progress import read_record
from course_lib.classroom.quiz import DeckWidget, QuizWidget, flashcards, quiz

BANK = {
    "topic": "toy",
    "title": "A toy",
    "questions": [
        {
            "id": "one",
            "kind": "single",
            "prompt": "Which?",
            "source": "Section 1",
            "options": [
                {"text": "this", "correct": True, "feedback": "Yes."},
                {"text": "that", "feedback": "No."},
            ],
        },
        {
            "id": "many",
            "kind": "multiple",
            "prompt": "Which ones?",
            "source": "Section 2",
            "options": [
                {"text": "a", "correct": True, "feedback": "Yes."},
                {"text": "b", "correct": True, "feedback": "Yes."},
                {"text": "c", "feedback": "No."},
            ],
        },
        {
            "id": "number",
            "kind": "numeric",
            "prompt": "How much?",
            "source": "Section 3",
            "answer": 3.7,
            "tolerance": 0.05,
            "unit": "bits",
            "feedback_right": "Yes.",
            "feedback_wrong": "No.",
        },
        {
            "id": "order",
            "kind": "ordering",
            "prompt": "In which order?",
            "source": "Section 4",
            "items": [
                {"text": t, "feedback": f"{t} because"} for t in ("first", "second", "third")
            ],
        },
    ],
    "flashcards": [{"id": "card", "front": "f", "back": "b", "source": "Section 5"}],
}


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def load(tmp_path, content):
    path = tmp_path / "toy.yaml"
    path.write_text(
        content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8"
    )
    return load_bank("toy", tmp_path)


def changed(question, **fields):
    """BANK with fields of one question replaced; None removes the field."""
    bank = copy.deepcopy(BANK)
    entry = next(q for q in bank["questions"] if q["id"] == question)
    entry.update(fields)
    for name in [n for n, v in fields.items() if v is None]:
        del entry[name]
    return bank


def test_a_valid_bank_is_read(tmp_path):
    bank = load(tmp_path, BANK)
    assert [q.kind for q in bank.questions] == ["single", "multiple", "numeric", "ordering"]
    assert len(bank.flashcards) == 1


OPTION = {"text": "a", "feedback": "f"}
RIGHT = OPTION | {"correct": True}


@pytest.mark.parametrize(
    ("bank", "said"),
    [
        (
            changed("one", options=[RIGHT, RIGHT | {"text": "b"}]),
            "exactly one correct option, got 2",
        ),
        (
            changed("one", options=[OPTION, OPTION | {"text": "b"}]),
            "exactly one correct option, got 0",
        ),
        (changed("one", options=[RIGHT]), "at least 2 items"),
        (changed("one", options=[RIGHT, OPTION]), "every option to read differently"),
        (changed("one", options=[RIGHT, {"text": "b"}]), "options.2.feedback: Field required"),
        (changed("one", options=[RIGHT, {"text": "b", "feedback": " "}]), "options.2.feedback"),
        (changed("one", source=None), "source: Field required"),
        (changed("one", sauce="x"), "sauce: Extra inputs"),
        (changed("one", kind="essay"), "question 1 (one): "),
        (changed("one", id="Not A Slug"), "id: "),
        (
            changed("many", options=[OPTION, OPTION | {"text": "b"}]),
            "at least one correct option, got 0",
        ),
        (changed("number", tolerance=0), "tolerance: Input should be greater than 0, got 0"),
        (changed("number", answer="3.7"), "answer: Input should be a valid number, got '3.7'"),
        (changed("number", feedback_wrong=None), "feedback_wrong: Field required"),
        (changed("order", items=BANK["questions"][3]["items"][:2]), "at least 3 items"),
        (changed("many", id="one"), "more than one of 'one'"),
        (changed("many", id="card"), "more than one of 'card'"),
        (BANK | {"topic": "other"}, "expected topic: toy, got 'other'"),
        (BANK | {"questions": []}, "questions: "),
        ("- a list", "got list"),
        ("questions: [", "is not YAML"),
        ("", "got NoneType"),
    ],
)
def test_an_error_names_the_file_and_what_was_expected(tmp_path, bank, said):
    with pytest.raises(ValueError) as caught:
        load(tmp_path, bank)
    assert "toy.yaml" in str(caught.value) and said in str(caught.value)


def test_an_error_in_a_question_names_it(tmp_path):
    with pytest.raises(ValueError, match=r"toy.yaml, question 3 \(number\): tolerance"):
        load(tmp_path, changed("number", tolerance=-1))


def test_an_unknown_topic_is_answered_with_the_known_ones(tmp_path):
    with pytest.raises(ValueError, match=r"expected one of .*start_here"):
        quiz("no-such-topic")
    with pytest.raises(ValueError, match="none yet"):
        load_bank("toy", tmp_path)


@pytest.mark.parametrize("path", sorted(paths.QUIZZES.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_banks_of_the_course_are_valid(path):
    """A chapter may have a second bank, such as cogvideox_more: both count as one here."""
    topic = path.stem.removesuffix("_more")
    banks = [load_bank(topic)]
    if (paths.QUIZZES / f"{topic}_more.yaml").is_file():
        banks.append(load_bank(f"{topic}_more"))
    questions = [q for bank in banks for q in bank.questions]
    assert {q.kind for q in questions} == {"single", "multiple", "numeric", "ordering"}
    assert len({q.id for q in questions}) == len(questions)
    assert len(banks[0].flashcards) >= 2


def test_the_shown_order_is_stable_and_never_the_right_one(tmp_path):
    for name in ("order", "a", "b", "c", "d", "e", "f"):
        question = load(tmp_path, changed("order", id=name)).questions[3]
        assert question.start() == question.start() != [0, 1, 2]
        assert sorted(question.start()) == [0, 1, 2]


# ------------------------------------------------------------------------------------------ answers


@pytest.fixture
def question(tmp_path):
    """question("one") -> that question of BANK."""
    return {q.id: q for q in load(tmp_path, BANK).questions}.__getitem__


@pytest.mark.parametrize(
    ("name", "answer", "right"),
    [
        ("one", [0], True),
        ("one", [1], False),
        ("many", [0, 1], True),
        ("many", [1, 0], True),
        ("many", [0], False),
        ("many", [0, 1, 2], False),
        ("number", 3.7, True),
        ("number", 3.75, True),
        ("number", 3.7 + 0.05 * (1 + 1e-8), False),
        ("number", 4, False),
        ("number", 10**20, False),
        ("number", -0.0, False),
        ("order", [0, 1, 2], True),
        ("order", [0, 2, 1], False),
    ],
)
def test_an_answer_is_right_by_the_rule_of_the_page(question, name, answer, right):
    assert question(name).is_right(answer) is right
    assert (question(name).feedback_on(answer) == "") is right


def test_a_difference_of_exactly_the_tolerance_is_right(tmp_path):
    close = load(tmp_path, changed("number", answer=0.2, tolerance=0.1)).questions[2]
    assert (0.1 + 0.2) - 0.2 > 0.1 and close.is_right(0.1 + 0.2)
    around_zero = load(tmp_path, changed("number", answer=0.0, tolerance=1.0)).questions[2]
    assert around_zero.is_right(1 + 1e-9) and not around_zero.is_right(math.nextafter(1 + 1e-9, 2))


NO_INDICES = [
    None,
    True,
    0,
    0.0,
    "0",
    "",
    {},
    {"0": 0},
    [True],
    [False],
    [0.0],
    ["0"],
    [None],
    [[0]],
    [{}],
    [-1],
    [9],
]
NO_INDICES += [[0, 0], [10**400], [10**5000], [float("nan")], float("inf"), b"0", (0,)]
DEEP = [0]
for _ in range(100_000):
    DEEP = [DEEP]


@pytest.mark.parametrize("method", ["is_right", "in_words", "feedback_on"])
@pytest.mark.parametrize(
    ("name", "answers"),
    [
        ("one", [*NO_INDICES, DEEP, [], [0, 1], [2]]),
        ("many", [*NO_INDICES, DEEP, [], [3], [0, 1, 2, 0]]),
        (
            "order",
            [*NO_INDICES, DEEP, [], [0, 1], [0, 1, 1], [0, 1, 2, 3], [1, 2, 3], [0, 1, True]],
        ),
        (
            "number",
            [
                None,
                True,
                False,
                "3.7",
                "",
                [],
                [3.7],
                DEEP,
                {},
                3.7 + 0j,
                b"3.7",
                10**400,
                -(10**5000),
            ],
        ),
        ("number", [float("nan"), float("inf"), -float("inf")]),
    ],
)
def test_an_answer_of_another_form_is_refused(question, method, name, answers):
    for answer in answers:
        with pytest.raises(ValueError, match=r"expected .*, got ."):
            getattr(question(name), method)(answer)


@pytest.mark.parametrize(
    ("name", "answer", "said"),
    [
        ("one", [2], "expected a list of different whole numbers from 0 to 1, got [2]"),
        ("one", [0, 1], "expected one option, got 2"),
        ("many", [], "expected at least one option, got none"),
        ("order", [2, 0], "expected all 3 items, got 2"),
        ("number", "3.7", "expected a finite number, got '3.7'"),
        pytest.param(
            "number", 10**5000, "expected a finite number, got a very long int", id="very long"
        ),
    ],
)
def test_a_refusal_says_what_was_expected_and_what_was_got(question, name, answer, said):
    with pytest.raises(ValueError) as caught:
        question(name).is_right(answer)
    assert str(caught.value) == said


def test_a_refusal_stays_short_whatever_the_answer(question):
    for answer in ("x" * 10**6, list(range(10**5)), {str(i): i for i in range(1000)}, DEEP):
        with pytest.raises(ValueError) as caught:
            question("many").is_right(answer)
        assert len(str(caught.value)) < 300


def test_an_answer_is_put_in_words(tmp_path):
    options = [RIGHT | {"text": text} for text in ("`a` < **b**.", "c")]
    one, many, number, order = load(tmp_path, changed("many", options=options)).questions
    assert one.in_words([1]) == "that"
    assert many.in_words([1, 0]) == "a < b; c"
    assert order.in_words([2, 0, 1]) == "third; first; second"
    answers = [4, 4.0, -2.50, 3.7000001, 1e300, 10**20]
    written = ["4", "4", "-2.5", "3.7000001", "1e+300", "1e+20"]
    assert [number.in_words(answer) for answer in answers] == [f"{text} bits" for text in written]
    assert load(tmp_path, changed("number", unit="")).questions[2].in_words(4) == "4"


def test_feedback_speaks_of_what_is_wrong(tmp_path, question):
    assert question("one").feedback_on([1]) == "No."
    assert question("many").feedback_on([0, 2]) == 'On "c": No. 1 more belongs to the answer.'
    assert question("many").feedback_on([2]) == 'On "c": No. 2 more belong to the answer.'
    assert question("many").feedback_on([0, 1, 2]) == 'On "c": No.'
    assert question("number").feedback_on(4) == "No."
    assert (
        question("order").feedback_on([0, 2, 1])
        == 'On "third": third because On "second": second because'
    )
    marked_up = load(tmp_path, changed("number", feedback_wrong="**Not** `x < y`")).questions[2]
    assert marked_up.feedback_on(4) == "Not x < y"


def test_a_digest_changes_with_anything_in_the_question(tmp_path):
    first = load(tmp_path, BANK)
    assert len({digest(entry) for entry in [*first.questions, *first.flashcards]}) == 5
    assert [digest(q) for q in load(tmp_path, BANK).questions] == [
        digest(q) for q in first.questions
    ]
    for fields in (
        {"prompt": "How many?"},
        {"tolerance": 0.06},
        {"unit": ""},
        {"feedback_right": "Good."},
    ):
        assert digest(load(tmp_path, changed("number", **fields)).questions[2]) != digest(
            first.questions[2]
        )


def test_digests_stay_the_same_from_release_to_release(question):
    """Answers that students have saved would be forgotten otherwise."""
    assert digest(question("one")) == "d8bd555c6f7a"


# ------------------------------------------------------------------------------------------- markup


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("**bold** and *italic*", "<strong>bold</strong> and <em>italic</em>"),
        ("`a * b * c`", "<code>a * b * c</code>"),
        ("2 * 3 * 4", "2 * 3 * 4"),
        ("<img src=x onerror=alert(1)>", "&lt;img src=x onerror=alert(1)&gt;"),
        ("`</script>` & **<b>**", "<code>&lt;/script&gt;</code> &amp; <strong>&lt;b&gt;</strong>"),
        ("one\ntwo", "one<br>two"),
        ("a ` lone tick", "a ` lone tick"),
    ],
)
def test_only_the_light_markup_is_rendered(text, expected):
    assert rich(text) == expected


def test_plain_takes_the_markup_away():
    assert plain("**a** < `b`\nc") == "a < b\nc"


def test_no_text_can_close_the_script(tmp_path):
    evil = "</script><script>alert(1)</script>"
    page = QuizWidget(load(tmp_path, changed("one", prompt=evil, source=evil))).page()
    assert page.count("<script") == page.count("</script>") == 1
    assert json.loads(script_json(evil)) == evil


# ------------------------------------------------------------------------------------------- widget


def test_the_output_is_readable_html_with_the_module_inside(tmp_path):
    bundle = QuizWidget(load(tmp_path, BANK))._repr_mimebundle_()
    # a widget view would hide the HTML once its kernel is gone
    assert set(bundle) == {"text/plain", "text/html"}
    readable, script = bundle["text/html"].split("<script")
    for text in ("Which?", "this", "that", "3.7 bits", "second: second because", "Section 2"):
        assert text in readable
    assert "export default" in script and "A toy" in bundle["text/plain"]


def test_answers_and_score_come_back(tmp_path, home):
    bank = load(tmp_path, BANK)
    widget = QuizWidget(bank)
    assert widget.answer({"type": "hello"}) == {"type": "welcome", "results": {}}
    results = {"one": {"answer": [0], "right": True}, "number": {"answer": 1.0, "right": False}}
    assert widget.answer({"type": "save", "results": results, "score": 1}) == {
        "type": "saved",
        "note": "",
    }
    assert QuizWidget(bank).answer({"type": "hello"})["results"] == results
    assert read_record()["quizzes"]["toy"] == {"score": 1, "out_of": 4}
    widget.answer({"type": "save", "results": {}, "score": 0})
    assert QuizWidget(bank).saved() == {}


def test_an_answer_to_a_question_that_changed_is_forgotten(tmp_path, home):
    results = {"one": {"answer": [0], "right": True}, "many": {"answer": [0, 1], "right": True}}
    QuizWidget(load(tmp_path, BANK)).save(results, 2)
    again = QuizWidget(load(tmp_path, changed("one", prompt="Which one, then?")))
    assert list(again.saved()) == ["many"]


def test_an_unknown_message_and_an_unknown_question_do_no_harm(tmp_path, home):
    widget = QuizWidget(load(tmp_path, BANK))
    assert widget.answer({"type": "anywidget-command"}) is None
    widget.save({"nobody": {"answer": [0], "right": True}}, 0)
    assert widget.saved() == {}


@pytest.mark.parametrize("content", ["{broken", "[1]", "\x00"])
def test_a_damaged_file_is_set_aside(tmp_path, home, content):
    home.mkdir()
    (home / "quiz-toy.json").write_text(content, encoding="utf-8")
    widget = QuizWidget(load(tmp_path, BANK))
    with pytest.warns(UserWarning, match="damaged"):
        assert widget.saved() == {}
    assert (home / "quiz-toy.json.damaged").read_text(encoding="utf-8") == content
    widget.save({"one": {"answer": [0], "right": True}}, 1)
    assert list(widget.saved()) == ["one"]
    assert [p.name for p in home.iterdir() if p.suffix == ".part"] == []


@pytest.mark.parametrize("content", ['{"one": 3}', '{"one": {"digest": 1}}', '{"one": null}'])
def test_an_entry_of_another_form_is_ignored(tmp_path, home, content):
    home.mkdir()
    (home / "quiz-toy.json").write_text(content, encoding="utf-8")
    assert QuizWidget(load(tmp_path, BANK)).saved() == {}


def test_a_folder_that_cannot_be_written_is_said_on_the_page(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    monkeypatch.setenv("COURSE_HOME", str(tmp_path / "file"))
    reply = QuizWidget(load(tmp_path, BANK)).answer({"type": "save", "results": {}, "score": 0})
    assert reply["type"] == "saved" and reply["note"].startswith("Not saved: ")


def test_known_cards_are_kept_and_give_no_points(tmp_path, home):
    deck = DeckWidget(load(tmp_path, BANK))
    deck.answer({"type": "save", "results": {"card": True}, "score": 1})
    assert deck.answer({"type": "hello"})["results"] == {"card": True}
    assert read_record()["quizzes"] == {}


def test_a_deck_without_cards_is_refused(tmp_path, monkeypatch):
    bank = load(tmp_path, BANK | {"flashcards": []})
    monkeypatch.setattr(sys.modules["course_lib.classroom.quiz"], "load_bank", lambda topic: bank)
    with pytest.raises(ValueError, match="no flashcards"):
        flashcards("toy")
