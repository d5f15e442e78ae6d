"""The batch: it resumes at any moment, runs nothing twice, and decides what a class is marked on.

Where no answer has to run, a stand-in for the jail finds no answer in any notebook.
"""

import contextlib
import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
from filelock import FileLock

from course_lib import cli
from course_lib.checking import find_exercise, topics
from course_lib.checking.diagnose import assess
from course_lib.checking.observe import preserved, run
from course_lib.classroom.bank import digest, load_bank
from course_lib.grading import batch, marking
from course_lib.grading.batch import grade
from course_lib.grading.isolation import Jail, JailError, Reply
from course_lib.grading.notebook import read_notebook
from course_lib.grading.program import Notebook
from course_lib.grading.records import Cell
from course_lib.grading.submissions import find_submissions
from course_lib.paths import ROOT
from docs import make_submissions as invented
from tests.grading import big_class
from tests.grading.handed_in import notebook
from tests.grading.little_class import (
    CLASS,
    HONEST,
    IMPORTS,
    LOOP,
    PATCHIFY,
    TO_MODEL,
    counted_bwrap,
    grade_files,
    start,
    tree,
    wait_until,
    write_class,
)

SEED = ("--seed", "5")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return the folder of the class and of its grades from one run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    running = start(write_class(folder / "class"), folder / "grades", *SEED, "--jobs", "2")
    out, err = running.communicate(timeout=120)
    # Without a terminal there is no progress bar.
    assert (running.returncode, err) == (0, ""), err
    assert out.startswith("5 submissions, 2.0 of 3 points on average\n")
    return folder


class NoAnswers(Jail):
    """A jail that finds no answer and costs nothing."""

    def start(self):
        pass

    def run(self, request):
        return Reply([json.dumps({"missing": "There is none."}).encode()])


@pytest.fixture
def marked(monkeypatch):
    """Return a list that collects the students marked, in order, without running their code."""
    names = []

    def mark_json(work, *rest):
        names.append(json.loads(work)["student"])
        return real_mark_json(work, *rest)

    real_mark_json = batch.mark_json
    monkeypatch.setattr(batch, "Jail", NoAnswers)
    monkeypatch.setattr(batch, "mark_json", mark_json)
    return names


def rows(out):
    """Return the rows of grades.csv."""
    return list(csv.DictReader(io.StringIO((out / "grades.csv").read_text(encoding="utf-8"))))


def students(out):
    """Return the students in grades.csv."""
    return [row["Student"] for row in rows(out)]


def assignment(out):
    """Return what grading.json holds."""
    return json.loads((out / "grading.json").read_text(encoding="utf-8"))


# --------------------------------------------------------------------- killed, interrupted, resumed


def test_the_grades_are_what_the_answers_earn(whole):
    table = rows(whole / "grades")
    earned = {
        row["Student"]: (row["start_here.to_model"], row["start_here.patchify"]) for row in table
    }
    assert earned == {
        "ada": ("1", "2"),
        "bob": ("0", "2"),
        "cyd": ("1", "0"),
        "dan": ("1", "0.86"),
        "eve": ("0", "2"),
    }
    assert set(tree(whole / "grades")) == {"grading.json", "grades.csv", "class.html"} | {
        f"students/{name}/{file}"
        for name in CLASS
        for file in ("grade.json", "results.json", "feedback.html")
    }


def test_killed_at_any_moment_and_resumed_it_ends_with_the_same_bytes(whole, tmp_path):
    out = tmp_path / "grades"
    path, starts = counted_bwrap(tmp_path / "bin")
    for finished in (0, 1, 3):
        running = start(whole / "class", out, *SEED, "--jobs", "2", path=path)
        grader = psutil.Process(running.pid)

        def is_underway(grader=grader, finished=finished):
            return grader.children() and len(grade_files(out)) >= finished

        wait_until(is_underway)
        family = grader.children(recursive=True)
        running.kill()
        running.wait()
        # A jail that was starting at that moment notices once it has loaded.
        _, left = psutil.wait_procs(family, timeout=15)
        assert family and not left
    done = len(grade_files(out))
    assert 3 <= done < len(CLASS) and not (out / "grades.csv").exists()
    (out / "students" / ".grade.json-0123abcd.part").write_text("killed in the middle of writing")
    starts.write_text("")
    running = start(whole / "class", out, *SEED, "--jobs", "1", path=path)
    assert running.wait(timeout=120) == 0
    assert tree(out) == tree(whole / "grades")
    # One jail is a trial, and one marks each remaining submission.
    assert len(starts.read_text()) == 1 + len(CLASS) - done


