"""Hostile submissions: each costs only its own exercise, steals nothing, changes no other grade."""

import dataclasses
import functools
import json
import os
import re
import socket
from pathlib import Path

import psutil
import pytest
import torch

from course_lib.checking import exercises, find_exercise, topics
from course_lib.checking.observe import Leaf, Outcome, preserved, run
from course_lib.grading import batch, isolation, marking
from course_lib.grading.isolation import Jail, Reply
from course_lib.grading.marking import mark_work
from course_lib.grading.pages import class_page, feedback_page
from course_lib.grading.records import Assignment
from course_lib.grading.submissions import find_submissions
from course_lib.grading.wire import pack, unpack
from course_lib.paths import SOLUTIONS
from tests.grading.handed_in import IMPORTS, RIGHT, answer, notebook, work
from tests.grading.hostile import (
    AFTER,
    ALL_RIGHT,
    ANYWHERE,
    BEFORE,
    DIFFERENTIATED,
    FILES,
    GRADIENTS,
    HOSTILE,
    LATE,
    OWN,
    PLANTED,
    TARGET,
    gathered,
)

ASSIGNMENT = Assignment(topics=("ddpm",), quizzes=False, seed=5)
HONEST = {"ada": ALL_RIGHT, "zoe": (IMPORTS, RIGHT[BEFORE], "1 / 0", RIGHT[AFTER])}
# What a student is told where there are only resource limits.
PROCESS = {
    "loop": LATE,
    "os._exit(3)": "exit code 3",
    "kills itself": "SIGKILL",
    "kills its parent": "it took down the process that watches it",
    "segmentation fault": "SIGSEGV",
    "thread bomb": "can't start new thread|processes and threads",
    "20 GiB": "allocate",
    "memory that forks share": "GB of memory",
    "files in memory": "PermissionError",
    "endless print": LATE,
    "outcomes of its own": "values are not",
    "the reference": OWN,
    "64 MB": "larger than 32 MB",
}


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """Plant what the attacks look for: secrets in files and the environment, and open sockets."""
    home = tmp_path_factory.mktemp("home")
    grades = home / "grades"
    submissions = home / "submissions"
    for place in (
        home / ".secret",
        grades / "students" / "ada" / "grade.json",
        submissions / "zoe.ipynb",
    ):
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(PLANTED)
    abstract = f"{home.name}-{os.getpid()}"
    with pytest.MonkeyPatch.context() as patch, socket.create_server(("127.0.0.1", 0)) as server:
        patch.setenv("HOME", str(home))
        patch.setenv("SECRET", PLANTED)
        port = server.getsockname()[1]
        streams = [server, socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)]
        streams[1].bind(str(home / "socket"))
        streams[2].bind(f"\0{abstract}")
        datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        datagrams.bind(("127.0.0.1", port))
        for stream in streams:
            stream.listen()
        folders = {
            "home": home,
            "grades": grades,
            "submissions": submissions,
            "solutions": SOLUTIONS,
        }
        yield {name: str(folder) for name, folder in folders.items()} | {
            "port": str(port),
            "abstract": abstract,
            "known": repr(known_by_heart()),
        }
        for listener in (*streams, datagrams):
            with listener, pytest.raises(BlockingIOError):  # nothing has connected
                listener.setblocking(False)
                listener.recv(1) if listener is datagrams else listener.accept()


def known_by_heart() -> dict:
    """Return the right answers to the cases of the notebook's own seed, by shape."""
    with preserved():
        values = [
            outcome.outputs[""].value
            for outcome in run(find_exercise(TARGET).reference, find_exercise(TARGET), seed=0)
        ]
    return {tuple(value.shape): value.tolist() for value in values}


@functools.cache
def limited(id, seconds):
    """Return an exercise with a limit of `seconds`: the same one each time, diagnosed once."""
    return dataclasses.replace(find_exercise(id), seconds=seconds)


