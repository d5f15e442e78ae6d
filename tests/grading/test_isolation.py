"""A jail seen from outside: how it starts, what is visible in it, how it ends, what it leaves."""

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from textwrap import indent

import psutil
import pytest

from course_lib.checking import find_exercise
from course_lib.grading import isolation, marking
from course_lib.grading.isolation import (
    MAX_PRINTED_BYTES,
    Jail,
    JailError,
    Reply,
    frames,
    libraries,
)
from course_lib.grading.records import Cell
from course_lib.grading.wire import unpack
from course_lib.paths import ROOT

ID = "start_here.to_model"
RIGHT = "return rgb.permute(0, 3, 1, 2) / 127.5 - 1"


def request(body, seconds=20, more=""):
    """Return the request to run an answer of this body, with the code `more` above it."""
    source = (
        f"import json, os, sys, time\n{more}\n@exercise('{ID}')\ndef"
        f" answer(rgb):\n{indent(body, '    ')}\n"
    )
    cells = [{"name": "cell 1", "source": source}]
    return {"exercise": ID, "seed": 0, "seconds": seconds, "cells": cells, "passed": []}


def evaluate(jail, expression):
    """Return the value of an expression in the jail."""
    reply = jail.run(request(f"return json.dumps({expression})"))
    outcome = unpack(reply.frames[1])
    assert outcome.error is None, outcome.error
    return json.loads(outcome.outputs[""].value)


def is_right(reply):
    """Tell whether the answer passed and the jail survived it."""
    verdict = marking._assess(find_exercise(ID), [unpack(frame) for frame in reply.frames[1:]], 0)
    return verdict.passed and not reply.stopped and not reply.lost


def server(jail):
    """Return the process that forks the answers."""
    return [*isolation._descendants(jail._process.pid), psutil.Process(jail._process.pid)][0]


