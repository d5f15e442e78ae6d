"""One student's work becomes one grade: points, sentences, lines and notes, the same every time."""

import json
import re

import pytest
import torch

from course_lib.build import solution_edition, sources
from course_lib.checking import exercises, find_exercise
from course_lib.checking.observe import Leaf, Outcome, flatten, preserved, run
from course_lib.checking.wording import describe
from course_lib.grading import marking
from course_lib.grading.isolation import Jail, Reply
from course_lib.grading.marking import mark_work, work_digest
from course_lib.grading.notebook import read_notebook
from course_lib.grading.records import Assignment, Cell, Grade, Work
from course_lib.grading.wire import pack
from course_lib.paths import NOTEBOOKS

START_HERE = Assignment(topics=("start_here",), quizzes=False, seed=5)
DDPM = Assignment(topics=("ddpm",), quizzes=False, seed=5)
IMPORTS = "import torch\nfrom course_lib.classroom import exercise"
Q_SAMPLE = """\
@exercise("ddpm.q_sample")
def q_sample(x_start, t, noise, alphas_cumprod):
    a = alphas_cumprod[t].reshape(-1, *[1] * (x_start.ndim - 1))
    return {}
"""
RIGHT = Q_SAMPLE.format("a.sqrt() * x_start + (1 - a).sqrt() * noise")
SIMPLE_LOSS = """\
@exercise("ddpm.simple_loss")
def simple_loss(model, x_start, t, noise, alphas_cumprod):
    x_t = q_sample(x_start, t, noise, alphas_cumprod)
    return (noise - model(x_t, t)).square().flatten(1).mean(1)
"""
MADE = "return rgb.permute(0, 3, 1, 2) / 127.5 - ({})"
TO_MODEL = '@exercise("start_here.to_model")\ndef pixels_to_float(rgb):\n    '


@pytest.fixture(scope="module")
def jail():
    """Provide a bwrap jail."""
    with Jail() as jail:
        yield jail


def work(*cells, **more):
    """Return a notebook of these cells as it was read."""
    named = tuple(Cell(name=f"cell {n}", source=source) for n, source in enumerate(cells, 1))
    return Work(student="Ada", cells=named, **more)


def one(id, jail, *cells, seed=5, passed=()):
    """Return the mark of one exercise in a notebook of these cells."""
    return marking._mark_exercise(
        find_exercise(id), work(IMPORTS, *cells).cells, seed, list(passed), jail
    )


# ---------------------------------------------------------------------------------- whole notebooks


def test_the_solution_editions_get_full_marks(jail):
    cells = [
        cell.source
        for source in sources()
        for cell in solution_edition(source).cells
        if cell.cell_type == "code"
    ]
    assignment = Assignment(topics=("start_here", "ddpm"), quizzes=False, seed=2**31 - 1)
    grade = mark_work(work(*cells), assignment, jail)
    assert (
        grade.earned
        == grade.points
        == sum(e.points for topic in assignment.topics for e in exercises(topic))
    )
    assert len(grade.exercises) == 14 and {mark.status for mark in grade.exercises} == {"passed"}
    assert all(
        (mark.right, mark.sentence, mark.shown, mark.lines, mark.notes)
        == (mark.cases, "", "", (), ())
        for mark in grade.exercises
    )


def test_the_student_edition_is_not_attempted(jail):
    cells = [source or "" for source in read_notebook((NOTEBOOKS / "01_ddpm.ipynb").read_bytes())]
    grade = mark_work(work(*cells), DDPM, jail)
    assert [mark.status for mark in grade.exercises] == ["not attempted"] * 12
    assert grade.earned == 0 and grade.points == sum(e.points for e in exercises("ddpm"))
    assert all(
        mark.sentence == "" and mark.shown == "" and mark.lines == () for mark in grade.exercises
    )


def test_the_grade_records_what_was_handed_in(jail):
    handed_in = work(RIGHT, details={"ID": "7"}, files=("a.ipynb", "b.json"), notes=("A note.",))
    grade = mark_work(handed_in, START_HERE, FakeJail())
    assert (grade.student, grade.details, grade.files) == (
        "Ada",
        {"ID": "7"},
        ("a.ipynb", "b.json"),
    )
    assert grade.notes == ("A note.",)
    assert grade.digest == work_digest(handed_in, START_HERE)
    assert Grade.model_validate_json(grade.model_dump_json()) == grade


