"""Quiz, flashcards, explorer and exercise in JupyterLab, with and without a kernel."""

import json
import os
import subprocess
import sys

import driver
import nbformat
import pytest
from nbclient import NotebookClient

IMPORTS = """
from course_lib.classroom import exercise, explore, figure, show, slider
from course_lib.classroom import flashcards, live_curve, quiz
""".strip()

EXPLORER = """
def plot(power, side):
    fig, ax = figure(f"x to the {power}, {side}", "x", "y", xlim=(0, 1), ylim=(0, 1))
    x = [i / 100 for i in range(101)]
    ax.plot(x, [v**power if side == "below" else v ** (1 / power) for v in x])
    return fig

explore(plot, power=slider(1, 20, 2), side=["below", "above"])
""".strip()

EXERCISE = """
@exercise("start_here.to_model")
def pixels_to_float(rgb):
    return rgb.permute(0, 3, 1, 2).float() / 127.5 - 1
""".strip()

FIGURE = """
fig, ax = figure("A still figure", "x", "y")
ax.plot([0, 1])
show(fig, alt="A line that rises")
""".strip()

CELLS = ("# A page of the classroom", IMPORTS, "quiz('start_here')", "flashcards('start_here')")
CELLS += (EXPLORER, EXERCISE, FIGURE)


@pytest.fixture(scope="module")
def notebook(root):
    return driver.write_notebook(root / "work" / "page.ipynb", *CELLS).name


@pytest.fixture
def lab(run_notebook, notebook):
    return run_notebook(notebook)


def question(page, number):
    return page.locator(".question").nth(number - 1)


def status(page, number):
    return question(page, number).locator(".status").inner_text()


def check(page, number):
    question(page, number).get_by_role("button", name="Check", exact=True).click()


def total(page):
    return page.locator(".total").inner_text()


def answer_by_mouse(page):
    """Everything right but the last question."""
    question(page, 1).get_by_role("radio").nth(1).click()
    check(page, 1)
    for box in (0, 2):
        question(page, 2).get_by_role("checkbox").nth(box).click()
    check(page, 2)
    question(page, 3).get_by_label("Your number").fill("96")
    check(page, 3)
    sort_items(page)
    check(page, 4)
    question(page, 5).get_by_role("radio").nth(0).click()
    check(page, 5)


RIGHT_ORDER = ("You read", "You run", "Your function", "If they differ", "The notebook goes on")


def sort_items(page):
    """Move every item up to its place by its button."""
    for place, start in enumerate(RIGHT_ORDER):
        rows = question(page, 4).locator("ol.ordering > li")
        at = next(
            i
            for i, text in enumerate(rows.locator(".words").all_inner_texts())
            if text.startswith(start)
        )
        for row in range(at, place, -1):
            rows.nth(row).get_by_role("button", name="Move up").click()


# ------------------------------------------------------------------------------------ with a kernel


def test_a_quiz_answered_by_mouse_is_scored_and_kept(lab, root):
    page = lab.page
    answer_by_mouse(page)
    assert [status(page, n).split(".")[0] for n in range(1, 6)] == ["Right"] * 4 + ["Not yet"]
    assert total(page).startswith("Score: 4 of 5.")
    wrong = question(page, 5).locator(".comment.wrong")
    assert wrong.count() == 1 and "They learn faster" in wrong.inner_text()
    page.wait_for_timeout(2000)  # the page waits 1.5 s for the kernel before it says so
    assert "Not saved" not in page.locator("section[aria-label^=Quiz]").inner_text()
    record = json.loads((root / "home" / "progress.json").read_text(encoding="utf-8"))
    assert record["quizzes"]["start_here"] == {"score": 4, "out_of": 5}

    question(page, 5).get_by_role("button", name="Try again").click()
    assert total(page) == "4 of 5 answered, 4 right"
    question(page, 5).get_by_role("radio").nth(1).click()
    check(page, 5)
    assert total(page) == "Score: 5 of 5."

    lab.restart_kernel()  # a new kernel, the cell run again
    lab.run_all()
    page.wait_for_function(
        "() => document.querySelector('[data-course]').shadowRoot.textContent.includes('Score: 5')"
    )
    assert status(page, 3).startswith("Right.")
    assert question(page, 1).get_by_role("radio").nth(1).is_checked()

    page.get_by_role("button", name="Start over").first.click()
    lab.wait_until_answered()
    lab.run_all()
    assert total(page) == "0 of 5 answered, 0 right"
    assert lab.errors == []


