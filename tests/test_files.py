import os
import stat
import subprocess
import sys
import threading

import pytest

from course_lib.files import remove_parts, write_atomically, write_if_changed
from course_lib.paths import ROOT


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize(
    ("content", "expected"),
    [(b"\x00\r\n", b"\x00\r\n"), ("ä\r\nb\n", b"\xc3\xa4\r\nb\n"), ("", b"")],
)
def test_bytes_and_text_are_written_as_they_are(tmp_path, content, expected):
    path = tmp_path / "new" / "folder" / "file.txt"
    write_atomically(path, content)
    write_atomically(path, content)
    assert path.read_bytes() == expected
    assert [entry.name for entry in path.parent.iterdir()] == ["file.txt"]


@pytest.mark.parametrize("fails", ["fsync", "replace"])
def test_a_failure_leaves_the_old_file_and_no_part(tmp_path, monkeypatch, fails):
    path = tmp_path / "file"
    write_atomically(path, "old")

    def refuse(*_):
        raise OSError("no space left")

    monkeypatch.setattr(os, fails, refuse)
    with pytest.raises(OSError, match="no space left"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupt_leaves_no_part_either(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "file", "new")
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_writer_left_is_removed_and_nothing_else(tmp_path):
    code = (
        "import os, sys; from pathlib import Path; from course_lib.files import write_atomically\n"
    )
    code += "os.replace = lambda *_: os._exit(9)\nwrite_atomically(Path(sys.argv[1]), 'new')"
    path = tmp_path / "below" / "file"
    write_atomically(path, "old")
    write_atomically(tmp_path / "a-01234567.part", "a file of somebody's")
    assert subprocess.run([sys.executable, "-c", code, path], cwd=ROOT).returncode == 9
    assert len(list(path.parent.iterdir())) == 2
    remove_parts(tmp_path)
    assert list(path.parent.iterdir()) == [path] and path.read_text() == "old"
    assert (tmp_path / "a-01234567.part").exists()


@pytest.mark.skipif(os.name == "nt", reason="permissions of POSIX")
def test_permissions_follow_the_umask(tmp_path):
    old = os.umask(0o027)
    try:
        write_atomically(tmp_path / "shared", "x")
        write_atomically(tmp_path / "private", "x", mode=0o600)
    finally:
        os.umask(old)
    assert mode(tmp_path / "shared") == 0o640
    assert mode(tmp_path / "private") == 0o600


def test_many_writers_of_one_file_never_show_a_mixture(tmp_path):
    path = tmp_path / "file"
    whole = [bytes([i]) * 100_000 for i in range(4)]
    write_atomically(path, whole[0])

    def write(content):
        for _ in range(10):
            write_atomically(path, content)

    writers = [threading.Thread(target=write, args=(content,)) for content in whole]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        assert path.read_bytes() in whole
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_there_already_is_not_written_again(tmp_path):
    path = tmp_path / "file"
    write_if_changed(path, "text\n")
    before = path.stat().st_ino
    write_if_changed(path, b"text\n")
    assert path.stat().st_ino == before
    write_if_changed(path, "other\n")
    assert path.read_text() == "other\n" and path.stat().st_ino != before
