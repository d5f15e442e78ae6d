"""The feedback and the class page: what they say, and that no student's text becomes markup."""

import json
import random
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib import checking
from course_lib.checking import exercises, find_exercise
from course_lib.grading.exports import gradescope
from course_lib.grading.pages import class_page, feedback_page, overview
from course_lib.grading.pages.page import STYLE, number, prose, text, visible
from course_lib.grading.records import ExerciseMark, Grade, QuestionMark, QuizMark
from course_lib.grading.submissions import slug

ATTACK = (
    "</style></title><script>alert(1)</script><img src=x onerror=alert(1)>\" onclick='alert(1)'"
    " \u202e\x1b[31m`&lt;"
)
TAGS = (
    "a article aside b bdi body br circle code dd desc details div dl dt footer g h1 h2 h3 head"
    " header html li line "
)
TAGS += (
    "main meta ol p path pre rect section span style summary svg table tbody td text th thead title"
    " tr ul wbr"
)


def exercise_mark(id="ddpm.q_sample", status="passed", points=2, **more):
    """Return an exercise's mark, with all points if it passed."""
    earned = float(points) if status == "passed" else 0.0
    cases = {"right": 3 if status == "passed" else 0, "cases": 3}
    return ExerciseMark(
        **{"id": id, "status": status, "points": points, "earned": earned, **cases, **more}
    )


def question(id="jump", status="wrong", prompt="What is x?", **more):
    """Return a question of a quiz."""
    return QuestionMark(id=id, status=status, prompt=prompt, **more)


def grade(student="Ada Moreau", *marks, **more):
    """Return a student's grade."""
    return Grade(
        **{
            "student": student,
            "files": ("01.ipynb",),
            "digest": "0",
            "exercises": marks or (exercise_mark(),),
            **more,
        }
    )


class Tags(HTMLParser):
    """What a browser would find in a page: tags, attributes, and the words to be read."""

    def __init__(self, page):
        super().__init__()
        self.tags = set()
        self.attributes = set()
        self.said = []
        self.feed(page)
        self.words = " ".join("".join(self.said).split())

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attributes}
        if tag not in ("a", "b", "bdi", "code", "wbr") and ("class", "calm") not in attributes:
            self.said.append(" ")

    def handle_data(self, data):
        if self.cdata_elem is None:  # outside the style sheet
            self.said.append(data)


def words(page):
    """Return the words of a page."""
    return Tags(page).words


def section(page, title):
    """Return the section under a heading."""
    return next(part for part in page.split("<section>") if part.startswith(f"<h2>{title}"))


def hostile():
    """Return a grade with an attack in every place that a student can write to."""
    mark = exercise_mark(
        status="wrong",
        sentence=ATTACK,
        shown=ATTACK,
        lines=((ATTACK, 3, ATTACK),),
        printed=ATTACK,
        notes=(ATTACK,),
        misconception=ATTACK,
        id=f"ddpm.{ATTACK}",
    )
    quiz = QuizMark(
        topic=ATTACK,
        questions=(question(prompt=ATTACK, given=ATTACK, feedback=ATTACK),),
        note=ATTACK,
    )
    return grade(
        ATTACK, mark, quizzes=(quiz,), notes=(ATTACK,), files=(ATTACK,), details={ATTACK: ATTACK}
    )


# --------------------------------------------------------------------------------------------- text


