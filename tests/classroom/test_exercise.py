import base64
import contextlib
import io
import re
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest
import torch
from einops import rearrange
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from PIL import Image
from torch import nn

from course_lib.checking import Exercise, UnknownExercise, find_exercise, with_weights
from course_lib.classroom import case, exercise, mark, progress
from course_lib.classroom.difference import picture_of
from course_lib.classroom.exercise import Report, check_answer
from course_lib.paths import ROOT


def scale(x, w):
    return x * w


def cases(rng):
    return [
        {"x": torch.randn(n, 3, generator=rng), "w": torch.rand(3, generator=rng) + 0.5}
        for n in (2, 5)
    ]


EXERCISE = Exercise("a.scale", scale, cases, gradients=("x",), points=3, seconds=20)
HURRIED = replace(EXERCISE, seconds=0.3)


@pytest.fixture(autouse=True)
def streams():
    """An abandoned answer leaves its stand-in for the streams; each test gives them back."""
    before = sys.stdout, sys.stderr
    OVER.clear()
    yield
    OVER.set()
    time.sleep(0.05)
    sys.stdout, sys.stderr = before


# ------------------------------------------------------------------------------------ the decorator


def test_a_right_answer_comes_back_unchanged_and_is_recorded(capsys):
    @exercise("start_here.patchify")
    def patchify(image, patch):
        """My own words."""
        return rearrange(image, "b c (h x) (w y) -> b (h w) (x y c)", x=patch, y=patch)

    assert patchify.__name__ == "patchify" and patchify.__doc__ == "My own words."
    assert patchify is not find_exercise("start_here.patchify").reference
    assert capsys.readouterr().out == "start_here.patchify: passed  (2 points)\n"
    assert "passed" in repr(progress())


def test_a_wrong_answer_gets_the_reason_and_the_reference_in_its_place(capsys):
    @exercise("start_here.patchify")
    def patchify(image, patch):
        return rearrange(image, "b c (h x) (w y) -> b (h w) (c x y)", x=patch, y=patch)

    declared = find_exercise("start_here.patchify")
    assert patchify is declared.reference
    text = capsys.readouterr().out
    assert declared.misconceptions["channels_first"].sentence in text
    assert (
        " of 7 cases right. Shown: case 1, with " in text and "goes on with the reference" in text
    )


def test_a_stub_is_not_attempted(capsys):
    @exercise("start_here.to_model")
    def pixels_to_float(rgb):
        raise NotImplementedError  # your turn

    assert pixels_to_float is find_exercise("start_here.to_model").reference
    expected = "start_here.to_model: not attempted yet  The chapter goes on with the reference.\n"
    assert capsys.readouterr().out == expected


@pytest.mark.parametrize("id", ["start_here.patchfy", "nowhere.to_be_found", "", 7])
def test_an_unknown_id_leaves_the_answer_as_it_is(id, capsys):
    def answer():
        pass

    assert exercise(id)(answer) is answer
    assert "There is no exercise" in capsys.readouterr().out


def test_a_forgotten_id_is_explained(capsys):
    @exercise
    def answer():
        pass

    assert callable(answer) and answer.__name__ == "answer"
    assert '@exercise("topic.name")' in capsys.readouterr().out


def test_a_decorator_without_an_id_is_explained(capsys):
    @exercise()
    def answer():
        pass

    assert callable(answer) and answer.__name__ == "answer"
    assert '@exercise("topic.name")' in capsys.readouterr().out


def test_a_name_of_a_cell_that_was_not_run_is_told(capsys):
    @exercise("start_here.patchify")
    def patchify(image, patch):
        return split(image, patch)

    text = capsys.readouterr().out
    assert "If a cell above defines `split`, run the cells above first" in text
    assert "return split(image, patch)" in text


def test_a_renamed_function_may_be_right_and_is_told_the_name(capsys):
    @exercise("start_here.patchify")
    def tokens(image, patch):
        return rearrange(image, "b c (h x) (w y) -> b (h w) (x y c)", x=patch, y=patch)

    text = capsys.readouterr().out
    assert "passed" in text and "not `tokens`" in text


