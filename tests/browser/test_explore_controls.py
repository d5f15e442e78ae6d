"""The explorer's picture to click, its file to choose and its line to type, and a clip in it, in
JupyterLab: by mouse, by keyboard, without a kernel.
"""

import io

import driver
import nbformat
import numpy as np
import pytest
from PIL import Image

PATCHES = """
from course_lib.classroom import example_photo, explore, figure, image_grid, read_photo
from course_lib.classroom import patches, slider, upload

def at(patch, layer):
    return figure(f"Layer {layer}", height=1.5)[0]

explore(at, patch=patches(example_photo(224), 14, 14, value=(6, 7)), layer=slider(1, 4))
""".strip()

UPLOAD = """
def look(photo):
    return image_grid(photo[None], title="A photo", cell=112)

mean = lambda photo: f"Mean {photo.mean():.2f}"
explore(look, alt=mean, photo=upload(lambda data: read_photo(data, 56), example_photo(56)))
""".strip()

TYPED = """
import numpy as np
from course_lib.classroom import clip_view, sentence

def read(line):
    if "elephant" in line:
        raise ValueError("There are no elephants here.")
    return line

def film(line):
    frames = np.full((5, 16, 16, 3), 30, np.uint8)
    frames[np.arange(5), :, 2 * np.arange(5) + len(line) % 8] = 255
    return clip_view(frames, title="A bar moves", frames=3)

explore(film, line=sentence("a bar", read, label="your line"))
""".strip()

CELLS = ("# A picture to click, a file to choose, a line to type", PATCHES, UPLOAD, TYPED)
START = "Layer 1. patch = row 6, column 7, layer = 1."
ALT = """wanted => [...document.querySelectorAll('[data-course]')].some(
  e => e.shadowRoot?.querySelector('.picture img')?.alt === wanted)"""


@pytest.fixture(scope="module")
def notebook(root):
    return driver.write_notebook(root / "work" / "controls.ipynb", *CELLS).name


@pytest.fixture
def lab(run_notebook, notebook):
    return run_notebook(notebook)


def board(page):
    return page.get_by_role("radiogroup", name="patch")


def patch(page, row, column):
    return board(page).get_by_role("radio", name=f"row {row}, column {column}", exact=True)


def wait_for_alt(page, alt):
    page.wait_for_function(ALT, arg=alt)


def drawn(page):
    """The alternative text of the picture under the file control."""
    return page.locator(".picture img").nth(1).get_attribute("alt")


def choose(page, path):
    """Choose a file in the dialogue that the button opens."""
    with page.expect_file_chooser() as dialogue:
        page.get_by_role("button", name="Choose a file").click()
    assert dialogue.value.element.get_attribute("accept") == "image/*"
    dialogue.value.set_files(path)


def said(page):
    return page.get_by_role("group", name="your photo")


@pytest.fixture
def red(tmp_path):
    """A photo that is red all over, with a name that must be escaped."""
    path = tmp_path / 'a "red" <b>one<b>.png'
    Image.new("RGB", (80, 60), "red").save(path)
    return path


RED = 'Mean -0.33. your photo = a "red" <b>one<b>.png.'


def test_a_click_chooses_a_patch(lab):
    page = lab.page
    assert page.locator(".picture img").first.get_attribute("alt") == START
    box = board(page).bounding_box()
    page.mouse.click(box["x"] + box["width"] * 12.5 / 14, box["y"] + box["height"] * 2.5 / 14)
    wait_for_alt(page, "Layer 1. patch = row 2, column 12, layer = 1.")
    assert patch(page, 2, 12).get_attribute("aria-checked") == "true"
    assert board(page).locator("[aria-checked=true]").count() == 1
    page.get_by_role("slider").press("End")
    wait_for_alt(page, "Layer 4. patch = row 2, column 12, layer = 4.")
    assert lab.errors == []