@pytest.mark.parametrize(
    "draw", [feedback_page, lambda grade: class_page([grade])], ids=["feedback", "class"]
)
def test_an_attack_in_every_field_is_only_read(draw):
    page = draw(hostile())
    found = Tags(page)
    assert found.tags <= set(TAGS.split())
    assert not {
        name for name in found.attributes if name.startswith("on") or name in ("src", "xlink:href")
    }
    assert "<script>alert(1)</script>" in found.words
    assert "\u202e" not in page and "\x1b" not in page
    assert "\\u202e\\x1b[31m" in found.words


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=40), min_size=6, max_size=6)
)
def test_no_text_of_a_student_becomes_markup(texts):
    a, b, c, d, e, f = texts
    mark = exercise_mark(
        status="wrong", sentence=a, shown=b, lines=((c, 1, d),), printed=e, notes=(f,)
    )
    quiz = QuizMark(topic="ddpm", questions=(question(prompt=a, given=b, feedback=c),), note=d)
    one = grade(e, mark, quizzes=(quiz,), notes=(a, f), files=(c,))
    for page in (feedback_page(one), class_page([one])):
        assert Tags(page).tags <= set(TAGS.split())
        assert not re.search("[\0-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", page)


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("plain, 100 %", "plain, 100 %"),
        ("a\tb\nc", "a\tb\nc"),
        ("10%\r20%\r\nend", "10%\n20%\nend"),
        ("a\0b\x1b[1mc\x7f", "a\\x00b\\x1b[1mc\\x7f"),
        ("evil\u202egpj.exe", "evil\\u202egpj.exe"),
        ("a\u2066b\u200fc\u2028d\ufeff", "a\\u2066b\\u200fc\\u2028d\\ufeff"),
        ("Zoë Nguyễn 李 علي", "Zoë Nguyễn 李 علي"),
        ("می\u200cخواهم 👩\u200d🔬", "می\u200cخواهم 👩\u200d🔬"),
        ("e" + "\u0301" * 50 + "x", "e" + "\u0301" * 4 + "x"),
        ("\udce9t\udce9", "\\udce9t\\udce9"),
    ],
)
def test_what_would_scramble_the_page_is_written_out(raw, shown):
    assert visible(raw) == shown


def test_a_text_with_a_surrogate_can_be_written_as_utf_8():
    assert text("\udce9 < 1").encode() == b"\\udce9 &lt; 1"


def test_backticks_mark_code_and_cannot_open_a_tag():
    assert prose("use `a < b` here") == "use <code>a &lt; b</code> here"
    assert prose("`<b>`") == "<code>&lt;b&gt;</code>"
    assert prose("an odd ` stays") == "an odd ` stays"


@pytest.mark.parametrize(
    ("value", "shown"),
    [(2, "2"), (0, "0"), (0.0, "0"), (1.5, "1.5"), (4 / 3, "1.33"), (100.0, "100")],
)
def test_a_number_has_the_decimals_it_needs(value, shown):
    assert number(value) == shown


# --------------------------------------------------------------------------------------- every page

MIXED = [
    grade(
        "Ada",
        exercise_mark(),
        exercise_mark("ddpm.normal_kl", "wrong", misconception="reversed", sentence="No."),
    ),
    grade(
        "Bao",
        exercise_mark(status="missing"),
        exercise_mark("ddpm.normal_kl", "not attempted"),
        notes=("Cut.",),
    ),
]
PAGES = {
    "feedback": lambda: feedback_page(MIXED[0]),
    "feedback with everything": lambda: feedback_page(hostile()),
    "class": lambda: class_page(MIXED),
    "no students": lambda: class_page([]),
    "class of one": lambda: class_page([hostile()]),
}
every_page = pytest.mark.parametrize("draw", PAGES.values(), ids=list(PAGES))


@every_page
def test_a_page_needs_nothing_but_itself(draw):
    page = draw()
    outside = re.findall(
        r"https?:|//|<[^>]*src=|url\(|@import|<script|<link|<iframe|javascript:", page
    )
    assert outside == []
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    assert f'<meta http-equiv="Content-Security-Policy" content="{policy}">' in page
    assert page.index("Content-Security-Policy") < page.index("<style>")


@every_page
def test_every_drawing_is_well_formed_and_says_what_it_shows(draw):
    for drawing in re.findall(r"<svg.*?</svg>", draw(), re.DOTALL):
        root = ET.fromstring(drawing)
        assert root.get("aria-hidden") == "true" or (
            root.get("role") == "img" and root[0].tag == "title" and root[0].text
        )


@every_page
def test_no_id_of_a_part_is_used_twice(draw):
    ids = re.findall(r' id="([^"]*)"', draw())
    assert len(ids) == len(set(ids))