def test_ctrl_c_ends_at_once_and_loses_nothing(tmp_path, marked):
    folder = write_class(tmp_path / "class", {"ada": HONEST, "zed": (IMPORTS, LOOP, PATCHIFY)})
    out = tmp_path / "grades"
    running = start(folder, out, *SEED, "--jobs", "2")
    wait_until(lambda: grade_files(out))
    family = psutil.Process(running.pid).children(recursive=True)
    began = time.monotonic()
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=20)
    assert time.monotonic() - began < 5 and running.returncode == 130
    assert err == "\nstopped; what is finished is kept, and the same command resumes from there\n"
    _, left = psutil.wait_procs(family, timeout=2)
    assert family and not left
    grade(folder, out)
    assert marked == ["zed"] and [row["start_here.to_model"] for row in rows(out)] == ["1", "0"]


def test_one_job_with_only_resource_limits_writes_the_same_bytes(whole, tmp_path):
    grade(whole / "class", tmp_path / "grades", seed=5, jobs=1, isolation="process")
    assert tree(tmp_path / "grades") == tree(whole / "grades")


def test_without_bwrap_it_stops_with_advice_and_writes_no_grades(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert (
        cli.main(["grade", str(write_class(tmp_path / "class")), "--out", str(tmp_path / "grades")])
        == 1
    )
    err = capsys.readouterr().err
    assert (
        err.startswith("course grade: bubblewrap (the command bwrap) is needed")
        and "apt install bubblewrap" in err
    )
    assert "--isolation process" in err and set(tree(tmp_path / "grades")) == {"grading.json"}


def test_a_machine_that_fails_halfway_loses_nothing(tmp_path, marked, monkeypatch):
    folder = write_class(tmp_path / "class")
    out = tmp_path / "grades"

    class Failing(NoAnswers):
        """A jail that stops working after two students."""

        def run(self, request):
            if len(marked) > 2:
                raise JailError("out of order")
            return super().run(request)

    monkeypatch.setattr(batch, "Jail", Failing)
    with pytest.raises(JailError, match="out of order"):
        grade(folder, out, jobs=1)
    assert len(grade_files(out)) == 2
    monkeypatch.setattr(batch, "Jail", NoAnswers)
    marked.clear()
    grade(folder, out)
    assert sorted(marked) == ["cyd", "dan", "eve"]


def test_a_jail_that_cannot_run_the_course_costs_nobody_a_mark(tmp_path, monkeypatch):
    class Broken(NoAnswers):
        """A jail in which numpy is missing."""

        def run(self, request):
            return Reply([], "ModuleNotFoundError: No module named 'numpy'\n")

    monkeypatch.setattr(batch, "Jail", Broken)
    with pytest.raises(
        JailError, match=r"does not run in its jail: ModuleNotFoundError: No module named 'numpy'$"
    ):
        grade(write_class(tmp_path / "class"), tmp_path / "grades")
    assert not grade_files(tmp_path / "grades")
    monkeypatch.setattr(
        batch, "_threads", lambda *_: contextlib.nullcontext((ThreadPoolExecutor(1), 1))
    )
    # The same without the trial at the start, as on a worker of a cluster.
    with pytest.raises(JailError, match=r"does not run in its jail"):
        grade(tmp_path / "class", tmp_path / "grades")
    assert not grade_files(tmp_path / "grades")


def test_a_killed_grader_leaves_no_scratch_folder(tmp_path):
    code = (
        "import os; from course_lib.grading.isolation import Jail; Jail('process').start();"
        " os.kill(os.getpid(), 9)"
    )
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    assert (
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment).returncode
        == -signal.SIGKILL
    )
    wait_until(lambda: not list(tmp_path.iterdir()), seconds=10)


