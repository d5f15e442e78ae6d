"""The feedback and class pages in a browser: wide and narrow, light and dark, and under attack."""

import os
import random
from functools import cache
from pathlib import Path

import pytest

from course_lib.checking import exercises
from course_lib.checking.wording import describe
from course_lib.classroom.bank import load_bank, plain
from course_lib.grading.pages import class_page, feedback_page
from course_lib.grading.records import ExerciseMark, Grade, QuestionMark, QuizMark

SCREENSHOTS = os.environ.get("COURSE_SCREENSHOTS")  # a folder for screenshots of the pages
ATTACK = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
FIRST = (
    "Ada Bao Chidi Dalia Emil Fatou Goran Hana Inés Jun Kofi Leïla Mateo Nadia Óscar Priya Quentin"
    " Ruth Søren Tomoko"
)
LAST = (
    "Adeyemi Brandt Castillo Dvořák Eriksen Farouk Gupta Haddad Ivanova Jensen Kimura Lindqvist"
    " Moreau Nakamura"
)
PRINTED = "\n".join(f"step {i}: x_t has mean {0.1 * i:.2f}" for i in range(6))
WRONG = (
    "The shape and dtype of your answer are right, the values are not. The largest difference is at"
    " [0, 1, 3, 2]: "
)
WRONG += "expected 0.4132, got -1.27. 114 of 120 values differ."
ERROR = "IndexError: index 7 is out of bounds for dimension 0 with size 7"
NOTES = (
    "01_ddpm (1).ipynb is not a notebook: it ends in the middle of the JSON, so it was left out.",
)
MANY = ("`q_sample` is defined in cell 12 and again in cell 31; the last one was marked.",)


@cache
def make_class(n=24, seed=1):
    """Return grades of n invented students on the real exercises and quiz of chapter 01."""
    draw = random.Random(seed)
    names = [f"{first} {last}" for last in LAST.split() for first in FIRST.split()]
    names += [f"{name} {generation}" for generation in ("II", "III") for name in names]
    return [make_grade(name, draw.betavariate(4, 1.6), draw) for name in draw.sample(names, n)]


@cache
def make_assignment():
    """Return chapter 01's exercises, each with its cases in words, and its quiz's questions."""
    return [
        (e, [describe(case) for case in e.make_cases(0)]) for e in exercises("ddpm")
    ], load_bank("ddpm").questions


def make_grade(name, skill, draw):
    """Return a grade of a random student."""
    declared, questions = make_assignment()
    marks = tuple(
        make_mark(*pair, skill - 0.35 * i / len(declared), draw) for i, pair in enumerate(declared)
    )
    handed_in = draw.random() > 0.15
    quiz = tuple(
        make_answer(question, skill if handed_in else None, draw) for question in questions
    )
    note = "" if handed_in else "no quiz answers were handed in"
    return Grade(
        student=name,
        files=("01_ddpm.ipynb",),
        digest=f"{draw.getrandbits(32):08x}",
        exercises=marks,
        quizzes=(QuizMark(topic="ddpm", questions=quiz, note=note),),
        notes=NOTES if draw.random() < 0.06 else (),
    )


def make_mark(exercise, described, skill, draw):
    """Return a random mark of an exercise."""
    cases = len(described)
    points = exercise.points
    told = {"id": exercise.id, "points": points, "cases": cases}
    luck = draw.random()
    if luck < skill:
        notes = MANY if draw.random() < 0.1 else ()
        return ExerciseMark(**told, status="passed", earned=float(points), right=cases, notes=notes)
    if luck < skill + 0.07:
        return ExerciseMark(
            **told,
            status="missing",
            earned=0.0,
            right=0,
            sentence="Your notebook does not define it.",
        )
    if luck < skill + 0.15:
        stub = "The cell still holds the stub."
        return ExerciseMark(**told, status="not attempted", earned=0.0, right=0, sentence=stub)
    right = draw.choice((0, 0, 1))
    first = min(right, cases - 1)
    told |= {
        "right": right,
        "earned": points * right / cases,
        "status": "partly right" if right else "wrong",
    }
    told["shown"] = f"case {first + 1}, with {described[first]}"
    kind = draw.random()
    if kind < 0.6:
        name = list(exercise.misconceptions)[int(len(exercise.misconceptions) * draw.random() ** 2)]
        return ExerciseMark(
            **told, misconception=name, sentence=exercise.misconceptions[name].sentence
        )
    if kind < 0.8:
        where = (
            f"cell {draw.randrange(9, 60)}, in {exercise.name}",
            3,
            "a = alphas_cumprod[t + 1]",
        )
        return ExerciseMark(**told, sentence=ERROR, lines=(where,), printed=PRINTED)
    return ExerciseMark(**told, sentence=WRONG)


def make_answer(question, skill, draw):
    """Return a random answer to a question."""
    told = {"id": question.id, "prompt": plain(question.prompt)}
    if skill is None or draw.random() < 0.05:
        return QuestionMark(**told, status="not answered")
    options = getattr(question, "options", None)
    right = draw.random() < skill
    if options:
        picked = draw.choice([option for option in options if option.correct == right] or options)
        told |= {"given": plain(picked.text), "feedback": plain(picked.feedback)}
    elif question.kind == "numeric":
        feedback = question.feedback_right if right else question.feedback_wrong
        told |= {"given": "0.25", "feedback": plain(feedback)}
    return QuestionMark(**told, status="right" if right else "wrong")


