"""Packing what is handed in."""

import json
import os
from zipfile import ZipFile

import pytest

from course_lib.classroom.hand_in import hand_in, to_pack
from course_lib.classroom.state import save_state
from course_lib.grading.submissions import find_submissions

ANSWERS = {"one": {"digest": "0123", "result": {"answer": [0], "right": True}}}
NOTEBOOK = json.dumps({"cells": [{"cell_type": "code", "source": "x = 1"}], "nbformat": 4})


@pytest.fixture
def notebook(tmp_path, monkeypatch):
    """notebooks/01_ddpm.ipynb, beside the empty folder in which the command runs."""
    for name in ("notebooks", "here"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    path = tmp_path / "notebooks" / "01_ddpm.ipynb"
    path.write_text(NOTEBOOK, encoding="utf-8")
    return path


def test_the_notebook_and_its_quiz_answers_are_packed(notebook, tmp_path):
    save_state("quiz-ddpm", ANSWERS)
    save_state("quiz-other", ANSWERS)
    save_state("progress", {})
    packed = hand_in(notebook)
    assert packed == tmp_path / "here" / "01_ddpm-hand-in.zip"
    with ZipFile(packed) as package:
        assert (
            package.namelist()
            == [path.name for path in to_pack(notebook)]
            == ["01_ddpm.ipynb", "quiz-ddpm.json"]
        )
        assert package.read("01_ddpm.ipynb") == NOTEBOOK.encode()
        assert json.loads(package.read("quiz-ddpm.json")) == ANSWERS


def test_what_was_packed_is_what_the_grader_reads(notebook, tmp_path):
    save_state("quiz-ddpm", ANSWERS)
    hand_in(notebook, tmp_path / "here" / "ada.zip")
    (submission,) = find_submissions(tmp_path / "here")
    work = submission.read()
    assert (work.student, work.notes, work.answers) == ("ada", (), {"ddpm": ANSWERS})
    assert [(cell.name, cell.source) for cell in work.cells] == [("cell 1", "x = 1")]


def test_without_answers_only_the_notebook_is_packed(notebook):
    with ZipFile(hand_in(notebook)) as package:
        assert package.namelist() == ["01_ddpm.ipynb"]


@pytest.mark.parametrize("name", ["01_ddpm (1).ipynb", "01_ddpm-Copy1.ipynb", "ddpm.ipynb"])
def test_a_copy_of_the_notebook_has_the_same_topic(notebook, name):
    save_state("quiz-ddpm", ANSWERS)
    copy = notebook.rename(notebook.with_name(name))
    assert [path.name for path in to_pack(copy)] == [name, "quiz-ddpm.json"]


@pytest.mark.parametrize("name", ["01_.ipynb", "-.ipynb", "..ipynb", "01_" + "x" * 200 + ".ipynb"])
def test_a_name_without_a_known_topic_is_packed(notebook, name):
    assert to_pack(notebook.rename(notebook.with_name(name))) == [notebook.with_name(name)]
    assert hand_in(notebook.with_name(name)).is_file()


def test_the_same_files_give_the_same_bytes(notebook, tmp_path):
    save_state("quiz-ddpm", ANSWERS)
    first = hand_in(notebook).read_bytes()
    os.utime(notebook, (0, 0))
    assert hand_in(notebook, tmp_path / "again.zip").read_bytes() == first


def test_a_folder_is_a_place_for_the_file(notebook, tmp_path):
    assert hand_in(notebook, tmp_path) == tmp_path / "01_ddpm-hand-in.zip"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("02_vit.ipynb", "02_vit.ipynb: there is no such file"),
        ("", "notebooks: that is another kind of file"),
        ("notes.txt", "notes.txt: that is another kind of file"),
    ],
)
def test_a_missing_notebook_is_named(notebook, name, said):
    (notebook.parent / "notes.txt").write_text("x", encoding="utf-8")
    with pytest.raises(ValueError, match="expected a notebook, such as") as caught:
        hand_in(notebook.parent / name)
    assert str(caught.value).endswith(said)


def test_the_notebook_is_never_overwritten(notebook):
    with pytest.raises(ValueError, match=r"expected a \.zip to write, got .*01_ddpm\.ipynb"):
        hand_in(notebook, notebook)
    assert notebook.read_text(encoding="utf-8") == NOTEBOOK


def test_a_failure_leaves_the_old_file_and_no_part(notebook, monkeypatch):
    before = hand_in(notebook).read_bytes()
    folder = hand_in(notebook).parent

    def fail(*arguments):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("course_lib.classroom.hand_in.ZipFile.writestr", fail)
        with pytest.raises(OSError, match="No space left"):
            hand_in(notebook)
    assert [path.name for path in folder.iterdir()] == ["01_ddpm-hand-in.zip"]
    assert (folder / "01_ddpm-hand-in.zip").read_bytes() == before