def test_a_busy_machine_costs_nobody_a_mark(tmp_path):
    work = "end = time.process_time() + 0.1\n    while time.process_time() < end: pass\n    return"
    cells = [
        {"name": "cell 1", "source": f"import time\n{IMPORTS}\n{TO_MODEL.replace('return', work)}"}
    ]
    hogs = []
    with Jail() as jail:
        jail.start()
        processes = psutil.Process(jail._process.pid).children(recursive=True)
        try:
            loop = [sys.executable, "-c", "while True: pass"]
            # A process in a session of its own gets its own share of the processor.
            hogs += [subprocess.Popen(loop, start_new_session=True) for _ in range(3)]
            for one in (*processes, *(psutil.Process(hog.pid) for hog in hogs)):
                one.cpu_affinity([0])
            began = time.monotonic()
            reply = jail.run(
                {
                    "exercise": "start_here.to_model",
                    "seed": 1,
                    "seconds": 0.9,
                    "cells": cells,
                    "passed": [],
                }
            )
            seconds = time.monotonic() - began
            assert reply.stopped == "" and len(reply.frames) == 1 + 6
        finally:
            for hog in hogs:
                hog.kill()
                hog.wait()
    if seconds <= 0.9:
        pytest.skip(f"the machine could not be kept busy: {seconds:.1f} s")


# -------------------------------------------------------------------------------- what is run again


@pytest.fixture
def graded(tmp_path, marked):
    """Return the folders of a class and of its grades; no answers were run."""
    grade(write_class(tmp_path / "class"), tmp_path / "grades", seed=5)
    assert sorted(marked) == list(CLASS)
    marked.clear()
    return tmp_path / "class", tmp_path / "grades"


def test_what_has_not_changed_is_neither_run_nor_written_again(graded, marked, monkeypatch):
    def stamps():
        """Return when each file was last written."""
        return {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.name != ".lock"}

    folder, out = graded
    before = stamps()
    monkeypatch.setattr(batch, "Jail", None)  # not even a trial is run
    grade(folder, out)
    assert marked == [] and stamps() == before


def test_only_a_changed_submission_is_run_again(graded, marked):
    folder, out = graded
    write_class(folder, {"cyd": HONEST})
    grade(folder, out)
    assert marked == ["cyd"]
    write_class(folder, {"fay": HONEST})
    grade(folder, out)
    assert marked == ["cyd", "fay"] and students(out) == [*CLASS, "fay"]


def test_another_version_of_the_course_marks_everyone_again(graded, marked, monkeypatch):
    monkeypatch.setattr(marking, "_course_digest", lambda: "another")
    grade(*graded)
    assert sorted(marked) == list(CLASS)


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-40], lambda data: b"", lambda data: b'{"student": "ada"}']
)
def test_a_damaged_grade_is_marked_again(graded, marked, damage):
    folder, out = graded
    path = out / "students" / "bob" / "grade.json"
    before = tree(out)
    path.write_bytes(damage(path.read_bytes()))
    grade(folder, out)
    assert marked == ["bob"] and tree(out) == before


@pytest.mark.parametrize(
    "name", ["students/dan/feedback.html", "students/dan/results.json", "class.html", "grades.csv"]
)
def test_a_page_that_was_deleted_or_damaged_is_written_again(graded, marked, name):
    folder, out = graded
    before = tree(out)
    (out / name).unlink()
    (out / "students" / "ada" / "feedback.html").write_text("not what it was")
    grade(folder, out)
    assert marked == [] and tree(out) == before


def test_a_submission_that_is_gone_is_no_longer_in_the_table(graded, marked):
    folder, out = graded
    (folder / "bob.ipynb").unlink()
    grade(folder, out)
    assert marked == [] and students(out) == ["ada", "cyd", "dan", "eve"]


def test_the_roster_goes_into_the_table_and_changes_no_mark(graded, marked, tmp_path):
    folder, out = graded
    roster = tmp_path / "roster.csv"
    roster.write_text(
        "submission,student,ID,Email address\nada,ada,7,ada@example.org\n,late,8,\n",
        encoding="utf-8",
    )
    grade(folder, out, roster=roster)
    assert sorted(marked) == [
        "bob",
        "cyd",
        "dan",
        "eve",
        "late",
    ]  # the others got a note, or are new
    named = {row["Student"]: (row["ID"], row["Email address"]) for row in rows(out)}
    assert (
        named["ada"] == ("7", "ada@example.org")
        and named["late"] == ("8", "")
        and named["bob"] == ("", "")
    )
    marked.clear()
    roster.write_text(
        "submission,student,ID,Email address\nada,ada,9,\n,late,8,\n", encoding="utf-8"
    )
    grade(folder, out, roster=roster)
    assert marked == [] and {row["Student"]: row["ID"] for row in rows(out)}["ada"] == "9"


