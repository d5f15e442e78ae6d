"""Every notebook of the course runs in JupyterLab, in a real browser, with all exercises solved.

This is the run of the solution editions; nbval runs the student editions.
"""

import json
import os
from pathlib import Path

import pytest

from course_lib import build

SCREENSHOTS = os.environ.get("COURSE_SCREENSHOTS")  # a folder: pictures of whole notebooks go there


@pytest.mark.parametrize("source", build.sources(), ids=lambda source: source.stem)
def test_a_solution_edition_runs_in_the_browser(source, open_notebook, root):
    [path] = build.write_solutions(root / "work", [source])
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
    record = json.loads((root / "home" / "progress.json").read_text(encoding="utf-8"))
    passed = {id for id, mark in record["exercises"].items() if mark["status"] == "passed"}
    assert set(build.exercise_ids(build.solution_edition(source))) <= passed
    if SCREENSHOTS:
        Path(SCREENSHOTS).mkdir(parents=True, exist_ok=True)
        lab.screenshot(Path(SCREENSHOTS) / f"{source.stem}.png")
