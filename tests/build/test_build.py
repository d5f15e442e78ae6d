import os
import platform

import pytest

from course_lib import build, paths

SOURCE = """# %% [markdown]
# # A chapter

# %%
import os
import ipywidgets
sliders = [ipywidgets.IntSlider(n) for n in range(5)]
ipywidgets.VBox(sliders)

# %%
print(os.environ["COURSE_FAST"], os.listdir(os.environ["COURSE_HOME"]))
print("building", os.environ["COURSE_BUILD"])
"""


@pytest.fixture
def house(tmp_path, monkeypatch):
    """An empty course with one chapter."""
    for name in ("SOLUTIONS", "NOTEBOOKS"):
        monkeypatch.setattr(paths, name, tmp_path / name.lower())
        (tmp_path / name.lower()).mkdir()
    monkeypatch.setenv("COURSE_FAST", "1")
    (paths.SOLUTIONS / "01_demo.py").write_text(SOURCE, encoding="utf-8")
    return tmp_path


def test_building_twice_gives_the_same_bytes(house):
    (source,) = build.sources()
    committed = paths.NOTEBOOKS / "01_demo.ipynb"
    seconds = build.build(source)
    first = committed.read_bytes()
    build.build(source)
    assert committed.read_bytes() == first
    assert len(seconds) == 3 and seconds[0] == 0 < seconds[1]
    text = first.decode()
    assert "building 1" in text
    assert "1 []" in text and "iopub" not in text  # no timestamps
    assert (
        "IntSliderModel" in text and platform.python_version() not in text
    )  # the widget's state is kept, the machine's Python not told
    assert str(house) not in text and os.environ["COURSE_HOME"] not in text
    assert build.check_chapters([source]) == []


def test_only_a_build_is_told_that_its_outputs_are_kept(house):
    (source,) = build.sources()
    notebook, _ = build.execute(build.student_edition(source), house)
    assert "building 0" in notebook.cells[2].outputs[0].text


def test_a_failing_cell_is_named_and_nothing_is_written(house):
    source = paths.SOLUTIONS / "01_demo.py"
    source.write_text(SOURCE + "\n# %%\n1 / 0\n", encoding="utf-8")
    with pytest.raises(
        build.ExecutionError, match=r"01_demo: cell 3 \(1 / 0\) failed[^\0]*ZeroDivisionError"
    ):
        build.build(source)
    assert not list(paths.NOTEBOOKS.iterdir())


def test_a_cell_that_hangs_is_stopped(house):
    source = paths.SOLUTIONS / "01_demo.py"
    source.write_text("# %%\nimport time; time.sleep(60)\n", encoding="utf-8")
    with pytest.raises(build.ExecutionError, match=r"cell 0 \(import time"):
        build.execute(build.student_edition(source), house, timeout=2)


def test_without_running_there_are_no_outputs_and_the_check_says_so(house):
    (source,) = build.sources()
    assert build.build(source, run=False) == []
    assert build.check_chapters([source]) == [
        "01_demo.ipynb: its code cells have not been executed in order, once each"
    ]


def test_a_notebook_without_source_is_reported(house):
    build.build(build.sources()[0], run=False)
    (paths.NOTEBOOKS / "01_demo.ipynb").rename(paths.NOTEBOOKS / "02_gone.ipynb")
    assert build.check_chapters([]) == ["02_gone.ipynb: has no source in solutions/"]


@pytest.mark.parametrize(
    "name", ["01", "01_demo", "notebooks/01_demo.ipynb", "solutions/01_demo.py"]
)
def test_a_chapter_is_found_by_number_name_or_path(house, name):
    assert [path.stem for path in build.sources([name])] == ["01_demo"]


def test_an_unknown_chapter_is_refused(house):
    with pytest.raises(ValueError, match="no chapter named 99; there are: 01_demo"):
        build.sources(["99"])


def test_an_unchanged_notebook_is_not_written_again(house):
    (path,) = build.write_solutions(house / "out", build.sources())
    before = path.stat().st_mtime_ns
    build.write_solutions(house / "out", build.sources())
    assert path.stat().st_mtime_ns == before
    assert [entry.name for entry in path.parent.iterdir()] == ["01_demo.ipynb"]
