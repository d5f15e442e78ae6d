import json
import multiprocessing
import os
import warnings

import pytest

from course_lib.classroom.progress import progress, read_record, record_exercise, record_quiz


def line(name):
    return next(
        line for lines in progress().chapters.values() for line in lines if line.name == name
    )


def test_without_a_record_everything_declared_is_listed(course_home):
    assert line("start_here.patchify").status == "not attempted"
    assert progress().earned == 0 and progress().points >= 3
    assert "start_here.to_model" in repr(progress())


def test_results_are_kept_and_a_pass_stays(course_home):
    record_exercise("start_here.patchify", "failed", 2)
    assert line("start_here.patchify").status == "not passed"
    record_exercise("start_here.patchify", "passed", 2)
    record_exercise("start_here.patchify", "failed", 2)
    assert (line("start_here.patchify").status, line("start_here.patchify").earned) == ("passed", 2)
    record_exercise("start_here.to_model", "not attempted", 1)
    assert line("start_here.to_model").status == "not attempted"
    assert progress().earned == 2


def test_a_quiz_keeps_its_best_score(course_home):
    for score in (3, 7, 5):
        record_quiz("start_here", score, 10)
    quiz = line("start_here quiz")
    assert (quiz.earned, quiz.points, quiz.status) == (7, 10, "best score")


@pytest.mark.parametrize(("score", "out_of"), [(-1, 5), (6, 5), (0, 0), (float("nan"), 5)])
def test_an_impossible_score_is_refused(score, out_of):
    with pytest.raises(ValueError, match="out of"):
        record_quiz("start_here", score, out_of)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe\x00",
        b"[]",
        b"null",
        b'{"exercises": {}}',
        b'{"exercises": {"a": 1}, "quizzes": {}}',
        b'{"exercises": {"a.b": {"status": "superb", "points": 1}}, "quizzes": {}}',
        b'{"exercises": {}, "quizzes": {"a": {"score": 1, "out_of": 0}}}',
        b'{"exercises": {}, "quizzes": {"a": {"score": "1", "out_of": 2}}}',
        b"[" * 100_000,
    ],
)
def test_a_damaged_file_is_set_aside(content, course_home):
    course_home.mkdir()
    (course_home / "progress.json").write_bytes(content)
    with pytest.warns(UserWarning, match="damaged-1.json"):
        assert read_record() == {"exercises": {}, "quizzes": {}}
    assert (course_home / "progress.damaged-1.json").read_bytes() == content
    record_exercise("a.b", "passed", 1)
    assert json.loads((course_home / "progress.json").read_text(encoding="utf-8"))["exercises"]
    (course_home / "progress.json").write_bytes(content)
    with pytest.warns(UserWarning, match="damaged-2.json"):
        read_record()


def test_reading_creates_nothing(course_home):
    progress()
    assert not course_home.exists()


def test_a_write_cut_short_leaves_the_old_record(course_home, monkeypatch):
    record_exercise("a.b", "passed", 1)
    before = (course_home / "progress.json").read_bytes()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    assert "disk full" in record_exercise("a.c", "passed", 1)
    assert (course_home / "progress.json").read_bytes() == before
    assert not list(course_home.glob("*.part"))


def _work(name):
    for i in range(25):
        record_exercise(f"{name}.e{i}", "passed", 1)


def test_two_notebooks_at_once_lose_nothing(course_home):
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        pool.map(_work, ["first", "second"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(read_record()["exercises"]) == 50


def test_the_table_is_accessible_and_escaped(course_home):
    record_quiz("<script>", 1, 2)
    html = progress()._repr_html_()
    assert "<caption>" in html and 'scope="row"' in html and "scope='col'" in html
    assert "<script>" not in html