def test_without_a_notebook_every_exercise_is_missing():
    grade = mark_work(Work(student="Ada"), START_HERE, FakeJail())
    assert [(mark.status, mark.earned) for mark in grade.exercises] == [("missing", 0.0)] * 2
    assert {mark.sentence for mark in grade.exercises} == {
        "There is no notebook to look for an answer in."
    }


def test_a_missing_answer_is_told_what_was_looked_for(jail):
    missing = one("ddpm.q_sample", jail, "x = 1")
    assert (missing.status, missing.earned, missing.right, missing.cases) == ("missing", 0.0, 0, 8)
    assert missing.sentence == 'No definition with @exercise("ddpm.q_sample") above it was found.'
    broken = one("ddpm.q_sample", jail, RIGHT + "    return (")
    assert (
        broken.status == "missing"
        and "cell 2 cannot be read: '(' was never closed (line 5)." in broken.sentence
    )


# ------------------------------------------------------------------------------------------- points


@pytest.mark.parametrize(
    ("id", "answer", "right", "cases", "earned"),
    [
        (
            "ddpm.q_sample",
            RIGHT.replace("return", "return x_start if x_start.ndim == 2 else"),
            6,
            8,
            1.5,
        ),
        (
            "ddpm.q_sample",
            RIGHT.replace("return", "return x_start if x_start.ndim == 4 else"),
            2,
            8,
            0.5,
        ),
        (
            "start_here.to_model",
            TO_MODEL + MADE.format("1 if len(rgb) == 1 else 1 / 0"),
            2,
            6,
            0.33,
        ),
        ("start_here.to_model", TO_MODEL + MADE.format("float(len(rgb) < 4)"), 4, 6, 0.67),
        ("start_here.to_model", TO_MODEL + "return rgb", 0, 6, 0.0),
        ("start_here.to_model", TO_MODEL + MADE.format("1"), 6, 6, 1.0),
    ],
)
def test_points_are_given_for_each_case(jail, id, answer, right, cases, earned):
    found = one(id, jail, answer)
    assert (found.right, found.cases, found.earned) == (right, cases, earned)
    assert found.earned == round(find_exercise(id).points * right / cases, 2)
    assert found.status == {0: "wrong", cases: "passed"}.get(right, "partly right")


def test_a_misconception_is_named_with_its_sentence(jail):
    found = one("ddpm.q_sample", jail, Q_SAMPLE.format("a * x_start + (1 - a) * noise"))
    assert found.status == "wrong" and found.misconception == "no_sqrt"
    assert found.sentence == find_exercise("ddpm.q_sample").misconceptions["no_sqrt"].sentence


def test_the_first_wrong_case_is_shown_as_it_was_drawn(jail):
    answer = RIGHT.replace("return", "if x_start.ndim == 2:\n        return x_start\n    return")
    found = one("ddpm.q_sample", jail, answer, seed=11)
    case = find_exercise("ddpm.q_sample").make_cases(11)[2]
    assert found.shown == f"case 3, with {describe(case)}"
    assert f"t {case['t'].tolist()}, noise (5, 2) float32 from " in found.shown
    assert one("ddpm.q_sample", jail, RIGHT, seed=11).shown == ""


def test_the_seed_draws_the_cases(jail):
    case = find_exercise("start_here.to_model").make_cases(5)[0]["rgb"]
    learnt = (
        f"import torch\nanswers = torch.tensor({(case.permute(0, 3, 1, 2) / 127.5 - 1).tolist()})\n"
    )
    cheat = learnt + TO_MODEL + "return answers"
    assert one("start_here.to_model", jail, cheat, seed=5).right == 1
    assert one("start_here.to_model", jail, cheat, seed=6).right == 0


# ------------------------------------------------------------------------- what the student is told


def test_error_lines_are_the_students_own_numbered_as_in_the_cell(jail):
    helper = (
        "\n# a comment\n\ndef helper(x):\n    return torch.linalg.inv(x)  # numbers are of no shape"
    )
    answer = "%matplotlib inline\n\n" + Q_SAMPLE.format("helper(x_start)")
    found = one("ddpm.q_sample", jail, helper, answer)
    assert found.lines == (
        ("cell 3, q_sample", 6, "return helper(x_start)"),
        ("cell 2, helper", 5, "return torch.linalg.inv(x)  # numbers are of no shape"),
    )
    assert found.status == "wrong" and "linalg.inv" in found.sentence


