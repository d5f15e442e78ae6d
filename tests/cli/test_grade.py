"""`course grade` on the command line: what it takes, what it says, and how it ends."""

import json
from pathlib import Path

import pytest

from course_lib import cli
from course_lib.grading import batch
from course_lib.grading.records import ExerciseMark, Grade


def graded(student, earned):
    mark = ExerciseMark(
        id="ddpm.q_sample", status="wrong", points=2, earned=earned, right=0, cases=3
    )
    return Grade(student=student, digest="0", exercises=(mark,))


@pytest.fixture
def asked(monkeypatch):
    """What the batch was asked for; two students come back."""
    calls = []

    def grade(*folders, **settings):
        calls.append((folders, settings))
        return [graded("ada", 2.0), graded("bob", 0.5)]

    monkeypatch.setattr(batch, "grade", grade)
    return calls


def test_what_it_takes_reaches_the_batch(asked, capsys):
    options = [
        "--topic",
        "ddpm",
        "--topic",
        "start_here",
        "--seed",
        "3",
        "--jobs",
        "4",
        "--isolation",
        "process",
    ]
    more = ["--roster", "class.csv", "--scheduler", "tcp://there:8786"]
    assert cli.main(["grade", "work", "--out", "grades", *options, *more]) == 0
    settings = {"topics": ["ddpm", "start_here"], "seed": 3, "jobs": 4, "isolation": "process"}
    settings |= {"roster": Path("class.csv"), "scheduler": "tcp://there:8786"}
    assert asked == [((Path("work"), Path("grades")), settings)]


def test_it_says_what_came_out_and_where_it_lies(asked, capsys):
    assert cli.main(["grade", "work", "--out", "grades"]) == 0
    out = capsys.readouterr().out
    assert (
        out == f"2 submissions, 1.2 of 2 points on average\n{Path('grades/class.html')} "
        f" {Path('grades/grades.csv')}\n"
    )
    assert asked[0][1] == {
        "topics": [],
        "seed": None,
        "jobs": None,
        "isolation": "bwrap",
        "roster": None,
        "scheduler": None,
    }


@pytest.mark.parametrize(
    "argv",
    [
        ["work"],
        ["--out", "grades"],
        ["work", "--out", "grades", "--jobs", "many"],
        ["work", "--out", "grades", "--isolation", "docker"],
    ],
)
def test_a_usage_error_exits_with_2(argv, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["grade", *argv])
    assert stop.value.code == 2 and "usage: course grade" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["nowhere"], "there is nothing at"),
        (["empty"], "holds no submissions"),
        (["ada.ipynb", "--topic", "dance"], "expected topics out of"),
        (["ada.ipynb", "--roster", "nowhere.csv"], "the roster nowhere.csv cannot be read"),
        (["ada.ipynb", "--seed", "-1"], "expected a seed from 0"),
        (["ada.ipynb", "--jobs", "0"], "expected at least one job"),
        (["ada.ipynb"], "no topic is answered by half of the submissions"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_1(tmp_path, monkeypatch, capsys, argv, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "ada.ipynb").write_text(
        json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": []})
    )
    assert cli.main(["grade", *argv, "--out", "grades"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("course grade: ") and says in line
