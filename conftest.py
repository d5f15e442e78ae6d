"""What all tests share: threads, the student's folder, and how notebooks are collected and run.

Nothing of course_lib is imported before pytest has configured itself: its types are checked by a
hook (jaxtyping and beartype) that has to be there first.
"""

import os
import tempfile
from pathlib import Path

import jaxtyping
import pytest
from nbval.plugin import IPyNbFile

# here, because the controller of xdist reads no conftest further down
pytest_plugins = ["tests.mutants.summary"]

ROOT = Path(__file__).parent
LONGEST_FIRST = [
    "build",
    "tests/browser",
    "notebooks",
    "tests/benchmarks",
    "tests/mutants",
    "tests/parity",
]

if "PYTEST_XDIST_WORKER" in os.environ:  # one thread per worker, its kernels and processes included
    os.environ["OMP_NUM_THREADS"] = "1"


@pytest.hookimpl(trylast=True)
def pytest_configure(config):
    config.course_home = tempfile.TemporaryDirectory()
    os.environ["COURSE_HOME"] = config.course_home.name
    config.option.nbval_kernel_startup_timeout = 300  # seconds; nbval's 60 fail on a busy machine


def pytest_unconfigure(config):
    config.course_home.cleanup()


@pytest.fixture(autouse=True)
def course_home(tmp_path, monkeypatch):
    """The student's folder of this one test: progress and answers of no other test are in it."""
    monkeypatch.setenv("COURSE_HOME", str(tmp_path / "course_home"))
    return tmp_path / "course_home"


@pytest.fixture
def untyped():
    """Switch the checks of types off, as they are for a student; only our own messages are left."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def pytest_collectstart(collector):
    # before any test file imports diffusers, transformers or lpips
    if isinstance(collector, pytest.Session):
        from course_lib.compat import import_torchvision

        import_torchvision()


class Notebook(IPyNbFile):
    """A student edition: it starts with an empty student's folder and trains for a few steps."""

    fast = "1"

    def setup(self):
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("COURSE_HOME", tempfile.mkdtemp(dir=self.config.course_home.name))
            environment.setenv("COURSE_FAST", self.fast)
            environment.setenv("COURSE_LIVE_SECONDS", "3")
            environment.setenv("COURSE_STRICT", "1")
            super().setup()  # the kernel starts here


class Edition(Notebook):
    """A solution edition: it trains for three seconds; the build has trained for the whole time."""

    fast = "0"


class Source(pytest.File):
    """solutions/NN_topic.py, where it is asked for: the notebook that it makes, with its answers.

    A run of all tests does not collect it again: tests/browser executes the same notebooks.
    """

    def collect(self):
        from course_lib.build import write_solutions

        for notebook in write_solutions(ROOT / "build" / "solutions", [self.path]):
            yield Edition.from_parent(self, path=notebook)


@pytest.hookimpl(wrapper=True)
def pytest_collect_file(file_path, parent):
    collected = yield
    collector = {".ipynb": Notebook, ".py": Source}.get(file_path.suffix)
    if collector and file_path.parent in (ROOT / "notebooks", ROOT / "solutions"):
        return [collector.from_parent(parent, path=file_path)]
    return collected


def pytest_collection_modifyitems(items):
    def rank(item):
        areas = (i for i, area in enumerate(LONGEST_FIRST) if item.nodeid.startswith(area))
        return next(areas, len(LONGEST_FIRST))

    items.sort(key=rank)  # a long notebook begun last would leave the other worker idle