def test_a_helper_under_the_decorator_is_told_and_left(capsys):
    @exercise("start_here.patchify")
    def helper(x):
        return x + 1

    assert helper(1) == 2
    text = capsys.readouterr().out
    assert "not checked" in text and "stands over `helper(x)`" in text


def test_an_alias_and_a_call_of_the_decorator_are_fine(capsys):
    check = exercise
    reference = find_exercise("start_here.patchify").reference

    def patchify(image, patch):
        return rearrange(image, "b c (h x) (w y) -> b (h w) (x y c)", x=patch, y=patch)

    assert check("start_here.patchify")(patchify) is patchify is not reference
    assert capsys.readouterr().out == "start_here.patchify: passed  (2 points)\n"


def test_a_broken_declaration_is_a_fault_of_the_course(capsys):
    broken = replace(EXERCISE, cases=lambda rng: 1 / 0)
    report, passed = check_answer(scale, broken)
    assert (
        not passed and "fault of the course" in repr(report) and "ZeroDivisionError" in repr(report)
    )


def test_an_unwritable_folder_costs_only_the_record(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    monkeypatch.setenv("COURSE_HOME", str(tmp_path / "file"))
    report, passed = check_answer(scale, EXERCISE)
    assert passed and "could not be saved" in repr(report)


def test_a_case_is_handed_out_as_it_was_tried():
    state = torch.get_rng_state()
    first = case("start_here.patchify", 1)
    assert list(first) == ["image", "patch"]
    again = case("start_here.patchify", 1)
    assert torch.equal(first["image"], again["image"]) and first["image"] is not again["image"]
    assert torch.equal(torch.get_rng_state(), state)


def test_the_report_tells_how_to_get_the_inputs(capsys):
    @exercise("start_here.patchify")
    def patchify(image, patch):
        return image if image.shape[1] == patch else rearrange(image, "b c h w -> b (h w) c")

    call = re.search(r"course_lib\.classroom\.(case\(.*?\))", capsys.readouterr().out).group(1)
    assert "image" in eval(call)


def test_a_case_that_there_is_not_is_explained():
    with pytest.raises(UnknownExercise, match=r"did you mean start_here\.patchify"):
        case("start_here.patchfy", 1)
    for number in (0, 99, "1", 1.5):
        with pytest.raises(ValueError, match=r"expected a case from 1 to \d+, got"):
            case("start_here.patchify", number)


def test_a_constant_earns_nothing_in_a_test_cell():
    @exercise("start_here.to_model")
    def pixels_to_float(rgb):
        return torch.zeros(rgb.shape)

    assert mark("start_here.to_model") == 0


# --------------------------------------------------------------------------------------- time limit


def endless(x, w):
    while True:
        pass


OVER = threading.Event()  # set when a test is done with its abandoned answer


def endless_and_deaf(x, w):
    while not OVER.is_set():
        try:
            while not OVER.is_set():
                print("still here")
        except BaseException:
            pass


def asleep(x, w):
    time.sleep(8)


def endless_in_torch(x, w):
    while True:
        x = x @ torch.eye(3)


def endless_at_the_second_case(x, w):
    while len(x) > 2:
        pass
    return x * w


@pytest.mark.parametrize(
    "answer", [endless, endless_and_deaf, asleep, endless_in_torch, endless_at_the_second_case]
)
def test_an_answer_without_end_is_stopped(answer, capsys):
    start = time.monotonic()
    report, passed = check_answer(answer, HURRIED)
    assert not passed and time.monotonic() - start < 5
    assert "more than 0.3 s" in report.sentence
    stoppable = answer not in (endless_and_deaf, asleep)
    assert [name for name, _, _ in report.lines] == [answer.__name__] * stoppable
    assert ("1 of 2 cases" in report.details) == (answer is endless_at_the_second_case)
    assert check_answer(scale, EXERCISE)[1], "the notebook stays usable"
    capsys.readouterr()
    time.sleep(0.2)
    assert capsys.readouterr().out == "", "an abandoned answer prints no more"


def test_an_answer_that_ends_after_its_time_does_not_pass():
    def slow(x, w):
        until = time.monotonic() + 0.6
        while time.monotonic() < until:
            with contextlib.suppress(BaseException):
                time.sleep(0.05)
        return x * w

    assert not check_answer(slow, HURRIED)[1]


def test_an_abandoned_answer_does_not_disturb_the_session_later():
    def late(x, w):
        torch.manual_seed(99)
        torch.set_default_dtype(torch.float64)
        time.sleep(2)

    state = torch.get_rng_state()
    assert not check_answer(late, HURRIED)[1]
    time.sleep(1.2)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_default_dtype() == torch.float32


def test_a_session_with_abandoned_answers_ends_cleanly(tmp_path):
    script = """
import atexit
import torch
from course_lib.classroom.exercise import check_answer
atexit.register(print, "Bye")
from course_lib.checking import Exercise
def scale(x, w):
    return x * w
def cases(rng):
    return [{"x": torch.ones(2), "w": torch.ones(2)}]
EXERCISE = Exercise("a.scale", scale, cases, seconds=0.5)
def deaf(x, w):
    while True:
        try:
            torch.randn(50) @ torch.randn(50)
        except BaseException:
            pass
def asleep(x, w):
    __import__("time").sleep(1000)
for answer in (deaf, deaf, deaf, asleep):
    print(check_answer(answer, EXERCISE)[1])
print(check_answer(scale, EXERCISE)[1])
"""
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert result.stdout.split() == [*4 * ["False"], "True", "Bye"], result.stderr
    assert result.returncode == 0 and not result.stderr


def test_an_interrupt_of_the_notebook_stops_the_answer_and_gets_through(monkeypatch):
    module = sys.modules["course_lib.classroom.exercise"]  # the decorator of this name hides it

    def interrupted(worker, seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        check_answer(endless, replace(EXERCISE, id="a.interrupted"))
    assert "answer a.interrupted" not in [thread.name for thread in threading.enumerate()]


# ------------------------------------------------------------------------------ hostile and unlucky


def leave(x, w):
    sys.exit("bye")


def interrupt(x, w):
    raise KeyboardInterrupt


def recurse(x, w):
    return recurse(x, w)


def exhaust(x, w):
    return torch.empty(10**15)


def flood(x, w):
    for _ in range(2000):
        print("x" * 100)
    return x * w


def complain(x, w):
    print("to the error stream", file=sys.stderr)
    raise RuntimeError("<b>no</b>")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (leave, "SystemExit: bye"),
        (interrupt, "KeyboardInterrupt"),
        (recurse, "RecursionError"),
        (exhaust, "RuntimeError"),
        (complain, "to the error stream"),
    ],
)
def test_what_goes_wrong_is_reported(answer, words, capsys):
    report, passed = check_answer(answer, EXERCISE)
    assert not passed and words in repr(report)
    assert {name for name, _, _ in report.lines} == {answer.__name__}
    assert capsys.readouterr() == ("", "")


