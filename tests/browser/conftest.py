"""One browser, one page in it and one JupyterLab server for all tests of this folder."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # the tests import their driver by its name

import driver


@pytest.fixture(scope="package")
def root(tmp_path_factory):
    """The folder under which all files of the server lie: work/, home/ (the student's records),
    lab/ (settings).
    """
    folder = tmp_path_factory.mktemp("jupyter")
    (folder / "work").mkdir()
    return folder


@pytest.fixture(scope="package")
def browser():
    with driver.chromium() as browser:
        yield browser


@pytest.fixture(scope="package")
def page(browser):
    """The page in which all notebooks are opened: a page of its own compiles JupyterLab anew."""
    return browser.new_page()


@pytest.fixture(scope="package")
def server(root):
    with driver.jupyterlab(root) as address:
        yield address


@pytest.fixture(scope="module")
def address(server, root):
    """The server's address.  A module begins without records, and its kernels end with it."""
    driver.remove_records(root)
    yield server
    driver.shut_down_kernels(server)


@pytest.fixture(scope="module")
def opened(address):
    """The driver.Lab of the notebook that the page shows, if this module has opened one."""
    labs = []
    yield labs
    for lab in labs:
        lab.close()


@pytest.fixture
def open_notebook(page, address, opened):
    """open_notebook("name.ipynb") -> driver.Lab, in place of the notebook opened before."""

    def open_one(name, **options):
        while opened:
            opened.pop().close()
        opened.append(driver.Lab(page, address, name, **options))
        return opened[-1]

    return open_one


@pytest.fixture
def run_notebook(open_notebook, opened, root):
    """run_notebook("name.ipynb") -> driver.Lab, every cell run by a student without records.

    A page that shows this notebook already stays, and so does its kernel.
    """

    def run_one(name):
        shown = opened and opened[-1].notebook == name and opened[-1].has_kernel()
        lab = opened[-1] if shown else open_notebook(name)
        lab.wait_until_answered()  # an answer may still be on its way to the records
        driver.remove_records(root)
        lab.errors.clear()
        lab.run_all()
        return lab

    return run_one