def test_a_page_loaded_again_finds_its_kernel_and_the_answers(lab):
    answer_by_mouse(lab.page)
    lab.save()
    lab.reload()
    lab.page.wait_for_function(
        "() =>"
        " document.querySelector('[data-course]')?.shadowRoot?.textContent.includes('Score: 4')"
    )
    slider = lab.page.get_by_role("slider")
    before = lab.page.locator(".picture img").get_attribute("src")
    slider.press("ArrowRight")
    lab.page.wait_for_function(
        "before => ![...document.querySelectorAll('[data-course]')].some("
        "e => e.shadowRoot.querySelector('.picture img')?.src === before)",
        arg=before,
    )


def test_a_quiz_answered_by_keyboard_does_not_reach_the_notebook(lab):
    page = lab.page
    question(page, 1).get_by_role("radio").first.focus()
    before = lab.where()
    press = page.keyboard.press
    press("Space")
    press("ArrowDown")  # to the second radio, the right one
    press("Enter")
    assert status(page, 1).startswith("Right.")
    for _ in range(20):  # Tab goes on, past "Try again", to the first box
        press("Tab")
        if (
            page.evaluate("() => document.activeElement.shadowRoot?.activeElement?.type")
            == "checkbox"
        ):
            break
    press("Space")
    press("Tab")
    press("Tab")
    press("Space")
    press("Enter")
    assert status(page, 2).startswith("Right.")
    question(page, 3).get_by_label("Your number").focus()
    page.keyboard.type("96")
    press("Enter")
    assert status(page, 3).startswith("Right.")
    for key in (
        "ArrowDown",
        "ArrowUp",
        "a",
        "b",
        "x",
        "d",
        "d",
        "m",
        "y",
        "z",
        "j",
        "k",
        "0",
        "0",
        "Escape",
    ):
        question(page, 5).get_by_role("radio").first.press(key)
    page.wait_for_timeout(300)
    assert lab.where() == before

    sorted_by_keys(page)
    assert status(page, 4).startswith("Right.")
    assert lab.where() == before


def sorted_by_keys(page):
    """Put the items in order with the arrow keys alone, then check with Tab and Enter."""
    for place, start in enumerate(RIGHT_ORDER):
        rows = question(page, 4).locator("ol.ordering > li")
        at = next(
            i
            for i, text in enumerate(rows.locator(".words").all_inner_texts())
            if text.startswith(start)
        )
        if at > place:
            rows.nth(at).get_by_role("button", name="Move up").focus()
        for _ in range(at - place):
            page.keyboard.press("ArrowUp")
    question(page, 4).get_by_role("button", name="Check", exact=True).focus()
    page.keyboard.press("Enter")


def test_an_empty_answer_is_asked_for_and_not_counted(lab):
    page = lab.page
    check(page, 1)
    assert status(page, 1) == "Choose one option first."
    for text in ("", "ninety", "1e999"):
        question(page, 3).get_by_label("Your number").fill(text)
        check(page, 3)
        assert status(page, 3).startswith("Enter a number first")
    assert total(page).startswith("0 of 5 answered")
    for text, verdict in (("96,4", "Right."), ("\u221296", "Not yet.")):
        question(page, 3).get_by_label("Your number").fill(text)
        check(page, 3)
        assert status(page, 3).startswith(verdict)
        question(page, 3).get_by_role("button", name="Try again").click()


def test_flashcards_are_turned_and_sorted_by_keyboard(lab):
    page = lab.page
    deck = page.locator("section[aria-label^=Flashcards]")
    deck.locator("button.card").focus()
    before = lab.where()
    first = deck.locator("button.card").inner_text()
    page.keyboard.press("Space")
    assert deck.locator("button.card").inner_text() != first
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # again: the card goes under the pile
    assert deck.locator("button.card").inner_text() != first
    for _ in range(2):
        page.keyboard.press("Enter")
        page.keyboard.press("Tab")
        page.keyboard.press("Space")
    assert "You knew every card" in deck.inner_text() and "2 of 2 known" in deck.inner_text()
    lab.wait_until_answered()
    assert lab.where() == before
    lab.run_all()
    assert "2 of 2 known" in page.locator("section[aria-label^=Flashcards]").inner_text()