def test_text_is_readable_in_both_schemes():
    schemes = [
        dict(re.findall(r"--([\w-]+):(#\w+)", block))
        for block in re.findall(r":root\{(.*?)\}", STYLE, re.S)
    ]
    assert len(schemes) == 2
    pairs = [
        ("ink", "paper"),
        ("ink", "raised"),
        ("calm", "paper"),
        ("calm", "raised"),
        ("calm", "rest"),
    ]
    pairs += [("accent", "paper"), ("accent", "raised")]
    pairs += [(f"on-{kind}", kind) for kind in ("passed", "partly", "wrong", "idle")]
    for scheme in schemes:
        for ink, paper in pairs:
            assert contrast(scheme[ink], scheme[paper]) >= 4.5, (
                ink,
                paper,
                scheme[ink],
                scheme[paper],
            )


def contrast(a, b):
    """Return WCAG's contrast between two colours."""
    bright, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def luminance(colour):
    """Return WCAG's relative luminance of a colour."""
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    ]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_the_pages_can_be_imported_without_torch():
    code = (
        "import sys, course_lib.grading.pages, course_lib.grading.exports; sys.exit('torch' in"
        " sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# ---------------------------------------------------------------------------------------- a student


def test_the_feedback_tells_what_happened():
    mark = exercise_mark(
        status="partly right",
        earned=4 / 3,
        right=2,
        sentence="You scaled by `alpha-bar` itself.",
        shown="case 3, with t [0, 4]",
        lines=(("cell 12, in q_sample", 3, "return a * x"),),
        printed="hello\nworld",
        notes=("Defined twice.",),
    )
    page = feedback_page(grade("Zoë Ōtani", mark, notes=("a.ipynb is empty.",)))
    said = words(page)
    for part in (
        "Zoë Ōtani",
        "1.33 of 2 points",
        "partly right, 2 of 3 cases right; 1.33 of 2 points",
        "You scaled by alpha-bar itself.",
        "Shown: case 3, with t [0, 4]",
        "cell 12, in q_sample, line 3: return a * x",
        "hello world",
        "Defined twice.",
        "a.ipynb is empty.",
    ):
        assert part in said
    assert said.index("a.ipynb is empty.") < said.index("Exercises")
    assert '<a href="#exercise-1">' in page and 'id="exercise-1"' in page


def test_a_passed_exercise_without_notes_has_only_its_row():
    page = feedback_page(grade("Ada", exercise_mark()))
    assert "What happened" not in page and "#exercise" not in page
    assert "2 of 2" in words(page)


def test_a_quiz_shows_what_was_wrong_and_folds_the_rest():
    questions = (
        question("a", "right", "Right one?", given="yes", feedback="Indeed."),
        question("b", "wrong", "Wrong one?", given="42", feedback="Take the `root`."),
        question("c", "not answered", "Left out?"),
        question("d", "changed", "New wording?", feedback="The question has changed."),
    )
    page = feedback_page(
        grade("Ada", quizzes=(QuizMark(topic="ddpm", questions=questions, note="one is odd"),))
    )
    quiz = section(page, "Quiz on ddpm")
    unfolded = re.sub("<details>.*?</details>", "", quiz)
    assert "1 of 4 questions right" in unfolded and "One is odd." in unfolded
    assert (
        "Wrong one?" in unfolded
        and "You answered: 42" in unfolded
        and "Take the <code>root</code>." in unfolded
    )
    assert "New wording?" in unfolded and "The question has changed." in unfolded
    assert "Right one?" not in unfolded and "Left out?" not in unfolded
    assert "1 answered right" in quiz and "1 not answered" in quiz


# ------------------------------------------------------------------------------------------ a class


def bars(page):
    """Return the histogram's bars: {"60 to 70 %": students}."""
    drawing = next(
        svg
        for svg in re.findall(r"<svg.*?</svg>", page, re.S)
        if "Distribution of the totals" in svg
    )
    titles = [node.text for node in ET.fromstring(drawing).findall("./g/title")]
    return {name: int(n) for name, n in (title.split(": ") for title in titles)}


def test_the_histogram_counts_every_student_once():
    students = [
        grade(f"s{i}", exercise_mark(points=20, status="wrong", earned=float(i))) for i in range(21)
    ]
    found = bars(class_page(students))
    assert found == {f"{10 * i} to {10 * i + 10} %": 2 + (i == 9) for i in range(10)}


@pytest.mark.parametrize(
    ("earned", "points", "bar"),
    [
        (0.0, 20, "0 to 10 %"),
        (6.0, 20, "30 to 40 %"),
        (0.3, 3, "10 to 20 %"),
        (20.0, 20, "90 to 100 %"),
    ],
)
def test_a_total_on_the_edge_belongs_to_the_upper_bar(earned, points, bar):
    assert bars(
        class_page([grade("Ada", exercise_mark(points=points, status="wrong", earned=earned))])
    ) == {bar: 1}


def test_median_and_mean_are_those_of_the_totals():
    said = words(
        class_page(
            [
                grade(f"s{i}", exercise_mark(status="wrong", earned=e))
                for i, e in enumerate((0.0, 0.5, 2.0))
            ]
        )
    )
    assert (
        "Median 0.5 of 2 points Mean 0.83 of 2 points Lowest to highest 0 to 2 of 2 points" in said
    )


def test_the_hardest_exercise_comes_first():
    ids = ["ddpm.q_sample", "ddpm.normal_kl", "ddpm.simple_loss"]
    statuses = {"Ada": ("passed", "wrong", "passed"), "Bao": ("passed", "wrong", "missing")}
    page = class_page([grade(s, *map(exercise_mark, ids, all)) for s, all in statuses.items()])
    said = words(section(page, "Exercises, the hardest first"))
    assert said.index("normal_kl") < said.index("simple_loss") < said.index("q_sample")
    assert "The hardest exercise is ddpm.normal_kl: 0 % of its points were earned." in words(page)
    assert "ddpm.simple_loss: 1 passed, 1 missing" in page


def test_misconceptions_are_counted_and_told_in_the_courses_words():
    wrong = [("ddpm.q_sample", "swapped")] * 2 + [("ddpm.normal_kl", "reversed")] * 3
    students = [
        grade(f"s{i}", exercise_mark(id, "wrong", misconception=name))
        for i, (id, name) in enumerate(wrong)
    ]
    page = class_page(students)
    said = words(section(page, "What was misunderstood"))
    first, second = (
        find_exercise(id).misconceptions[name].sentence for id, name in (wrong[-1], wrong[0])
    )
    assert said.index(first) < said.index(second)
    assert "3 of 5" in said and "2 of 5" in said
    assert "The commonest misconception is reversed in ddpm.normal_kl, shown by 3 of 5." in words(
        page
    )


@pytest.mark.parametrize("id", ["ddpm.q_sample", "ddpm.gone", "gone.gone", "gone"])
def test_an_undeclared_misconception_keeps_its_stored_sentence(id):
    page = class_page(
        [grade("Ada", exercise_mark(id, "wrong", misconception="gone", sentence="As it was."))]
    )
    assert "As it was." in words(section(page, "What was misunderstood"))


def test_the_slip_of_a_misconception_is_folded_away_for_the_instructor_only():
    slip = find_exercise("ddpm.q_sample").misconceptions["no_sqrt"]
    one = grade("Ada", exercise_mark("ddpm.q_sample", "wrong", misconception="no_sqrt"))
    page = class_page([one])
    fold = (
        f"<details><summary>The slip in the course's own solution</summary><pre>{text(slip.diff)}"
    )
    assert ".sqrt()" in slip.diff and fold in section(page, "What was misunderstood")
    for line in slip.diff.splitlines():
        for handed_back in (feedback_page(one), json.dumps(gradescope(one)), one.model_dump_json()):
            assert line not in handed_back and text(line) not in handed_back


def test_a_slip_cannot_become_markup(monkeypatch):
    slip = SimpleNamespace(sentence="A sentence.", diff=f"-    a < b\n+    {ATTACK}")
    declared = SimpleNamespace(misconceptions={"slip": slip})
    monkeypatch.setattr(checking, "find_exercise", lambda id: declared)
    page = class_page([grade("Ada", exercise_mark(status="wrong", misconception="slip"))])
    assert "&lt;script&gt;" in page and Tags(page).tags <= set(TAGS.split())


def test_a_misconception_without_a_slip_has_no_fold(monkeypatch):
    declared = SimpleNamespace(misconceptions={"slip": SimpleNamespace(sentence="No.", diff="")})
    monkeypatch.setattr(checking, "find_exercise", lambda id: declared)
    page = class_page([grade("Ada", exercise_mark(status="wrong", misconception="slip"))])
    assert "<details" not in section(page, "What was misunderstood")


def test_every_declared_misconception_can_be_shown():
    names = [
        (e.id, name, m.sentence) for e in exercises("ddpm") for name, m in e.misconceptions.items()
    ]
    marks = [
        grade(f"s{i}", exercise_mark(id, "wrong", misconception=name))
        for i, (id, name, _) in enumerate(names)
    ]
    said = words(class_page(marks).replace("<code>", "`").replace("</code>", "`"))
    assert [sentence for _, _, sentence in names if sentence not in said] == []


def test_the_questions_most_often_answered_wrong_come_first():
    statuses = {
        "a": "right right wrong",
        "b": "wrong wrong right",
        "c": "right right right",
        "d": "not_answered " * 3,
    }
    students = []
    for i in range(3):
        asked = [
            question(id, all.split()[i].replace("_", " "), f"Question {id}?")
            for id, all in statuses.items()
        ]
        students.append(grade(f"s{i}", quizzes=(QuizMark(topic="ddpm", questions=tuple(asked)),)))
    said = words(section(class_page(students), "Quiz questions most often answered wrong"))
    assert said.index("Question b? 2 of 3 answers") < said.index("Question a? 1 of 3 answers")
    assert "Question c?" not in said and "Question d?" not in said


def test_students_are_linked_to_their_feedback_and_sorted_by_name():
    page = class_page([grade("bao / ../x"), grade("Zoë <b>"), grade("Ada")])
    hrefs = re.findall(r'<a href="([^"]*)"', section(page, "Students"))
    assert hrefs == [
        f"students/{slug(name)}/feedback.html" for name in ("Ada", "bao / ../x", "Zoë <b>")
    ]


def test_a_slug_cannot_break_out_of_its_link(monkeypatch):
    monkeypatch.setattr(overview, "slug", lambda student: '"><script>')
    assert Tags(class_page([grade("Ada")])).tags <= set(TAGS.split())


def test_notes_are_listed_for_the_students_who_have_some():
    said = words(section(class_page(MIXED), "Submissions with notes"))
    assert said == "Submissions with notes Bao Cut."


def test_students_without_a_readable_file_count_in_no_figure():
    absent = grade(
        "Cleo", exercise_mark(status="missing"), files=(), notes=("Nothing was handed in.",)
    )
    page = class_page([grade("Ada", exercise_mark()), absent])
    said = words(page)
    assert "The figures leave out 1 student who handed in nothing that could be read." in said
    assert bars(page) == {"90 to 100 %": 1}
    assert "Every point of every exercise was earned." in said and "Marked 1 of 2 students" in said
    assert "Cleo" in words(section(page, "Students")) and "Cleo" in words(
        section(page, "Submissions with notes")
    )


def test_a_class_of_absent_students_has_no_figures_and_a_list():
    page = class_page([grade("Cleo", exercise_mark(status="missing"), files=())])
    assert "Nothing was handed in that could be read" in words(page) and "Cleo" in words(page)
    assert "histogram" not in page.partition("</style>")[2]


def test_a_class_without_a_point_says_so():
    page = class_page([grade(f"s{i}", exercise_mark(status="missing")) for i in range(5)])
    assert "No point of any exercise was earned." in words(page)
    assert bars(page) == {"0 to 10 %": 5}


def test_the_order_of_the_grades_does_not_matter():
    draw = random.Random(0)
    statuses = ("passed", "wrong", "missing")
    students = [
        grade(f"s{i}", *(exercise_mark(e.id, draw.choice(statuses)) for e in exercises("ddpm")))
        for i in range(30)
    ]
    page = class_page(students)
    assert page == class_page(students[::-1]) == class_page(draw.sample(students, 30))