def test_an_error_in_what_an_answer_needs_names_its_cell(jail):
    found = one(
        "ddpm.q_sample",
        jail,
        "x = 1\nfrom nowhere import thing",
        RIGHT.replace("return", "return thing +"),
    )
    assert found.status == "wrong" and found.right == 0
    assert found.sentence == "ModuleNotFoundError: No module named 'nowhere'"
    assert found.lines == (("cell 2", 2, "from nowhere import thing"),)


def test_code_that_does_not_compile_is_reported(jail):
    found = one("ddpm.q_sample", jail, "@exercise('ddpm.q_sample')\ndef f(x, x):\n    return x")
    assert found.status == "wrong"
    assert (
        found.sentence
        == "SyntaxError: duplicate argument 'x' in function definition (cell 2, line 2)"
    )


def test_what_is_printed_is_kept_for_right_and_wrong_answers(jail):
    speaking = RIGHT.replace("    a =", "    print('n =', len(x_start))\n    a =")
    assert one("ddpm.q_sample", jail, speaking).printed == "".join(
        f"n = {len(case['t'])}\n" for case in find_exercise("ddpm.q_sample").make_cases(5)
    )
    shouting = one("ddpm.q_sample", jail, speaking.replace("return", "return -"))
    assert shouting.status == "wrong" and shouting.printed.startswith("n = 3\n")


def test_addresses_and_folders_are_left_out(jail):
    body = (
        "import sys\n    print(object(), torch.__file__)\n    raise ValueError(f'{object()} in"
        " {sys.prefix}')"
    )
    found = one("start_here.to_model", jail, TO_MODEL + body)
    assert found.printed == "<object object at 0x...> .../torch/__init__.py\n" * 6
    assert found.sentence == "ValueError: <object object at 0x...> in ..."


def test_a_sentence_has_a_maximum_length(jail):
    found = one(
        "start_here.to_model",
        jail,
        TO_MODEL + "return {f'a_rather_long_key_{n}': 1 for n in range(500)}",
    )
    assert (
        found.sentence.startswith("Expected a tensor, got a dict with the keys ")
        and len(found.sentence) <= 1000
    )


def test_undefined_names_and_names_from_outside_are_explained(jail):
    loop = "for step in range(3):\n    best = step"
    found = one("start_here.to_model", jail, loop, TO_MODEL + "return rgb * best")
    assert found.sentence == "NameError: name 'best' is not defined"
    assert len(found.notes) == 1 and found.notes[0].startswith(
        "`best` comes from no import, function, class or assign"
    )
    found = one("start_here.to_model", jail, "scale, T = 255, 3", TO_MODEL + "return rgb / scale")
    assert found.notes == (
        "Your answer uses `scale`, made outside of it, rather than only its parameters.",
    )
    right = one(
        "start_here.to_model",
        jail,
        "scale = 127.5",
        TO_MODEL + "return rgb.permute(0, 3, 1, 2) / scale - 1",
    )
    assert right.status == "passed" and right.notes == ()


def test_the_last_of_two_answers_counts_and_a_note_says_so(jail):
    found = one("ddpm.q_sample", jail, Q_SAMPLE.format("x_start"), RIGHT)
    assert found.status == "passed"
    assert found.notes == (
        (
            "Your notebook answers this 2 times; the last one counts, in cell 3, not the one in"
            " cell 2."
        ),
    )


def test_warnings_of_other_cells_are_not_printed(jail):
    assert one("ddpm.q_sample", jail, "title = '\\alpha'", RIGHT).printed == ""


# ------------------------------------------------------------------------------- exercises together


def marks_by_name(grade):
    """Return the marks by the exercise's name without its topic."""
    return {mark.id.partition(".")[2]: mark for mark in grade.exercises}


def test_an_exercise_that_needs_a_failed_one_gets_the_courses_and_says_so(jail):
    grade = marks_by_name(
        mark_work(work(IMPORTS, Q_SAMPLE.format("x_start"), SIMPLE_LOSS), DDPM, jail)
    )
    assert (grade["q_sample"].status, grade["simple_loss"].status) == ("wrong", "passed")
    assert grade["simple_loss"].notes == (
        (
            "This answer was run with the course's own version of `ddpm.q_sample`, since yours has"
            " not passed."
        ),
    )