def test_a_moved_slider_changes_the_figure(lab):
    page = lab.page
    image = page.locator(".picture img")
    assert image.get_attribute("alt") == "x to the 2, below. power = 2, side = below."
    before = lab.where()
    page.get_by_role("slider").focus()
    for _ in range(8):  # dragged over: the last one counts
        page.keyboard.press("ArrowRight")
    page.wait_for_function(ALT, arg="x to the 10, below. power = 10, side = below.")
    page.locator(".control").get_by_text("above").click()
    page.wait_for_function(ALT, arg="x to the 10, above. power = 10, side = above.")
    box = page.get_by_role("slider").bounding_box()
    page.mouse.move(box["x"] + 20, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"], box["y"] + box["height"] / 2, steps=30)
    page.mouse.up()
    page.wait_for_function(ALT, arg="x to the 20, above. power = 20, side = above.")
    assert lab.where()["kinds"] == before["kinds"]


ALT = """wanted => [...document.querySelectorAll('[data-course]')].some(
  e => e.shadowRoot?.querySelector('.picture img')?.alt === wanted)"""


def test_an_exercise_reports_in_the_page(lab):
    assert lab.page.locator(".vgc.good").count() == 1
    assert lab.page.locator(".jp-RenderedHTML img[alt='A line that rises']").count() == 1


def test_widgets_work_inside_other_widgets(open_notebook, root):
    nested = "from ipywidgets import VBox\nfrom course_lib.classroom import figure, slider\n"
    nested += "from course_lib.classroom.explore import Explorer\n"
    nested += "VBox([Explorer(lambda n: figure(f'Title {n}')[0], {'n': slider(0, 9)})])"
    lab = open_notebook(driver.write_notebook(root / "work" / "nested.ipynb", nested).name)
    lab.run_all()
    lab.page.locator("img[alt='Title 0. n = 0.']").wait_for()
    lab.page.get_by_role("slider").press("End")
    lab.page.locator("img[alt='Title 9. n = 9.']").wait_for()


# --------------------------------------------------------------------------------- without a kernel


def works_alone(page):
    """A quiz that nobody listens to: it can be answered, and says that nothing is kept."""
    answer_by_mouse(page)
    assert total(page).startswith("Score: 4 of 5.")
    page.get_by_text("Not saved: run this cell").wait_for()
    page.locator("button.card").first.click()
    assert "Batch, channels" in page.locator("button.card").first.inner_text()
    assert page.get_by_role("slider").is_disabled()
    assert page.get_by_text("Run this cell in JupyterLab to move the controls.").is_visible()
    assert page.locator(".picture img").get_attribute("alt").startswith("x to the 2, below")


def test_reopened_the_next_day_the_quiz_works_before_it_is_run(lab):
    lab.save()
    lab.shut_down_kernel()
    lab.reload()  # a new kernel knows nothing of the outputs
    assert "model not found" not in lab.page.locator(".jp-Notebook").inner_text()
    works_alone(lab.page)
    assert lab.errors == []


@pytest.fixture(scope="module")
def executed(root):
    """The page run by nbclient, which stores the state of its widgets in the notebook, as a build
    does.
    """
    path = driver.write_notebook(root / "work" / "executed.ipynb", *CELLS)
    built = nbformat.read(path, 4)
    os.environ["COURSE_HOME"] = str(root / "elsewhere")
    try:
        NotebookClient(built, kernel_name="python3", timeout=300).execute()
    finally:
        del os.environ["COURSE_HOME"]
    nbformat.write(built, path)
    return path


def test_an_untrusted_notebook_shows_readable_questions_and_figures(open_notebook, executed):
    lab = open_notebook(executed.name)
    page = lab.page
    page.wait_for_timeout(1000)
    text = page.locator(".jp-Notebook").inner_text()
    assert "A batch holds 8 clips of 17 frames" in text and "Run this cell to answer here." in text
    assert page.locator(".question").count() == 0  # no script has run
    assert "96 tokens" not in text
    page.locator("details", has_text="so 8 · 12").locator("summary").click()
    assert page.get_by_text("so 8 · 12").is_visible()
    for alt in ("x to the 2, below. power = 2, side = below.", "A line that rises"):
        assert page.locator(f"img[alt='{alt}']").evaluate("image => image.naturalWidth") > 100


def test_a_trusted_notebook_with_widget_state_works_without_its_kernel(
    open_notebook, executed, root
):
    environment = os.environ | {"JUPYTER_DATA_DIR": str(root / "data")}
    command = [sys.executable, "-m", "jupyter", "trust", str(executed)]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    lab = open_notebook(executed.name)
    lab.shut_down_kernel()
    lab.page.wait_for_timeout(1000)
    works_alone(lab.page)
    assert lab.errors == []


def test_an_html_export_works_without_the_network(browser, executed):
    command = [sys.executable, "-m", "nbconvert", "--to", "html", str(executed)]
    subprocess.run(command, check=True, capture_output=True)
    context = browser.new_context(offline=True)
    page = context.new_page()
    page.goto(executed.with_suffix(".html").as_uri(), wait_until="domcontentloaded")
    works_alone(page)
    assert (
        page.locator("img[alt='A line that rises']").evaluate("image => image.naturalWidth") > 100
    )
    context.close()