def test_the_keys_choose_a_patch_and_do_not_reach_the_notebook(lab):
    page = lab.page
    page.locator(".jp-Cell").nth(1).locator(".jp-OutputArea").click(position={"x": 5, "y": 5})
    patch(page, 6, 7).focus()
    before = lab.where()
    press = page.keyboard.press
    press("ArrowDown")
    press("ArrowRight")
    wait_for_alt(page, "Layer 1. patch = row 7, column 8, layer = 1.")
    for key in ("Home", "ArrowLeft", "PageUp", "ArrowUp", "ArrowRight"):  # the edges hold
        press(key)
    wait_for_alt(page, "Layer 1. patch = row 0, column 1, layer = 1.")
    for key in ("End", "PageDown", "Enter", "Space", "a", "b", "d", "d", "x", "m", "Escape"):
        press(key)
    wait_for_alt(page, "Layer 1. patch = row 13, column 13, layer = 1.")
    press("Tab")  # the board is one stop
    assert page.evaluate("() => document.activeElement.shadowRoot.activeElement.type") == "range"
    press("Shift+Tab")
    assert patch(page, 13, 13).evaluate("cell => cell === cell.getRootNode().activeElement")
    page.wait_for_timeout(300)
    assert lab.where() == before


def test_the_chosen_patch_is_framed_in_black_and_white(lab):
    """So that it is seen on any picture: its frame holds both, whatever lies beneath."""
    cell = patch(lab.page, 6, 7).bounding_box()
    clip = {
        "x": cell["x"] - 4,
        "y": cell["y"] - 4,
        "width": cell["width"] + 8,
        "height": cell["height"] + 8,
    }
    pixels = np.asarray(
        Image.open(io.BytesIO(lab.page.screenshot(clip=clip))).convert("L"), dtype=int
    )
    across = pixels[pixels.shape[0] // 2]
    for edge in (across[:8], across[-8:]):
        assert edge.min() < 30 and edge.max() > 245


def test_a_photo_is_uploaded_and_taken_back(lab, red):
    page = lab.page
    first = drawn(page)
    assert first.endswith("your photo = the example.") and "the example" in said(page).inner_text()
    choose(page, red)
    wait_for_alt(page, RED)
    assert red.name in said(page).inner_text()
    lab.save()
    page.get_by_role("button", name="Back to the example").click()
    wait_for_alt(page, first)
    assert "the example" in said(page).inner_text() and red.name not in said(page).inner_text()
    choose(page, red)  # the same file once more
    wait_for_alt(page, RED)
    assert lab.errors == []


def test_a_file_of_five_megabytes_arrives(lab, tmp_path):
    path = tmp_path / "large.png"
    noise = np.random.default_rng(0).integers(0, 256, (1300, 1300, 3)).astype(np.uint8)
    Image.fromarray(noise).save(path, compress_level=0)
    assert 5e6 < path.stat().st_size < 6e6
    choose(lab.page, path)
    lab.page.get_by_role("button", name="Back to the example").wait_for()
    lab.page.wait_for_function(
        ALT.replace("=== wanted", ".endsWith(wanted)"), arg="your photo = large.png."
    )


def test_an_unreadable_file_is_one_line_and_the_figure_stays(lab, red, tmp_path):
    page = lab.page
    choose(page, red)
    wait_for_alt(page, RED)
    (tmp_path / "nonsense.jpg").write_bytes(b"nonsense")
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "huge.jpg").write_bytes(bytes(20_000_001))
    sentences = {
        "nonsense.jpg": "nonsense.jpg could not be read. ValueError: expected an image file",
        "empty.jpg": "these 0 bytes are none",
        "huge.jpg": "huge.jpg has 20.1 MB. A file may have at most 20 MB.",
    }
    for name, sentence in sentences.items():
        choose(page, tmp_path / name)
        page.get_by_role("alert").filter(has_text=sentence).wait_for()
        assert drawn(page) == RED and red.name in said(page).inner_text()
    page.get_by_role("button", name="Back to the example").click()
    page.get_by_role("alert").filter(has_text="MB").wait_for(state="detached")


