"""Where things are: the map is current, and what a newcomer would guess is where it is guessed."""

import importlib.util

import pytest

from course_lib import paths

MAP = paths.ROOT / "docs" / "MAP.md"
LONGEST_LINE = 120  # characters of what a module says of itself
GUESSES = {  # what a newcomer looks for -> where, and under which name
    "the DDIM sampler": ("course_lib/diffusion/samplers.py", "def ddim_step"),
    "the noise schedules": ("course_lib/diffusion/schedules.py", "def linear_betas"),
    "the running average of weights": ("course_lib/training/ema.py", "class EMA"),
    "LPIPS": ("course_lib/losses/perceptual.py", "class LPIPS"),
    "FID": ("course_lib/metrics/frechet.py", "def frechet_distance"),
    "attention": ("course_lib/nn/attention.py", "class SpatialAttention"),
    "a transformer": ("course_lib/nn/transformer.py", "class "),
    "MAGVIT's ten tasks": ("course_lib/papers/magvit.py", "TASKS ="),
    "the data sets": ("course_lib/data.py", "def images"),
    "the questions of a quiz": ("data/quizzes/magvit.yaml", "questions:"),
    "the sandbox for students' code": ("course_lib/grading/isolation.py", "class "),
    "the exercise decorator": ("course_lib/classroom/exercise.py", "def exercise"),
    "comparing an answer with the reference": ("course_lib/checking/compare.py", "def compare"),
    "the text of a notebook": ("notebooks/README.md", "solutions/NN_topic.py"),
}


def mapmaker():
    """Return docs/make_map.py as a module."""
    spec = importlib.util.spec_from_file_location("make_map", paths.ROOT / "docs" / "make_map.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_map_is_what_the_docstrings_say():
    assert MAP.read_text(encoding="utf-8") == mapmaker().page(), "run python docs/make_map.py"


def test_the_map_has_every_folder_of_the_library():
    library = paths.ROOT / "course_lib"
    folders = {path.parent.relative_to(library).as_posix() for path in library.rglob("*.py")}
    assert {folder.replace(".", "", 1) for folder in folders} == set(mapmaker().FOLDERS)


@pytest.mark.parametrize(
    "path",
    sorted((paths.ROOT / "course_lib").rglob("*.py")),
    ids=lambda path: path.relative_to(paths.ROOT).as_posix(),
)
def test_a_module_introduces_itself_in_one_line(path):
    assert 0 < len(mapmaker().summary(path)) <= LONGEST_LINE


@pytest.mark.parametrize("what", GUESSES)
def test_a_newcomers_guess_is_right(what):
    place, name = GUESSES[what]
    assert name in (paths.ROOT / place).read_text(encoding="utf-8")
