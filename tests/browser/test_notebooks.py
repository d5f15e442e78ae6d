"""Every notebook of the course runs in JupyterLab, in a real browser, as a student would run it."""

import os
import shutil
from pathlib import Path

import pytest

from course_lib import paths

NOTEBOOKS = sorted(paths.NOTEBOOKS.glob("[0-9]*.ipynb"))
SCREENSHOTS = os.environ.get("COURSE_SCREENSHOTS")  # a folder: pictures of whole notebooks go there


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_in_the_browser(path, open_notebook, root):
    shutil.copy(path, root / "work" / path.name)
    lab = open_notebook(path.name)
    lab.run_all(seconds=600)
    page = lab.page
    page.wait_for_timeout(1000)
    widgets = page.locator("[data-course]")
    for widget in widgets.all():
        widget.locator("section").first.wait_for()
    assert page.locator("[data-error]").all_inner_texts() == []  # an explorer that could not draw
    assert page.get_by_text("Error displaying widget").count() == 0
    without_alt = "images => images.filter(i => !i.alt).length"
    assert page.locator(".jp-OutputArea img").evaluate_all(without_alt) == 0
    assert lab.errors == []
    if SCREENSHOTS:
        Path(SCREENSHOTS).mkdir(parents=True, exist_ok=True)
        lab.screenshot(Path(SCREENSHOTS) / f"{path.stem}.png")