@pytest.fixture(scope="module")
def page(browser):
    page = browser.new_page()
    yield page
    page.close()


@pytest.fixture
def open_page(page, tmp_path):
    """Provide open_page(html, width=..., color_scheme=...).

    It returns the page, and a list of all that the browser complains about.
    """
    path = tmp_path / "page.html"
    complaints = []
    listeners = {
        "console": lambda message: complaints.append(message.text),
        "pageerror": lambda error: complaints.append(str(error)),
        "dialog": lambda dialog: (complaints.append(dialog.message), dialog.dismiss()),
        "request": lambda request: request.url == path.as_uri() or complaints.append(request.url),
    }
    for event, listener in listeners.items():
        page.on(event, listener)

    def open_one(html, width=1200, color_scheme="light"):
        """Open a page of this HTML."""
        path.write_text(html, encoding="utf-8")
        page.set_viewport_size({"width": width, "height": 900})
        page.emulate_media(media="screen", color_scheme=color_scheme)
        page.goto(path.as_uri())
        return page, complaints

    yield open_one
    for event, listener in listeners.items():
        page.remove_listener(event, listener)


def overflow(page):
    """Return how many pixels wider than its window the page is, and what sticks out."""
    wide = "document.documentElement.scrollWidth - innerWidth"
    out = (
        "[...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right >"
        " innerWidth + 1)"
    )
    return page.evaluate(
        f"() => [{wide}, ...{out}.map(e => e.tagName + ' ' + e.textContent.slice(0, 40))]"
    )


PAGES = {
    "grading_class": lambda: class_page(make_class()),
    "grading_feedback": lambda: feedback_page(
        sorted(make_class(), key=lambda grade: grade.earned)[9]
    ),
    "grading_class_of_300": lambda: class_page(make_class(300)),
    "grading_class_of_1": lambda: class_page(make_class()[:1]),
    "grading_class_of_0": lambda: class_page([]),
}


@cache
def html(name):
    """Return the HTML of one of PAGES."""
    return PAGES[name]()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 390])
@pytest.mark.parametrize("name", PAGES)
def test_a_page_opens_without_complaint_and_fits_its_window(name, width, scheme, open_page):
    page, complaints = open_page(html(name), width, color_scheme=scheme)
    assert complaints == [] and overflow(page) == [0]
    paper = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, paper[4:-1].split(","))) > 382) == (scheme == "light")
    if SCREENSHOTS:
        Path(SCREENSHOTS).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=Path(SCREENSHOTS) / f"{name}_{width}_{scheme}.png", full_page=True)


def attacked(grade):
    """Return a grade with an attack, and an endless word, wherever a student can write."""
    text = f"{ATTACK}\u202e{'W' * 400}\x1b[2J"
    marks = [
        mark.model_copy(
            update={
                "sentence": text,
                "printed": text,
                "lines": ((text, 1, text),),
                "notes": (text,),
            }
        )
        for mark in grade.exercises
    ]
    (quiz,) = grade.quizzes
    questions = [question.model_copy(update={"given": text}) for question in quiz.questions]
    quizzes = (quiz.model_copy(update={"questions": tuple(questions)}),)
    news = {
        "student": text,
        "exercises": tuple(marks),
        "quizzes": quizzes,
        "notes": (text,),
        "files": (text,),
    }
    return grade.model_copy(update=news)


@pytest.mark.parametrize("width", [1200, 390])
@pytest.mark.parametrize(
    "draw",
    [feedback_page, lambda grade: class_page([*make_class(), grade])],
    ids=["feedback", "class"],
)
def test_a_hostile_student_changes_nothing_but_the_words(draw, width, open_page):
    page, complaints = open_page(draw(attacked(make_class()[0])), width)
    assert complaints == [] and overflow(page) == [0]
    assert page.evaluate("() => document.scripts.length + document.images.length") == 0
    assert page.title() != "owned" and ATTACK in page.locator("main").inner_text()


def test_a_script_that_got_into_a_page_would_not_run(open_page):
    page, complaints = open_page(
        feedback_page(make_class()[0]).replace("</main>", f"</main>{ATTACK}")
    )
    assert page.title() != "owned"
    assert any("Content Security Policy" in complaint for complaint in complaints)


def test_a_dark_scheme_is_printed_on_white(open_page):
    page, _ = open_page(class_page(make_class()), color_scheme="dark")
    page.emulate_media(media="print")
    assert (
        page.evaluate("() => getComputedStyle(document.body).backgroundColor")
        == "rgb(253, 253, 251)"
    )


def test_a_link_of_the_table_leads_to_what_happened(open_page):
    page, _ = open_page(html("grading_feedback"))
    link = page.locator("table a").last
    link.click()
    assert page.locator("article:target h3").inner_text().strip() == link.inner_text().strip()


def test_drawings_have_a_name_and_a_description_for_screen_readers(open_page):
    page, _ = open_page(class_page(make_class()))
    assert page.get_by_role("img", name="Distribution of the totals").count() == 1
    assert page.get_by_role("img", name="ddpm.respace: ").count() == 1
    unnamed = (
        "es => es.filter(e => e.getAttribute('role') === 'img' && !e.querySelector(':scope >"
        " title')).length"
    )
    assert page.locator("svg").evaluate_all(unnamed) == 0