def test_the_file_is_not_in_the_notebook_and_the_page_survives_a_reload(lab, red, root, notebook):
    page = lab.page
    first = drawn(page)
    choose(page, red)
    wait_for_alt(page, RED)
    lab.save()
    written = (root / "work" / notebook).read_text(encoding="utf-8")
    assert "the example" in written and "<b>one" not in written and "Mean -0.33" not in written
    lab.reload()
    wait_for_alt(page, first)  # the page starts with the example again
    choose(page, red)
    wait_for_alt(page, RED)


# ---------------------------------------------------------------------- a line to type, and a clip

PLAYS = """async () => {
  const root = [...document.querySelectorAll('[data-course]')].map(e => e.shadowRoot)
    .find(r => r?.querySelector('.picture video'));
  const video = root.querySelector('.picture video');
  for (let i = 0; i < 50 && video.readyState < 2; i++) await new Promise(r => setTimeout(r, 100));
  await video.play();
  const before = video.currentTime;
  await new Promise(r => setTimeout(r, 400));
  return [video.currentTime !== before, video.loop, video.muted, video.videoWidth > 50];
}"""


def line(page):
    return page.get_by_role("textbox", name="your line")


def test_a_line_is_typed_and_its_clip_plays(lab):
    page = lab.page
    assert line(page).input_value() == "a bar"
    assert page.evaluate(PLAYS) == [True] * 4
    line(page).fill("another bar")
    line(page).press("Enter")
    wait_for_alt(page, "A bar moves. your line = “another bar”.")
    assert page.evaluate(PLAYS) == [True] * 4
    line(page).fill("one more")
    page.get_by_role("button", name="Show", exact=True).click()
    wait_for_alt(page, "A bar moves. your line = “one more”.")
    assert lab.errors == []


def test_typing_does_not_reach_the_notebook_and_a_friendly_word_comes_back(lab):
    page = lab.page
    line(page).focus()
    before = lab.where()
    line(page).press("ControlOrMeta+a")
    page.keyboard.type("add a baby elephant, dd x m")
    page.keyboard.press("Enter")
    page.get_by_role("alert").filter(has_text="There are no elephants here.").wait_for()
    assert lab.where() == before
    assert line(page).input_value() == "add a baby elephant, dd x m"
    line(page).fill("a bar")
    line(page).press("Enter")
    wait_for_alt(page, "A bar moves. your line = “a bar”.")
    page.get_by_role("alert").filter(has_text="elephants").wait_for(state="detached")


def works_alone(page):
    """All controls are there, say how to move them, and do not move."""
    assert board(page).get_by_role("radio").count() == 196
    assert patch(page, 6, 7).get_attribute("aria-checked") == "true"
    assert (
        patch(page, 0, 0).is_disabled()
        and page.get_by_role("button", name="Choose a file").is_disabled()
    )
    assert page.get_by_text("Run this cell in JupyterLab to move the controls.").count() == 3
    assert line(page).is_disabled() and page.locator(".picture video").count() == 1
    assert page.locator(".picture img").first.get_attribute("alt") == START
    assert page.locator(".board img").evaluate("image => image.naturalWidth") > 100


def test_without_its_kernel_the_page_shows_the_first_figure(lab):
    lab.save()
    lab.shut_down_kernel()
    lab.reload()
    works_alone(lab.page)
    assert lab.errors == []


def test_an_untrusted_notebook_shows_the_first_figure_and_the_controls(
    lab, open_notebook, root, notebook
):
    lab.save()
    saved = nbformat.read(root / "work" / notebook, 4)
    saved.cells[1].outputs[0]["data"]["text/html"] += "\n"  # no longer what the server has signed
    nbformat.write(saved, root / "work" / "untrusted.ipynb")
    page = open_notebook("untrusted.ipynb").page
    page.locator(f"img[alt='{START}']").wait_for()
    text = page.locator(".jp-Notebook").inner_text()
    assert "patch: row 6, column 7 (of 14 rows and 14 columns)" in text
    assert "your photo: the example (of the example or a file that you choose)" in text
    assert "your line: “a bar” (of whatever you type)" in text
    assert page.locator(".board").count() == 0
