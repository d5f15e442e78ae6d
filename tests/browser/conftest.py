"""One browser and one JupyterLab server per test module."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # the tests import their driver by its name

import driver


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """The folder under which all files of a server lie: work/, home/ (the student's records), lab/
    (settings).
    """
    folder = tmp_path_factory.mktemp("jupyter")
    (folder / "work").mkdir()
    return folder


@pytest.fixture(scope="module")
def browser():
    with driver.chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def address(root):
    with driver.jupyterlab(root) as address:
        yield address


@pytest.fixture
def open_notebook(browser, address):
    """open_notebook("name.ipynb") -> driver.Lab; its page and kernel end with the test."""
    opened = []

    def open_one(name, **options):
        opened.append(driver.Lab(browser, address, name, **options))
        return opened[-1]

    yield open_one
    for lab in opened:
        lab.close()