def test_a_flood_of_prints_is_cut_and_the_first_are_shown(capsys):
    report, passed = check_answer(flood, EXERCISE)
    assert passed and len(report.printed) < 2100 and report.printed.endswith("(cut)")
    assert capsys.readouterr().out == ""


def test_the_session_is_left_as_it_was():
    def meddle(x, w):
        torch.manual_seed(3)
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)
        return torch.randn(3)

    torch.manual_seed(12)
    state = torch.get_rng_state()
    with torch.no_grad():
        check_answer(meddle, EXERCISE)
        check_answer(scale, EXERCISE)
        assert not torch.is_grad_enabled()
    assert torch.is_grad_enabled() and torch.get_default_dtype() == torch.float32
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("answer", [None, 5, "text", object()])
def test_what_is_no_function_is_refused(answer):
    assert not check_answer(answer, EXERCISE)[1]


# ------------------------------------------------------------------------------------------ classes


class Affine(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.scale = nn.Parameter(torch.randn(width))
        self.shift = nn.Parameter(torch.randn(width))

    def forward(self, x):
        return x * self.scale + self.shift


def build_and_apply(answer, case):
    width = case["x"].shape[-1]
    source = Affine(width)
    return with_weights(answer(width), source)(case["x"])


MODULE = Exercise(
    "a.affine",
    Affine,
    lambda rng: [{"x": torch.randn(2, width, generator=rng)} for width in (3, 4)],
    misconceptions={
        "no_shift": (
            type("NoShift", (Affine,), {"forward": lambda self, x: x * self.scale}),
            "You forgot the shift.",
        )
    },
    gradients=("x",),
    probe=build_and_apply,
)


class Student(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.gain, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x):
        return torch.addcmul(self.bias, x, self.gain)


class NoShift(Student):
    def forward(self, x):
        return self.gain * x


class NoParameters(nn.Module):
    def __init__(self, width):
        super().__init__()

    def forward(self, x):
        return x


class Stub(nn.Module):
    def __init__(self, width):
        super().__init__()
        raise NotImplementedError  # your turn


def test_a_class_is_built_and_used():
    assert check_answer(Student, MODULE)[1]
    assert check_answer(NoShift, MODULE)[0].sentence == "You forgot the shift."
    assert (
        "expected the parameters scale (3,), shift (3,); yours are none"
        in check_answer(NoParameters, MODULE)[0].sentence
    )
    assert "not attempted" in check_answer(Stub, MODULE)[0].title


# ------------------------------------------------------------------------------------------- report


def test_the_report_is_small_accessible_and_escaped():
    report, _ = check_answer(complain, EXERCISE)
    html = report._repr_html_()
    assert 'role="status"' in html and "&lt;b&gt;no&lt;/b&gt;" in html and "<b>no" not in html
    assert "RuntimeError(&quot;&lt;b&gt;no" in html, "the student's own line"
    assert "Traceback" not in html and "running.py" not in html
    assert len(html) < 6000


@pytest.mark.parametrize(
    ("shape", "drawn"),
    [
        ((2, 3, 5, 7), True),
        ((2, 5, 7, 3), True),
        ((4, 6), True),
        ((2, 2, 4, 6), True),
        ((1, 4, 4), True),
        ((3, 3), False),
        ((12,), False),
        ((0, 4, 4), False),
        ((), False),
    ],
)
def test_what_is_shaped_like_a_picture_is_drawn(shape, drawn):
    x = torch.rand(shape)
    html = picture_of(x, x.flip(-1) if shape else x + 1)
    assert bool(html) == drawn
    if drawn:
        data = base64.b64decode(re.search(r"base64,([^\"]+)", html).group(1))
        width, height = Image.open(io.BytesIO(data)).size
        assert width > 3 * 90 * min(shape[-2:]) / max(shape) > height / 4
        assert 'alt="Expected, got and their difference' in html


def test_a_wrong_image_is_drawn_in_the_report_and_not_in_its_text():
    images = replace(
        EXERCISE,
        reference=lambda x, w: x,
        cases=lambda rng: [{"x": torch.rand(2, 3, 8, 8, generator=rng), "w": torch.ones(1)}],
        gradients=(),
    )
    report, _ = check_answer(lambda x, w: x.flip(-1) * torch.nan, images)
    assert "<img src=" in report._repr_html_() and "base64" not in repr(report)
    assert "<img" not in check_answer(scale, images)[0]._repr_html_()


def test_a_pass_is_one_line():
    assert "\n" not in repr(check_answer(scale, EXERCISE)[0])
    assert "3 points" in check_answer(scale, EXERCISE)[0].sentence


def test_backticks_become_code_and_a_lone_one_stays():
    html = Report("bad", "t", "use `a` not ` <b>")._repr_html_()
    assert "<code>a</code>" in html and "` &lt;b&gt;" in html


def test_in_ipython_the_report_is_displayed():
    shell = InteractiveShell.instance()
    try:
        with capture_output() as captured:
            exercise("start_here.patchify")(endless.__class__)
            shell.run_cell(
                "from course_lib.classroom import exercise\n"
                "@exercise('start_here.to_model')\ndef f(rgb):\n    return rgb.no_such\n"
            )
        data = captured.outputs[-1].data
        assert "vgc card bad" in data["text/html"]
        assert "return rgb.no_such" in data["text/plain"] and "line 4, in f" in data["text/plain"]
    finally:
        InteractiveShell.clear_instance()