def shorten(patch, seconds):
    """Have three exercises marked, the middle one with a limit of `seconds`.

    A quarter of a second is added for reading.
    """
    three = [find_exercise(BEFORE), limited(TARGET, seconds), find_exercise(AFTER)]
    patch.setattr(marking, "exercises", lambda topic: three)
    patch.setattr(marking, "SETUP_SECONDS", 0.25)
    patch.setattr(isolation, "MAX_JAIL_MEMORY_BYTES", 2**30)


@pytest.fixture(scope="module")
def jail(planted):
    """Provide a bwrap jail."""
    with Jail() as jail:
        yield jail


@pytest.fixture(scope="module")
def honest_grades(jail):
    """Return the grades of the honest students, by name."""
    with pytest.MonkeyPatch.context() as patch:
        shorten(patch, 20)
        return {
            name: mark_work(work(*cells, student=name), ASSIGNMENT, jail)
            for name, cells in HONEST.items()
        }


def attack(name, planted, jail, monkeypatch):
    """Return the marks for the exercises before, under and after an attack."""
    hostile = HOSTILE[name]
    shorten(monkeypatch, 0.25 if hostile.loops else 20)
    grade = mark_work(
        work(*hostile.sources(planted), student="<script>alert(1)</script>"), ASSIGNMENT, jail
    )
    assert "<script>alert" not in feedback_page(grade) + class_page([grade])
    return grade.exercises


def told(mark):
    """Return all that the student is told about a mark."""
    return "\n".join((mark.sentence, *mark.notes)) or mark.status


@pytest.mark.parametrize("name", HOSTILE)
def test_an_attack_costs_only_its_own_exercise(name, planted, jail, honest_grades, monkeypatch):
    before, attacked, after = attack(name, planted, jail, monkeypatch)
    assert (attacked.earned, attacked.points) == (HOSTILE[name].earned, 1), told(attacked)
    assert re.search(HOSTILE[name].says, told(attacked)), told(attacked)
    assert (before, after) == (honest_grades["ada"].exercises[0], honest_grades["ada"].exercises[2])
    assert PLANTED not in attacked.model_dump_json()
    assert len(attacked.sentence) <= 1000
    if name not in ANYWHERE:  # the others are marked beside honest students below
        shorten(monkeypatch, 20)
        assert (
            mark_work(work(*HONEST["ada"], student="ada"), ASSIGNMENT, jail) == honest_grades["ada"]
        )


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients_are_compared_whatever_an_answer_does_to_them(name, jail):
    cell, says = GRADIENTS[name]
    grade = mark_work(work(IMPORTS, cell), ASSIGNMENT, jail)
    [attacked] = [mark for mark in grade.exercises if mark.id == DIFFERENTIATED]
    assert attacked.earned == 0
    assert says in told(attacked)


@pytest.mark.parametrize("name", FILES)
def test_an_odd_file_becomes_a_note_for_its_student(
    name, tmp_path, jail, honest_grades, monkeypatch
):
    shorten(monkeypatch, 20)
    (tmp_path / "in").mkdir()
    FILES[name].make(tmp_path / "in")
    [submission] = find_submissions(tmp_path / "in")
    grade = mark_work(submission.read(), ASSIGNMENT, jail)
    assert grade.earned == FILES[name].earned
    assert re.search(FILES[name].says, "\n".join(grade.notes)), grade.notes
    assert not re.search("<(script|img)[ >]", feedback_page(grade) + class_page([grade]))
    assert not re.search("[\0-\x1f\u202e]", grade.student)


