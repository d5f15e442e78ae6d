"""The links of a chapter, clicked: in JupyterLab and in Notebook 7."""

import driver
import pytest

from course_lib import build

SECTION = "9 Why the likelihood was poor: the variance"  # far down
TOP = (
    "heading => [...document.querySelectorAll('.jp-Notebook h2')]"
    ".find(h => h.textContent.startsWith(heading))?.getBoundingClientRect().top"
)


@pytest.fixture(scope="module")
def chapters(root):
    """The student editions, not executed."""
    for source in build.sources():
        build.write(build.student_edition(source), root / "work" / f"{source.stem}.ipynb")


def wait_until_seen(page, heading):
    """Wait until it is on the screen or just above: Jupyter guesses at what it has not drawn."""
    page.wait_for_function(
        f"heading => {{ const y = ({TOP})(heading); return y > -200 && y < 900 }}", arg=heading
    )


def follow(page, heading):
    """Click its entry in the contents, once Jupyter has the cell in the page."""
    page.wait_for_function(f"heading => ({TOP})(heading) !== undefined", arg=heading)
    page.get_by_role("link", name=heading).first.click()
    wait_until_seen(page, heading)


@pytest.fixture(params=["contentVisibility", "none"])  # Jupyter's own, the tests'
def windowing(request, root, address):
    driver.set_windowing(root, request.param)
    yield
    driver.set_windowing(root, "none")


def test_contents_and_neighbours_in_jupyterlab(windowing, chapters, open_notebook):
    page = open_notebook("01_ddpm.ipynb", kernel=False).page
    follow(page, SECTION)
    page.get_by_role("link", name="02 The Vision Transformer").first.click()
    page.wait_for_function(f"() => {driver.PANEL}.context?.path === '02_vit.ipynb'")


def test_contents_in_notebook_7(chapters, page, address):
    page.set_viewport_size({"width": 900, "height": 1000})
    page.goto(f"{address}/notebooks/01_ddpm.ipynb?token={driver.TOKEN}", timeout=driver.READY)
    page.set_default_timeout(driver.READY)
    follow(page, SECTION)
