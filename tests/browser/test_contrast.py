"""Every text of the classroom has a contrast of 4.5 to 1, in every theme and every state."""

from pathlib import Path

import driver
import pytest

LEAST = 4.5  # WCAG 2.1, AA
CONTRAST = Path(__file__).with_name("contrast.js").read_text(encoding="utf-8")
THEMES = ["JupyterLab Light", "JupyterLab Dark", "JupyterLab Dark High Contrast"]

CELLS = [
    "# Every state of the classroom",
    """
import os

import course_lib.classroom as room
from course_lib import doctor as doctors
from course_lib.metrics.evidence import value

os.environ.pop("COURSE_STRICT", None)  # a claim that does not hold is shown, as to a student
states = (doctors.OK, doctors.ATTENTION, doctors.PROBLEM)
doctors.Report(tuple(doctors.Finding(state, state, "what", "advice") for state in states))
""".strip(),
    "room.quiz('start_here')",
    "room.flashcards('start_here')",
    """
@room.exercise("start_here.to_model")
def right(rgb):
    return rgb.permute(0, 3, 1, 2).float() / 127.5 - 1
""".strip(),
    """
@room.exercise("start_here.to_model")
def wrong(rgb):
    print("looking")
    return rgb.permute(0, 3, 1, 2).float() / 255
""".strip(),
    """
@room.exercise("start_here.patchify")
def patchify(image, patch_size):
    raise NotImplementedError
""".strip(),
    "room.progress()",
    "room.claim('Three is more than two.', value(3) > 2)",
    "room.claim('Three is less than two.', value(3) < 2)",
    "room.scorecard([room.row('a', shown=value(3) > 2), room.row('b', shown=value(3) < 2)])",
    "room.explore(lambda power: room.figure('x')[0], power=room.slider(1, 5, 2))",
]


@pytest.fixture(scope="module")
def notebook(root):
    return driver.write_notebook(root / "work" / "states.ipynb", *CELLS).name


@pytest.fixture
def lab(run_notebook, notebook):
    lab = run_notebook(notebook)
    yield lab
    lab.set_theme(THEMES[0])


@pytest.mark.parametrize("theme", THEMES)
def test_every_text_reads(lab, theme):
    lab.set_theme(theme)
    page = lab.page
    answer(page)
    outputs = page.locator(".jp-OutputArea").all()
    faint = [text for area in outputs for text in area.evaluate(CONTRAST, LEAST)]
    assert faint == []


def answer(page):
    """Bring the quiz into both of its verdicts: one answer right, one wrong."""
    for number, choice in ((0, 1), (4, 1)):
        question = page.locator(".question").nth(number)
        question.get_by_role("radio").nth(choice).click()
        question.get_by_role("button", name="Check", exact=True).click()
        question.locator(".status strong").wait_for()