def test_an_exercise_that_needs_a_passed_one_gets_the_students_own(jail):
    mine = RIGHT.replace("    a =", "    print('mine')\n    a =")
    grade = marks_by_name(mark_work(work(IMPORTS, mine, SIMPLE_LOSS), DDPM, jail))
    assert (grade["q_sample"].status, grade["simple_loss"].status) == ("passed", "passed")
    assert "mine" in grade["simple_loss"].printed and grade["simple_loss"].notes == ()


def test_a_helper_with_a_mistyped_id_is_used_as_it_is(jail):
    helper = '@exercise("ddpm.q_sampel")\ndef helper(a):\n    return a.sqrt()'
    found = one(
        "ddpm.q_sample",
        jail,
        helper,
        Q_SAMPLE.format("helper(a) * x_start + helper(1 - a) * noise"),
    )
    assert found.status == "passed" and found.notes == ()


def test_one_bad_answer_changes_nothing_for_the_others(jail):
    expected = marks_by_name(mark_work(work(IMPORTS, RIGHT, SIMPLE_LOSS), DDPM, jail))
    bad = (
        '@exercise("ddpm.normal_kl")\ndef kl(mean1, log_variance1, mean2, log_variance2):\n   '
        " import os; os._exit(1)"
    )
    got = marks_by_name(mark_work(work(IMPORTS, RIGHT, SIMPLE_LOSS, bad, "def ("), DDPM, jail))
    assert (
        got["normal_kl"].sentence
        == "Your code was stopped: it ended the process it ran in, with exit code 1"
    )
    assert {**expected, "normal_kl": 0} == {**got, "normal_kl": 0}


# ------------------------------------------------------------------------------- the same each time

RESTLESS = """\
import os, random, time
import numpy as np

@exercise("start_here.to_model")
def pixels_to_float(rgb):
    class Thing: pass
    names = {f"name {n}" for n in range(50)}
    print(random.random(), np.random.rand(), torch.rand(2), names, Thing())
    x = torch.randn(rgb.shape).permute(0, 3, 1, 2)
    return x + random.random() + np.random.rand() + len(min(names))

@exercise("start_here.patchify")
def patchify(image, patch):
    raise KeyError({f"key {n}" for n in range(20)}, object(), patchify)
"""


def test_two_markings_in_two_jails_are_equal(jail):
    restless = work(IMPORTS, RESTLESS)
    first = mark_work(restless, START_HERE, jail)
    with Jail() as another:
        torch.manual_seed(3)
        second = mark_work(restless, START_HERE, another)
    assert first == second == mark_work(restless, START_HERE, jail)
    assert first.model_dump_json() == second.model_dump_json()
    assert first.exercises[0].printed and first.exercises[1].sentence.startswith("KeyError")


def test_another_seed_gives_other_cases(jail):
    restless = work(IMPORTS, RESTLESS)
    other = START_HERE.model_copy(update={"seed": 6})
    assert (
        mark_work(restless, other, jail).exercises
        != mark_work(restless, START_HERE, jail).exercises
    )


def test_marking_does_not_touch_the_graders_random_numbers(jail):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    mark_work(work(IMPORTS, TO_MODEL + "return rgb"), START_HERE, jail)
    assert torch.equal(torch.rand(3), expected) and torch.get_default_dtype() == torch.float32


# ------------------------------------------------------------------------------ quizzes and digests


def test_quizzes_are_marked_only_where_they_count():
    answered = work(answers={"ddpm": {}})
    assert mark_work(answered, DDPM, FakeJail()).quizzes == ()
    both = Assignment(topics=("start_here", "ddpm"), quizzes=True, seed=5)
    quizzes = mark_work(answered, both, FakeJail()).quizzes
    assert [quiz.topic for quiz in quizzes] == ["start_here", "ddpm"]
    assert quizzes[0].note == "no quiz answers were handed in" and quizzes[1].note == ""


