"""Damaged notebooks and zips: each is read, or refused with a sentence."""

import zipfile
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from course_lib.grading.notebook import NotANotebook, read_notebook
from course_lib.grading.records import Work
from course_lib.grading.submissions import find_submissions
from tests.grading.mutate import mutant, mutated_notebooks, mutated_zip, originals

CHECKS = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture]
RANDOMS = st.randoms(use_true_random=False)


def fuzz(count):
    """Return settings for so many examples, the same in every run."""
    return settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=CHECKS,
    )


def read(path: Path) -> Work:
    """Return the only submission at `path`; its record survives being written and read."""
    (submission,) = find_submissions(path)
    work = submission.read()
    text = work.model_dump_json()
    assert Work.model_validate_json(text.encode("utf-8")) == work
    assert all(
        "\n" not in note and len(note) < 600 and "to its end" not in note for note in work.notes
    )
    return work


def check(path: Path, data: bytes) -> Work:
    """Read a mutant both ways: they agree on its code, or on the sentence that refuses it."""
    path.write_bytes(data)
    work = read(path)
    try:
        code = [source for source in read_notebook(data) if source is not None]
    except NotANotebook as refused:
        assert work.notes == (f"{path.name} {refused}.",) and not work.cells
    else:
        assert [cell.source for cell in work.cells] == code
        assert work.notes == (() if any(code) else (f"{path.name} holds no code.",))
    return work


def test_the_originals_are_read_alike(tmp_path):
    works = [check(tmp_path / "ada.ipynb", text.encode()) for text in originals()]
    assert works[0] == works[1] and len(works[0].cells) >= 5
    assert any("@exercise" in cell.source for cell in works[0].cells)


@fuzz(1000)
@given(RANDOMS)
def test_hypothesis_finds_no_notebook_that_breaks_the_reading(tmp_path, random):
    check(tmp_path / "ada.ipynb", mutant(random))


def test_a_thousand_mutants_are_read_or_refused_with_a_sentence(tmp_path):
    mutants = list(mutated_notebooks(seed=0, count=1000))
    assert mutants == list(mutated_notebooks(seed=0, count=1000)) and len(set(mutants)) > 950
    works = [check(tmp_path / "ada.ipynb", data) for data in mutants]
    whole = sum(bool(work.cells) for work in works)
    refused = sum(bool(work.notes) for work in works)
    # The mutants are neither harmless nor mere noise.
    assert whole > 250 and refused > 250, (whole, refused)


@fuzz(300)
@given(RANDOMS)
def test_hypothesis_finds_no_zip_that_breaks_the_reading(tmp_path, random):
    folder = tmp_path / "class"
    folder.mkdir(exist_ok=True)
    (folder / "ada.zip").write_bytes(mutated_zip(random))
    read(folder)


def test_mutated_zips_cost_what_is_damaged_in_them(tmp_path):
    random = Random(0)
    works = []
    for _ in range(300):
        (tmp_path / "ada.zip").write_bytes(mutated_zip(random))
        works.append(read(tmp_path))
    assert sum(bool(work.cells) for work in works) > 80
    assert sum(bool(work.notes) for work in works) > 150


def test_a_mutated_zip_of_a_class_is_read_or_refused(tmp_path):
    random = Random(0)
    for _ in range(150):
        (tmp_path / "class.zip").write_bytes(mutated_zip(random))
        try:
            found = find_submissions(tmp_path / "class.zip")
        except ValueError as error:
            assert "class.zip" in str(error)
            continue
        assert [Work.model_validate_json(each.read().model_dump_json()) for each in found]


def test_a_mutant_beside_others_changes_nothing_for_them(tmp_path):
    honest = originals()[0].encode()
    (tmp_path / "zoe.ipynb").write_bytes(honest)
    expected = read(tmp_path)
    for n, data in enumerate(mutated_notebooks(seed=1, count=50)):
        (tmp_path / f"mutant {n}.ipynb").write_bytes(data)
    works = [submission.read() for submission in find_submissions(tmp_path)]
    assert len(works) == 51 and works[-1] == expected


@pytest.mark.parametrize("form", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_every_truncation_of_a_zip_is_survived(tmp_path, form):
    with zipfile.ZipFile(tmp_path / "whole", "w", form) as package:
        package.writestr(
            "one.ipynb", '{"cells": [{"cell_type": "code", "source": "x = 1"}], "nbformat": 4}'
        )
    whole = (tmp_path / "whole").read_bytes()
    for length in range(len(whole)):
        (tmp_path / "ada.zip").write_bytes(whole[:length])
        assert read(tmp_path).notes
    (tmp_path / "ada.zip").write_bytes(whole)
    assert read(tmp_path).cells[0].source == "x = 1"
