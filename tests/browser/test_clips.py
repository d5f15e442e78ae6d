"""A clip that a cell shows plays by itself, unless the reader asked for less motion."""

import driver
import pytest

CLIP = """
import torch
from course_lib.classroom import show_clip

show_clip(torch.linspace(-1, 1, 8)[:, None, None, None].expand(8, 3, 16, 16), alt="Grey, lighter.")
""".strip()


@pytest.fixture(scope="module")
def notebook(root):
    return driver.write_notebook(root / "work" / "clip.ipynb", CLIP).name


@pytest.fixture(autouse=True)
def usual_motion(page):
    yield
    page.emulate_media(reduced_motion="null")  # as the system has it


@pytest.mark.parametrize("motion", ["no-preference", "reduce"])
def test_a_clip_plays_where_motion_is_wanted(page, run_notebook, notebook, motion):
    page.emulate_media(reduced_motion=motion)
    lab = run_notebook(notebook)
    video = lab.page.locator("video")
    video.wait_for()
    lab.page.wait_for_function("() => document.querySelector('video').readyState === 4")
    lab.page.wait_for_timeout(500)
    assert video.evaluate("video => video.paused") is (motion == "reduce")
    assert video.evaluate("video => video.controls && video.loop && video.muted")
