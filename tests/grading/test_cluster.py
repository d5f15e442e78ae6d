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
    """Return the folder of a class and of its grades from this machine only."""
    folder = tmp_path_factory.mktemp("whole")
    students = {name: CLASS[name] for name in ("ada", "bob", "dan")}
    grade(write_class(folder / "class", students), folder / "grades", seed=5)
    return folder


@pytest.fixture(scope="module")
def cluster():
    """Provide a scheduler with two workers."""
    with LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=":0", silence_logs=50
    ) as cluster:
        yield cluster


@pytest.fixture
def a_worker_dies(cluster, tmp_path):
    """Kill a worker that is marking once the first grade is written.

    Its nanny restarts it.
    """

    def kill():
        """Wait for a grade, then kill a busy worker."""
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


def test_a_cluster_that_gives_up_is_reported_in_one_line_and_resumed(
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


def test_a_scheduler_without_workers_is_reported(whole, tmp_path, monkeypatch):
    monkeypatch.setattr(batch, "WORKER_SECONDS", 0.1)
    with (
        LocalCluster(n_workers=0, dashboard_address=":0") as empty,
        pytest.raises(ValueError, match="has no workers"),
    ):
        grade(whole / "class", tmp_path / "grades", scheduler=empty.scheduler_address)


def test_an_address_without_a_scheduler_is_reported_in_one_line(whole, tmp_path, capsys):
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


def test_without_dask_the_message_says_how_to_get_it(whole, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    advice = r'is not installed; get it with pip install "visual-generation-course\[cluster\]"'
    with pytest.raises(ImportError, match=f"dask.distributed {advice}"):
        grade(whole / "class", tmp_path / "grades", scheduler="tcp://127.0.0.1:1")
