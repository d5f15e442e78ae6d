import json
import multiprocessing
import os
import re
import warnings

import pytest

from course_lib.build import sources
from course_lib.classroom.bank import load_bank
from course_lib.classroom.progress import (
    Line,
    Progress,
    progress,
    read_record,
    record_exercise,
    record_quiz,
)
from course_lib.paths import QUIZZES


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
    assert quiz.earned == 0.7 * quiz.points and quiz.status == "answered"


def test_a_second_bank_belongs_to_the_chapter_of_the_first(course_home):
    record_quiz("cogvideox_more", 1, 2)
    quizzes = [line.name for line in progress().chapters["09_cogvideox"] if "quiz" in line.name]
    assert quizzes == ["cogvideox quiz", "cogvideox_more quiz"]
    assert line("cogvideox_more quiz").earned == line("cogvideox_more quiz").points / 2
    assert line("cogvideox quiz").status == "not attempted"


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


def test_the_total_never_moves(course_home):
    total = progress().points
    for topic, bank in ((path.stem, load_bank(path.stem)) for path in QUIZZES.glob("*.yaml")):
        assert line(f"{topic} quiz").points == len(bank.questions)
    record_quiz("start_here", 1, 10)  # a bank of another length
    record_quiz("a chapter that was", 5, 5)
    record_exercise("start_here.patchify", "passed", 999)
    record_exercise("gone.exercise", "passed", 3)
    assert progress().points == total and progress().earned < 5


def test_all_chapters_are_bars_with_a_text_for_everyone(course_home):
    record_exercise("start_here.patchify", "passed", 2)
    page = progress()._repr_html_()
    names = [source.stem for source in sources()]
    assert list(progress().chapters) == names
    assert page.count("<progress") == len(names)
    lines = progress().chapters["00_start_here"]
    points = f"{sum(line.earned for line in lines):g} of {sum(line.points for line in lines):g}"
    assert f'aria-label="00_start_here: {points} points"' in page and f"<td>{points}</td>" in page
    assert "<caption>Progress: 2 of" in page and 'scope="row"' in page and "scope='col'" in page
    (text,) = [row for row in repr(progress()).splitlines() if row.startswith("00_start_here  ")]
    assert re.fullmatch(rf"00_start_here  #+\.+  {points} points", text)


def test_what_comes_next_is_the_first_that_is_not_done_with_a_link(course_home):
    lines = progress().chapters["00_start_here"]
    assert progress().next == ("00_start_here", lines[0].name)
    record_exercise(lines[0].name, "failed", 1)
    assert progress().next == ("00_start_here", lines[0].name)
    for exercise in lines[:-1]:
        record_exercise(exercise.name, "passed", 1)
    assert progress().next == ("00_start_here", "start_here quiz")
    assert "Next: start_here quiz in 00_start_here" in repr(progress())
    record_quiz("start_here", 3, 10)
    chapter, name = progress().next
    assert chapter == "01_ddpm" and name.startswith("ddpm.")
    link = f'<code>{name}</code> in <a href="01_ddpm.ipynb">01_ddpm</a>'
    assert link in progress()._repr_html_()


def test_when_all_is_done_it_says_so(course_home):
    for lines in progress().chapters.values():
        for each in lines:
            if each.name.endswith(" quiz"):
                record_quiz(each.name.removesuffix(" quiz"), 1, 1)
            else:
                record_exercise(each.name, "passed", 1)
    done = progress()
    assert done.next is None and done.earned == done.points and "All done." in repr(done)


def test_a_build_stores_no_points_since_they_would_soon_be_wrong(course_home, monkeypatch):
    monkeypatch.setenv("COURSE_BUILD", "1")
    for shown in (repr(progress()), progress()._repr_html_()):
        assert "Run this cell" in shown and not re.search(r"\d", shown)


def test_names_are_escaped():
    page = Progress({"<script>": [Line("<b>", "passed", 1, 1)]})._repr_html_()
    assert "<script>" not in page and "<b>" not in page.replace("<b>Next", "").replace("<b>All", "")