def test_no_attack_changes_the_grade_of_another_student(planted, tmp_path, monkeypatch):
    shortened = [limited(exercise.id, 1) for exercise in exercises("ddpm")]
    shorten(monkeypatch, 1)
    monkeypatch.setattr(marking, "exercises", lambda topic: shortened)
    honest_only = tmp_path / "honest"
    everyone = tmp_path / "all"
    honest = {"ada": notebook(IMPORTS, *RIGHT.values()), "zoe": notebook(*HONEST["zoe"])}
    hostile = gathered(planted)
    for folder, students in ((honest_only, honest), (everyone, honest | hostile)):
        folder.mkdir()
        for name, content in students.items():
            (folder / f"{name}.ipynb").write_bytes(content)
    for odd in FILES.values():
        odd.make(everyone)

    running = set(psutil.Process().children(recursive=True))
    expected = grade(honest_only)
    got = grade(everyone)
    assert len(expected) == 2 * 3 + 2 and {file: got[file] for file in expected} == expected
    assert len(got) == 3 * (2 + len(hostile) + len(FILES)) + 2
    attacks = [
        json.loads(got[file]) for file in got if "hostile" in file and file.endswith("results.json")
    ]
    # One case is also answered right by 0.
    assert len(attacks) == len(hostile) and all(attack["score"] <= 0.5 for attack in attacks)
    assert not any(PLANTED.encode() in content for content in got.values())
    assert not any(
        re.search(rb"<script>alert|<img src=x", content)
        for file, content in got.items()
        if ".html" in file
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "all",
        "graded-all",
        "graded-honest",
        "honest",
    ]
    assert set(psutil.Process().children(recursive=True)) <= running


def grade(folder: Path) -> dict[str, bytes]:
    """Return the files of all students, and the honest students' rows of the table."""
    out = folder.with_name(f"graded-{folder.name}")
    batch.grade(folder, out, topics=["ddpm"], seed=5, jobs=2)
    files = {
        str(file.relative_to(out)): file.read_bytes()
        for file in sorted((out / "students").rglob("*.*"))
    }
    rows = (out / "grades.csv").read_bytes().splitlines()
    return files | {name: row for name in HONEST for row in rows if row.startswith(name.encode())}


@pytest.fixture(scope="module")
def process_jail():
    """Provide a jail with only resource limits."""
    with Jail("process") as jail:
        yield jail


@pytest.mark.parametrize("name", PROCESS)
def test_resource_limits_keep_an_attack_to_its_own_exercise(
    name, planted, process_jail, honest_grades, monkeypatch
):
    before, attacked, after = attack(name, planted, process_jail, monkeypatch)
    assert attacked.earned == 0
    assert re.search(PROCESS[name], told(attacked)), told(attacked)
    assert (before, after) == (honest_grades["ada"].exercises[0], honest_grades["ada"].exercises[2])


@pytest.mark.parametrize(
    "exercise", [one for topic in topics() for one in exercises(topic)], ids=lambda one: one.id
)
def test_no_reference_can_be_called_in_an_answer(exercise, jail):
    call = answer(exercise.id, f"return find_exercise({exercise.id!r}).reference(**locals())")
    cells = work("from course_lib.checking import find_exercise", call).cells
    marked = marking._mark_exercise(exercise, cells, 5, (), jail)
    assert marked.earned == 0 and OWN in marked.sentence


@pytest.mark.parametrize(
    "told", [[], [b""], [b"[]"], [b"\xff\xff"], [b'{"notes": 3}'], [b"{}", b""], [b"null"] * 2000]
)
def test_a_jail_that_sends_nonsense_costs_only_the_exercise(told, monkeypatch):
    taken = Jail()
    monkeypatch.setattr(taken, "run", lambda request: Reply(told))
    marked = marking._mark_exercise(find_exercise(TARGET), work(*ALL_RIGHT).cells, 5, (), taken)
    assert (marked.status, marked.earned) == ("wrong", 0)


def test_a_number_of_a_coarse_dtype_is_refused():
    """Every number is close to 0 in the precision of float8."""
    made_up = Outcome({"": Leaf("float", torch.zeros((), dtype=torch.float8_e5m2))})
    with pytest.raises(ValueError, match="expected the outcome of a case"):
        unpack(pack(made_up))