@pytest.fixture(scope="module")
def jail():
    """Provide a running jail, with a secret in the grader's environment."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SECRET_OF_THE_GRADER", "1234")
        with Jail() as jail:
            jail.start()
            yield jail


# ------------------------------------------------------------------------------------ what is in it


def test_an_answer_is_run_and_its_result_is_sent(jail):
    reply = jail.run(request("print('hello')\n" + RIGHT))
    assert is_right(reply) and reply.printed == "hello\n" * 6
    assert json.loads(reply.frames[0])["notes"] == []


def test_the_environment_holds_what_is_meant_and_no_more(jail):
    environment = evaluate(jail, "dict(os.environ)")
    assert environment.pop("PWD", "/scratch") == "/scratch"  # some versions of bubblewrap set it
    assert environment == {
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "PYTHONPATH": ":".join(["/course", *libraries()]),
        "PYTHONHASHSEED": "0",
        "PATH": "/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "HOME": "/scratch",
        "TMPDIR": "/scratch",
        "COURSE_HOME": "/scratch",
        "MPLBACKEND": "Agg",
    }
    assert "SECRET" in "".join(os.environ)


def test_the_only_folders_are_those_of_python_the_system_and_the_course(jail):
    system = {
        "usr",
        "bin",
        "lib",
        "lib64",
        "sbin",
        "etc",
        "sys",
        "proc",
        "dev",
        "scratch",
        "course",
    }
    python = {Path(folder).parts[1] for folder in libraries()}
    assert set(evaluate(jail, "os.listdir('/')")) <= system | python
    assert evaluate(jail, "os.listdir('/course')") == ["course_lib"]
    assert evaluate(jail, "os.listdir('/etc')") == ["ld.so.cache"]
    assert evaluate(jail, "os.listdir('/scratch')") == []
    assert evaluate(jail, "os.getcwd()") == "/scratch"


def test_the_folders_above_python_show_nothing_else(jail):
    shown = {
        "/usr",
        *libraries(),
        "/etc/ld.so.cache",
        "/sys/devices/system/cpu",
        "/course/course_lib",
    }
    parents = {str(parent) for place in shown for parent in Path(place).parents} - {"/"} - shown
    parents = {
        folder
        for folder in parents
        if not any(Path(folder).is_relative_to(place) for place in shown)
    }
    for folder in parents:
        expected = {
            Path(place).relative_to(folder).parts[0]
            for place in shown
            if Path(place).is_relative_to(folder)
        }
        assert set(evaluate(jail, f"os.listdir({folder!r})")) <= expected, folder


@pytest.mark.parametrize(
    "place", ["solutions", "notebooks", "data", "tests", "docs", "README.md", "conftest.py"]
)
def test_the_rest_of_the_repository_is_invisible(jail, place):
    assert (ROOT / place).exists()
    for path in (ROOT / place, Path("/course") / place):
        assert evaluate(jail, f"os.path.exists({str(path)!r})") is False


def test_the_rest_of_the_machine_is_invisible(jail, tmp_path):
    places = [
        "/var",
        "/mnt",
        "/run",
        "/boot",
        "/srv",
        "/etc/passwd",
        str(Path.home() / ".ssh"),
        str(tmp_path),
    ]
    assert evaluate(jail, f"[path for path in {places} if os.path.exists(path)]") == []


@pytest.mark.parametrize(
    "place",
    [
        "/",
        "/course/course_lib",
        "/usr",
        "/usr/bin",
        "/etc",
        "/dev",
        "/proc/sys/kernel",
        sys.prefix,
        "/course",
    ],
)
def test_nothing_can_be_written_outside_the_scratch_folder(jail, place):
    reply = jail.run(request(f"open({place + '/new'!r}, 'w')"))
    assert unpack(reply.frames[1]).error.kind in ("OSError", "PermissionError", "FileNotFoundError")
    assert not Path(place, "new").exists()


def test_a_jail_has_processes_of_its_own_and_no_network(jail):
    assert 1 <= len(evaluate(jail, "[n for n in os.listdir('/proc') if n.isdigit()]")) <= 4
    assert evaluate(
        jail, "[line.split(':')[0].strip() for line in open('/proc/net/dev') if ':' in line]"
    ) == ["lo"]
    assert evaluate(jail, "os.uname().nodename") == "jail"


# ------------------------------------------------------------------------- one answer after another


def test_an_answer_leaves_nothing_to_the_next(jail):
    leave = (
        "open('left', 'w').write('x')\nos.makedirs('deep/er', exist_ok=True)\nos.environ['LEFT'] ="
        " '1'\n"
    )
    patch = "import torch, builtins\ntorch.ones = builtins.left = None\nsys.left = 1\n"
    assert is_right(jail.run(request(leave + patch + RIGHT)))
    assert evaluate(jail, "os.listdir('.')") == []
    assert (
        evaluate(
            jail, "['LEFT' in os.environ, hasattr(sys, 'left'), __import__('torch').ones is None]"
        )
        == [False] * 3
    )


def test_what_an_answer_leaves_running_is_ended(jail):
    before = server(jail)
    fork = (
        "if os.fork() == 0:\n    os.setsid()\n    os.fork()\n    time.sleep(1000)\n   "
        " os._exit(0)\n"
    )
    assert is_right(jail.run(request(fork + RIGHT)))
    assert server(jail) == before and before.children(recursive=True) == []
    assert is_right(jail.run(request(RIGHT)))


def test_every_answer_may_start_all_its_processes(jail):
    fork = (
        "if len(rgb) == 4:\n    for _ in range(40):\n        if os.fork() == 0:\n           "
        " time.sleep(1000)\n"
    )
    assert all(is_right(jail.run(request(fork + RIGHT))) for _ in range(4))


def test_random_numbers_are_the_same_in_every_run(jail):
    draw = (
        "[__import__('random').random(), __import__('numpy').random.rand(),"
        " float(__import__('torch').rand(()))]"
    )
    order = "list({str(n) for n in range(20)})"
    assert evaluate(jail, f"[{draw}, {order}]") == evaluate(jail, f"[{draw}, {order}]")


def test_what_is_printed_is_cut(jail):
    reply = jail.run(request("print('x' * (2 * 10**6))\n" + RIGHT))
    assert is_right(reply) and reply.printed == "x" * MAX_PRINTED_BYTES + "\n... (cut)"
    reply = jail.run(request("print('é' * (8 * 1024))\nos.write(1, bytes(range(256)))\n" + RIGHT))
    assert is_right(reply) and len(reply.printed.encode()) < MAX_PRINTED_BYTES + 20
    assert jail.run(request(RIGHT)).printed == ""


def test_an_answer_that_does_not_end_is_stopped_in_time(jail):
    before = server(jail)
    began = time.monotonic()
    reply = jail.run(request("while True:\n    pass", seconds=1))
    assert time.monotonic() - began < 1 + isolation.JAIL_REPLY_SECONDS
    assert (
        reply.stopped == "it ran for more than 1 s; is there a loop that never ends?"
        and not reply.lost
    )
    assert len(reply.frames) == 1
    assert is_right(jail.run(request(RIGHT))) and server(jail) == before


def test_what_was_sent_before_the_time_was_up_is_kept(jail):
    reply = jail.run(request(f"if len(rgb) == 4:\n    time.sleep(100)\n{RIGHT}", seconds=2))
    assert len(reply.frames) == 2 and reply.stopped


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("os._exit(3)", "it ended the process it ran in, with exit code 3"),
        ("os.kill(os.getpid(), 9)", "its process was ended by signal 9 (SIGKILL)"),
        ("os.kill(os.getpid(), 64)", "its process was ended by signal 64 ("),
        ("import ctypes\nctypes.string_at(0)", "its process was ended by signal 11 (SIGSEGV)"),
    ],
)
def test_the_reply_says_how_an_answer_ended(jail, body, why):
    reply = jail.run(request(body))
    assert reply.stopped.startswith(why) and not reply.lost
    assert len(reply.frames) == 1


def test_large_cells_are_accepted(jail):
    padding = "x = '" + "y" * 3_000_000 + "'\n# " + "é😀" * 100_000
    assert is_right(jail.run(request(RIGHT, more=padding)))


def test_many_cells_are_accepted(jail):
    asked = request(RIGHT)
    asked["cells"] += [{"name": f"cell {n}", "source": f"x{n} = {n}"} for n in range(2, 5000)]
    assert is_right(jail.run(asked))


# -------------------------------------------------------------------------------- when it goes down


def test_a_jail_that_was_killed_says_so_and_starts_again():
    with Jail() as jail:
        assert is_right(jail.run(request(RIGHT)))
        first = server(jail)
        first.kill()
        reply = jail.run(request(RIGHT))
        assert reply.lost and reply.stopped == "it took down the process that watches it"
        assert is_right(jail.run(request(RIGHT))) and server(jail) != first
        server(jail).kill()
        mark = marking._mark_exercise(
            find_exercise(ID), [Cell(**request(RIGHT)["cells"][0])], 0, [], jail
        )
        assert mark.status == "passed"  # on the second attempt


class Doomed(Jail):
    """A jail that goes down every time."""

    asked = 0

    def run(self, request):
        self.asked += 1
        return Reply(stopped="it took down the process that watches it", lost=True)


def test_an_answer_that_takes_the_jail_down_twice_is_given_up():
    doomed = Doomed()
    mark = marking._mark_exercise(
        find_exercise(ID), [Cell(name="cell 1", source="x")], 0, [], doomed
    )
    assert doomed.asked == 2
    assert mark.status == "wrong" and mark.earned == 0
    assert mark.sentence == "Your code was stopped: it took down the process that watches it"


# ------------------------------------------------------------------------------------- what is left


def resources():
    """Return the number of open files, the processes below this one, and the scratch folders."""
    this = psutil.Process()
    folders = {name for name in os.listdir(tempfile.gettempdir()) if name.startswith("answers-")}
    return this.num_fds(), {process.pid for process in this.children(recursive=True)}, folders


@pytest.mark.parametrize("kind", ["bwrap", "process"])
def test_a_closed_jail_leaves_nothing(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # ignores the folders of other jails
    before = resources()
    with Jail(kind) as jail:
        assert is_right(jail.run(request("open('left', 'w')\n" + RIGHT)))
        assert resources()[0] != before[0] and resources()[1] != before[1]
        assert (resources()[2] != before[2]) == (kind == "process")
        jail.run(request("if os.fork() == 0:\n    time.sleep(1000)\n" + RIGHT))
    assert resources() == before
    jail.close()  # closing it again does nothing


def test_an_unused_jail_starts_nothing():
    before = resources()
    with Jail():
        assert resources() == before


# -------------------------------------------------------------------------- where there can be none


def test_an_unknown_isolation_is_refused():
    with pytest.raises(
        ValueError, match=r"^expected an isolation out of bwrap, process, got 'docker'$"
    ):
        Jail("docker")


def test_without_bubblewrap_the_message_says_how_to_install_it(monkeypatch, tmp_path):
    before = resources()
    monkeypatch.setenv("PATH", str(tmp_path))
    advice = r"(?s)was not found\..*apt install bubblewrap.*--isolation process"
    with pytest.raises(JailError, match=advice), Jail() as jail:
        jail.start()
    assert resources() == before


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (
            "echo 'bwrap: setting up uid map: Permission denied' >&2; exit 1",
            "setting up uid map: Permission denied",
        ),
        ("exit 1", "it ended at once"),
        ("echo nonsense; exit 0", "it ended at once"),
        ("exec sleep 1000", "it had not started after 1 s"),
    ],
)
def test_where_bubblewrap_fails_the_message_says_why(monkeypatch, tmp_path, script, said):
    fake = tmp_path / "bwrap"
    fake.write_text(f"#!/bin/sh\n{script}\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(isolation, "JAIL_START_SECONDS", 1)
    before = resources()
    with pytest.raises(JailError) as caught, Jail() as jail:
        jail.run(request(RIGHT))
    assert "it does not work here: " in str(caught.value) and f"{said}.\n" in str(caught.value)
    assert "user namespaces" in str(caught.value) and "--isolation process" in str(caught.value)
    assert resources() == before


def test_a_python_that_cannot_load_the_course_is_reported(monkeypatch):
    monkeypatch.setattr(isolation, "_environment", lambda scratch, kind: {})
    before = resources()
    with pytest.raises(JailError, match="No module named 'course_lib'"), Jail() as jail:
        jail.start()
    assert resources() == before


def test_frames_are_only_complete_messages():
    assert frames(b"") == [] == frames(b"\x01\0\0") == frames(b"\x02\0\0\0a")
    assert frames(b"\x01\0\0\0a\0\0\0\0\x02\0\0\0b") == [b"a", b""]
    assert frames(b"\xff\xff\xff\xff" + bytes(100)) == []
    assert len(frames(bytes(40_000))) == isolation.MAX_MESSAGES


def test_a_library_in_a_private_folder_can_be_read(tmp_path, monkeypatch):
    """As when a virtual environment is in a folder made by mktemp."""
    library = tmp_path / "library"
    (library / "package").mkdir(parents=True)
    (library / "package" / "module.py").write_text("there")
    library.chmod(0o700)
    folders = (*isolation.libraries(), str(library))
    monkeypatch.setattr(isolation, "libraries", lambda: folders)
    with Jail() as jail:
        assert evaluate(jail, f"open({str(library / 'package' / 'module.py')!r}).read()") == "there"


@pytest.mark.skipif(os.geteuid() != 0, reason="answers run as the same user")
def test_root_is_told_which_libraries_answers_cannot_read(tmp_path, monkeypatch):
    closed = tmp_path / "package" / "module.py"
    closed.parent.mkdir()
    closed.touch(mode=0o600)
    folders = (*isolation.libraries(), str(tmp_path))
    monkeypatch.setattr(isolation, "libraries", lambda: folders)
    monkeypatch.setattr(isolation, "_library_files", lambda: [closed])
    with Jail() as jail, pytest.raises(JailError, match="chmod"):
        jail.start()