def test_the_digest_changes_with_the_work_the_assignment_and_the_course(monkeypatch):
    one = work("x = 1")
    other = work("x = 2")
    changed = (
        DDPM.model_copy(update={"seed": 6}),
        DDPM.model_copy(update={"quizzes": True}),
        START_HERE,
    )
    moved = (
        one.model_copy(update={"student": "Bob"}),
        one.model_copy(update={"answers": {"ddpm": {}}}),
    )
    digests = [
        work_digest(one, DDPM),
        work_digest(other, DDPM),
        *(work_digest(one, each) for each in changed),
    ]
    digests += [work_digest(each, DDPM) for each in moved]
    monkeypatch.setattr(marking, "_course_digest", lambda: "another course")
    digests.append(work_digest(one, DDPM))
    assert len(set(digests)) == len(digests) and all(
        re.fullmatch("[0-9a-f]{64}", each) for each in digests
    )
    monkeypatch.undo()
    assert work_digest(work("x = 1"), DDPM.model_copy()) == digests[0]


def test_the_digest_of_the_course_covers_all_its_code(monkeypatch, tmp_path):
    for name in ("a.py", "deep/b.py"):
        (tmp_path / "course_lib" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "course_lib" / name).write_text("x = 1")
    monkeypatch.setattr(marking, "ROOT", tmp_path)
    monkeypatch.setattr(marking, "QUIZZES", tmp_path / "quizzes", raising=False)
    course = marking._course_digest.__wrapped__
    before = course()
    assert course() == before
    (tmp_path / "course_lib" / "deep" / "b.py").write_text("x = 2")
    assert course() != before


# --------------------------------------------------------------------------- what a jail could send


class FakeJail(Jail):
    """A jail that replies with given frames, whatever it is asked."""

    def __init__(self, *frames, **more):
        super().__init__()
        self.reply = Reply([*frames], **more)

    def run(self, request):
        return self.reply


INFO = json.dumps({"notes": [], "replaced": [], "unresolved": [], "outside": []}).encode()


def made_up(*frames, id="start_here.to_model", **more):
    """Return the mark for frames that a jail made up."""
    return one(id, FakeJail(*frames, **more))


def honest(id="start_here.to_model"):
    """Return the frames of a right answer."""
    with preserved():
        return [pack(outcome) for outcome in run(find_exercise(id).reference, find_exercise(id), 5)]


def test_honest_frames_pass():
    assert made_up(INFO, *honest()).status == "passed"


@pytest.mark.parametrize(
    ("frames", "right", "sentence"),
    [
        ([], 0, "Your code was stopped: it ended the process it ran in"),
        ([INFO], 0, "Your code was stopped: it ended the process it ran in"),
        ([INFO, *honest()[:2]], 2, "Your code was stopped: it ended the process it ran in"),
        (
            [INFO, honest()[0], b"nonsense", *honest()[1:]],
            1,
            "Your code was stopped: what it sent cannot be read",
        ),
        ([INFO, *honest()[::-1]], 0, "The shape of your answer is"),
        ([b"nonsense", *honest()], 6, ""),
        ([b'{"missing": 3}', *honest()], 6, ""),
        ([INFO, *honest() * 9], 6, ""),
    ],
)
def test_frames_count_for_what_they_contain(frames, right, sentence):
    found = made_up(*frames)
    assert found.right == right and found.sentence.startswith(sentence)
    assert bool(found.sentence) == (right < 6)


def test_the_reason_for_stopping_is_told_once():
    found = made_up(INFO, *honest()[:1], stopped="it ran for more than 1 s")
    assert (
        found.sentence == "Your code was stopped: it ran for more than 1 s"
        and found.shown.startswith("case 2, ")
    )
    assert found.right == 1


@pytest.mark.parametrize(
    "outcome",
    [
        Outcome({"": Leaf("tensor", torch.ones(2, 3, 5, 7).to(torch.float8_e5m2))}),
        Outcome({"": Leaf("tensor", torch.ones(2, 3, 5, 7, dtype=torch.uint16))}),
        Outcome({"": Leaf("tensor", "a text")}),
        Outcome({"": Leaf("tensor")}),
        Outcome({"": Leaf("tensor", torch.ones(2, 3, 5, 7), "cuda:0")}),
        Outcome({"": Leaf("None", torch.ones(2, 3, 5, 7))}),
        Outcome(flatten({"x": 1}), flatten({"rgb": 1, "b": 2, "a": 3})),
        Outcome(),
    ],
    ids=range(8),
)
def test_what_cannot_be_compared_costs_only_its_own_exercise(outcome):
    found = made_up(INFO, *[pack(outcome)] * 3)
    assert found.status == "wrong" and found.earned == 0 and found.sentence