# ---------------------------------------------------------------------- what the class is marked on


def test_seed_and_topics_are_kept(graded, marked):
    folder, out = graded
    kept = assignment(out)
    assert kept == {"topics": ["start_here"], "quizzes": False, "seed": 5}
    grade(folder, out, seed=5, topics=["start_here"])
    with pytest.raises(
        ValueError, match=r"was graded with the seed 5; choose another folder for another seed"
    ):
        grade(folder, out, seed=6)
    with pytest.raises(
        ValueError, match=r"was graded for start_here; choose another folder for other topics"
    ):
        grade(folder, out, topics=["start_here", "ddpm"])
    write_class(
        folder,
        {f"late {n}": ('@exercise("ddpm.q_sample")\ndef q_sample(): pass',) for n in range(20)},
    )
    grade(folder, out)
    assert assignment(out) == kept


def test_a_seed_is_drawn_once(tmp_path, marked):
    folder = write_class(tmp_path / "class")
    grades = [tmp_path / name for name in ("one", "one", "two")]
    seeds = [grade(folder, out) and assignment(out)["seed"] for out in grades]
    assert seeds[0] == seeds[1] != seeds[2] and all(0 <= seed < 2**31 for seed in seeds)


@pytest.mark.parametrize(
    "settings", [{"seed": -1}, {"seed": 2**32}, {"jobs": 0}, {"isolation": "docker"}]
)
def test_an_impossible_setting_is_refused_before_anything_runs(tmp_path, settings):
    with pytest.raises(
        ValueError, match=r"expected (a seed from 0 to|at least one job|an isolation out of)"
    ):
        grade(write_class(tmp_path / "class"), tmp_path / "grades", **settings)
    assert not grade_files(tmp_path / "grades")


def test_an_unknown_topic_is_refused(tmp_path):
    with pytest.raises(
        ValueError, match=f"expected topics out of {', '.join(topics())}, got dance"
    ):
        grade(write_class(tmp_path / "class"), tmp_path / "grades", topics=["ddpm", "dance"])


def test_a_damaged_assignment_is_reported(graded):
    folder, out = graded
    (out / "grading.json").write_text("{")
    with pytest.raises(ValueError, match=r"grading.json is damaged .*; grade into another folder"):
        grade(folder, out)


def test_topics_are_in_the_order_of_the_course(tmp_path, marked):
    grade(
        write_class(tmp_path / "class"), tmp_path / "grades", topics=["ddpm", "start_here", "ddpm"]
    )
    assert assignment(tmp_path / "grades")["topics"] == ["start_here", "ddpm"]


def hand_in(folder, name, topics=(), quizzes=()):
    """Hand in an answer to each topic and saved answers to each quiz."""
    own = folder / name
    own.mkdir(parents=True)
    cells = [f'@exercise("{topic}.anything")\ndef anything(): pass' for topic in topics]
    (own / "work.ipynb").write_bytes(notebook(*cells))
    for topic in quizzes:
        question = load_bank(topic).questions[0]
        saved = {
            question.id: {
                "digest": digest(question),
                "result": {"answer": [0], "right": True},
            }
        }
        (own / f"quiz-{topic}.json").write_text(json.dumps(saved), encoding="utf-8")


@pytest.mark.parametrize(
    "attacker",
    [
        {"topics": ["ddpm", "start_here"]},
        {"topics": ["ddpm"] * 50, "quizzes": ["start_here", "ddpm"]},
    ],
)
def test_a_single_student_adds_no_topic_and_no_quiz(tmp_path, marked, attacker):
    folder = tmp_path / "class"
    hand_in(folder, "mallory", **attacker)
    for name in ("ada", "bob"):
        hand_in(folder, name, ["start_here"])
    for name in ("cyd", "dan"):
        hand_in(folder, name)  # an empty notebook has no vote
    grade(folder, tmp_path / "grades")
    found = assignment(tmp_path / "grades")
    assert (found["topics"], found["quizzes"]) == (["start_here"], False)


