"""The page's scoring and the grader's: one rule, written in two languages."""

import itertools
import json
import math

import pytest

from course_lib.classroom.bank import load_bank
from course_lib.classroom.quiz import QuizWidget
from course_lib.grading.quizzes import mark_quiz
from course_lib.paths import QUIZZES

TOPICS = sorted(path.stem for path in QUIZZES.glob("*.yaml"))

SHOW_KINDS = (
    "globalThis.kinds = { single: choiceKind, multiple: choiceKind, numeric: numericKind, ordering:"
    " orderingKind };"
)

# Every answer is put into the question's own inputs, read from them as on "Check", and judged.
# Both ways as JSON: Playwright's own encoding of thousands of answers takes seconds.
JUDGE = """(text) => {
  const [questions, answers] = JSON.parse(text);
  return JSON.stringify(questions.map((question, n) => {
    const body = kinds[question.kind](question);
    return answers[n].map((answer) => {
      body.set(answer);
      return [body.answer(), body.right(body.answer())];
    });
  }));
}"""

# A kernel's end that keeps what the page sends; the page looks it up by its key.
LISTEN = """(key) => {
  globalThis.sent = [];
  const model = { on() {}, send: (message) => sent.push(message) };
  globalThis[Symbol.for("course.models")] = new Map([[key, model]]);
}"""

ANSWER = """([questions, answers]) => {
  const root = document.querySelector("[data-course]").shadowRoot;
  root.querySelectorAll("form.question").forEach((form, n) => {
    const { kind, items } = questions[n];
    const inputs = form.querySelectorAll("input");
    if (kind === "numeric") inputs[0].value = answers[n];
    else if (kind !== "ordering") for (const i of answers[n]) inputs[i].click();
    else {
      const rows = [...form.querySelectorAll("ol.ordering > li")]; // in the order of `start`
      const row = (i) => rows[questions[n].start.indexOf(i)];
      answers[n].forEach((i, place) => {
        const at = () => [...row(i).parentNode.children].indexOf(row(i));
        while (at() > place) row(i).querySelector("[title='Move up']").click();
      });
    }
    form.requestSubmit();
  });
  return [sent.at(-1), root.querySelector(".total").textContent];
}"""


@pytest.fixture(params=TOPICS)
def bank(request):
    return load_bank(request.param)


@pytest.fixture(scope="module")
def page(browser):
    page = browser.new_page()
    yield page
    page.close()


@pytest.fixture
def open_quiz(page):
    """open_quiz(widget) -> a page that shows the widget's output and nothing else."""

    def open_one(widget):
        page.goto("about:blank")
        page.evaluate(LISTEN, widget.key)
        before, start, key = widget.page().rpartition("startAll(")
        page.set_content(f"{before}{SHOW_KINDS}\n{start}{key}")
        page.wait_for_function("() => globalThis.kinds && sent.length")
        return page

    return open_one


def possible(question):
    """Answers that the page can give: all of them, or for a number those around the tolerance's
    edges.
    """
    if question.kind == "single":
        return [[i] for i in range(len(question.options))]
    if question.kind == "multiple":
        indices = range(len(question.options))
        return [list(chosen) for n in indices for chosen in itertools.combinations(indices, n + 1)]
    if question.kind == "ordering":
        return [list(order) for order in itertools.permutations(range(len(question.items)))]
    answers = [question.answer, 0, 7, -1e300, 5e-324, 123456789012345680000]
    for sign, slack in itertools.product((-1, 1), (0, 1e-9, 2e-9)):
        edge = question.answer + sign * question.tolerance * (1 + slack)
        answers += [edge, math.nextafter(edge, math.inf), math.nextafter(edge, -math.inf)]
    return answers


def test_page_and_grader_agree_on_every_answer(bank, open_quiz):
    widget = QuizWidget(bank)
    table = [possible(question) for question in bank.questions]
    page = open_quiz(widget)
    judged = json.loads(page.evaluate(JUDGE, json.dumps([widget.payload["questions"], table])))
    for question, answers, pairs in zip(bank.questions, table, judged, strict=True):
        assert [given for given, _ in pairs] == answers, (
            f"{question.id}: the page reads other answers than were set"
        )
        by_page = [right for _, right in pairs]
        assert [question.is_right(given) for given, _ in pairs] == by_page, question.id
        assert {True, False} == set(by_page), (
            f"{question.id}: the table lacks right answers, or wrong ones"
        )


def test_what_the_page_saves_is_marked_as_the_page_scored_it(bank, open_quiz, course_home):
    widget = QuizWidget(bank)
    wanted = [n % 3 > 0 for n in range(len(bank.questions))]  # every third one wrong
    answers = [
        next(a for a in reversed(possible(question)) if question.is_right(a) == right)
        for question, right in zip(bank.questions, wanted, strict=True)
    ]
    message, total = open_quiz(widget).evaluate(ANSWER, [widget.payload["questions"], answers])
    assert widget.answer(message) == {"type": "saved", "note": ""}
    stored = json.loads((course_home / f"quiz-{bank.topic}.json").read_text(encoding="utf-8"))
    mark = mark_quiz(bank.topic, stored)
    assert [question.status for question in mark.questions] == [
        "right" if right else "wrong" for right in wanted
    ]
    assert (
        total.startswith(f"Score: {mark.earned} of {mark.points}.")
        and message["score"] == mark.earned
    )
