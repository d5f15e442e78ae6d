"""Marking on a cluster: a real scheduler and two worker processes."""

import os
import signal
import sys
import threading

import dask
import pytest
from distributed import LocalCluster

from course_lib import cli
from course_lib.grading import batch
from course_lib.grading.batch import grade
from tests.grading.little_class import CLASS, grade_files, tree, wait_until, write_class


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A class, and its grades from this machine alone."""
    folder = tmp_path_factory.mktemp("whole")
    students = {name: CLASS[name] for name in ("ada", "bob", "dan")}
    grade(write_class(folder / "class", students), folder / "grades", seed=5)
    return folder


@pytest.fixture(scope="module")
def cluster():
    with LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=":0", silence_logs=50
    ) as cluster:
        yield cluster


@pytest.fixture
def a_worker_dies(cluster, tmp_path):
    """Once a first grade is written, a worker that is marking is killed.  It is started anew by its
    nanny.
    """

    def kill():
        wait_until(lambda: grade_files(tmp_path / "grades"))
        busy = {
            worker.address for worker in cluster.scheduler.workers.values() if worker.processing
        }
        victim = next(nanny for nanny in cluster.workers.values() if nanny.worker_address in busy)
        os.kill(victim.pid, signal.SIGKILL)
        killed.append(victim)

    killed = []
    thread = threading.Thread(target=kill)
    thread.start()
    yield
    thread.join()
    assert killed


def test_a_cluster_writes_the_same_bytes(whole, cluster, tmp_path):
    grade(whole / "class", tmp_path / "grades", seed=5, scheduler=cluster.scheduler_address)
    assert tree(tmp_path / "grades") == tree(whole / "grades")


def test_a_worker_that_dies_changes_nothing(whole, cluster, tmp_path, a_worker_dies):
    grade(whole / "class", tmp_path / "grades", seed=5, scheduler=cluster.scheduler_address)
    assert tree(tmp_path / "grades") == tree(whole / "grades")


def test_a_cluster_that_gives_up_is_one_line_and_is_resumed(
    whole, cluster, tmp_path, a_worker_dies, monkeypatch, capsys
):
    command = ["grade", str(whole / "class"), "--out", str(tmp_path / "grades"), "--seed", "5"]
    with monkeypatch.context() as now:
        now.setattr(cluster.scheduler, "allowed_failures", 0)
        assert cli.main([*command, "--scheduler", cluster.scheduler_address]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert (
        line.startswith(f"course grade: the cluster at {cluster.scheduler_address} lost")
        and "resumes" in line
    )
    done = {path: path.stat().st_mtime_ns for path in grade_files(tmp_path / "grades")}
    assert cli.main(command) == 0
    assert tree(tmp_path / "grades") == tree(whole / "grades")
    assert done and all(path.stat().st_mtime_ns == then for path, then in done.items())


def test_a_scheduler_without_workers_is_said(whole, tmp_path, monkeypatch):
    monkeypatch.setattr(batch, "WORKER_SECONDS", 0.1)
    with (
        LocalCluster(n_workers=0, dashboard_address=":0") as empty,
        pytest.raises(ValueError, match="has no workers"),
    ):
        grade(whole / "class", tmp_path / "grades", scheduler=empty.scheduler_address)


def test_an_address_where_no_scheduler_is_is_one_line(whole, tmp_path, capsys):
    command = [
        "grade",
        str(whole / "class"),
        "--out",
        str(tmp_path / "grades"),
        "--scheduler",
        "tcp://127.0.0.1:1",
    ]
    with dask.config.set({"distributed.comm.timeouts.connect": "200ms"}):
        assert cli.main(command) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("course grade: ") and "tcp://127.0.0.1:1" in line


def test_without_dask_it_is_said_how_to_get_it(whole, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(
        ImportError,
        match=r'dask.distributed is not installed; get it with pip install "visual-generation-course\[cluster\]"',
    ):
        grade(whole / "class", tmp_path / "grades", scheduler="tcp://127.0.0.1:1")