def test_quizzes_count_if_half_the_class_answers_them(tmp_path, marked):
    folder = tmp_path / "class"
    for name, quizzes in {
        "ada": ["start_here"],
        "bob": ["start_here"],
        "cyd": [],
        "dan": [],
    }.items():
        hand_in(folder, name, ["start_here"], quizzes)
    grades = grade(folder, tmp_path / "grades")
    assert assignment(tmp_path / "grades")["quizzes"]
    assert [one.quizzes[0].note for one in grades] == ["", ""] + [
        "no quiz answers were handed in"
    ] * 2
    assert all("start_here.quiz" in row for row in rows(tmp_path / "grades"))


def test_a_class_that_answers_nothing_needs_a_topic(tmp_path, marked):
    folder = write_class(tmp_path / "class", {"ada": ("1 + 1",), "bob": ()})
    with pytest.raises(
        ValueError, match=r"no topic is answered by half of the submissions; say which .* --topic"
    ):
        grade(folder, tmp_path / "grades")
    grade(folder, tmp_path / "grades", topics=["start_here"])
    assert {row["Final Points"] for row in rows(tmp_path / "grades")} == {"0"}


# -------------------------------------------------------------------------------------- the folders


def test_grades_among_the_submissions_are_refused(tmp_path):
    folder = write_class(tmp_path / "class")
    (tmp_path / "link").symlink_to(folder)
    for out in (
        folder,
        folder / "grades",
        tmp_path / "link" / "grades",
        folder / ".." / "class" / "g",
    ):
        with pytest.raises(ValueError, match="expected a folder for the grades outside"):
            grade(folder, out)
    assert set(tree(folder)) == {f"{name}.ipynb" for name in CLASS}


def test_two_graders_do_not_write_into_one_folder(graded):
    folder, out = graded
    before = tree(out)
    with (
        FileLock(out / ".lock"),
        pytest.raises(ValueError, match="another `course grade` is writing into"),
    ):
        grade(folder, out)
    assert tree(out) == before
    grade(folder, out)


@pytest.mark.parametrize("place", ["file", "file/grades"])
def test_an_unwritable_folder_is_reported_in_one_line(tmp_path, capsys, place):
    (tmp_path / "file").write_text("")
    assert (
        cli.main(["grade", str(write_class(tmp_path / "class")), "--out", str(tmp_path / place)])
        == 1
    )
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("course grade: ") and str(tmp_path / "file") in line


# ------------------------------------------------------------------------------------- the progress


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self):
        return True


def test_a_terminal_shows_the_progress(graded, monkeypatch):
    folder, out = graded
    (out / "students" / "cyd" / "grade.json").unlink()
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    grade(folder, out)
    shown = terminal.getvalue()
    assert "marking:  80%" in shown and "4/5" in shown and "marking: 100%" in shown


# ------------------------------------------------------------------------------- the invented class


@pytest.mark.parametrize("id", invented.every_exercise())
def test_invented_answers_show_the_misconceptions_they_are_named_after(id):
    exercise = find_exercise(id)
    all_right = dict.fromkeys(invented.every_exercise(), invented.RIGHT)
    for name in (invented.RIGHT, *invented.ANSWERS[id]):
        student = invented.Student("", all_right | {id: name})
        sources = filter(None, read_notebook(invented.notebook(student).encode()))
        cells = [Cell(name=f"cell {n}", source=source) for n, source in enumerate(sources)]
        program = Notebook.parse(cells).program(id)
        with preserved():
            answer = program.execute(lambda other: find_exercise(other).reference)
            verdict = assess(exercise, list(run(answer, exercise, seed=1)), seed=1)
        right = sum(fault is None for fault in verdict.faults)
        if name == invented.HALF:
            assert right == 6
        elif name == invented.RIGHT:
            assert right == len(verdict.faults)
        else:
            assert verdict.misconception == name


def test_an_invented_class_is_the_same_for_the_same_seed(tmp_path):
    classes = [tmp_path / name / "class" for name in ("one", "two", "three")]
    for folder, seed in zip(classes, (4, 4, 5), strict=True):
        invented.write(folder, invented.invent(8, seed))
    one, two, three = (tree(folder.parent) for folder in classes)
    assert one == two != three and len(one) == 8 + 8 + 1  # notebooks, quizzes, the roster
    assert len(find_submissions(classes[0], tmp_path / "one" / "roster.csv")) == 8


def test_the_big_class_is_as_big_as_asked(tmp_path):
    big_class.make(tmp_path / "class", 20, seed=1)
    assert len(find_submissions(tmp_path / "class", tmp_path / "roster.csv")) == 20
