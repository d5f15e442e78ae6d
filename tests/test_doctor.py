import builtins
import shutil
from collections import namedtuple

import pytest

from course_lib import doctor


def finding(topic):
    return next(found for found in doctor.doctor().findings if found.topic == topic)


def test_this_machine_can_run_the_course():
    report = doctor.doctor()
    assert report.ok and "Python" not in str(report)
    topics = [found.topic for found in report.findings]
    assert topics == [
        "python",
        "torch",
        "cores",
        "memory",
        "widgets",
        "lpips",
        "video",
        "disk",
        "gpu",
    ]


def test_it_shows_that_it_is_at_work(monkeypatch):
    """Importing torch and lpips takes seconds the first time."""
    shown = []

    def busy(what, items):
        shown.append(what)
        return items

    monkeypatch.setattr(doctor, "busy", busy)
    doctor.doctor()
    assert shown == ["Looking at this machine"]


def test_an_old_python_is_a_problem_with_advice(monkeypatch):
    version = namedtuple("version", "major minor micro releaselevel serial")
    monkeypatch.setattr(doctor.sys, "version_info", version(3, 10, 2, "final", 0))
    assert finding("python") == doctor.Finding(
        "python", "problem", "3.10.2", "Use Python 3.11, 3.12 or 3.13 in a new virtual environment."
    )


@pytest.mark.parametrize(
    "package, topic",
    [("torch", "torch"), ("lpips", "lpips"), ("av", "video"), ("psutil", "memory")],
)
def test_a_missing_package_is_a_problem_and_the_other_lines_remain(monkeypatch, package, topic):
    imported = builtins.__import__

    def without(name, *args):
        if name == package:
            raise ImportError(f"No module named {name!r}")
        return imported(name, *args)

    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.setattr(doctor, "import_module", without)
    report = doctor.doctor()
    (problem,) = [found for found in report.findings if found.topic == topic]
    assert not report.ok and len(report.findings) == 9
    assert (
        problem.state == "problem" and "pip install" in problem.advice and package in problem.text
    )


def test_widgets_that_jupyterlab_does_not_see_are_a_problem(monkeypatch):
    monkeypatch.setattr("jupyter_core.paths.jupyter_path", lambda *parts: [])
    found = finding("widgets")
    assert (
        found.state == "problem"
        and "does not see @jupyter-widgets/jupyterlab-manager and anywidget" in found.text
    )


def test_little_room_asks_for_attention_and_does_not_stop_the_course(monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: namedtuple("usage", "free")(2e8))
    monkeypatch.setattr(doctor.os, "cpu_count", lambda: 1)
    report = doctor.doctor()
    assert report.ok and [
        found.topic for found in report.findings if found.state == "attention"
    ] == [
        "cores",
        "disk",
    ]
    assert "ok         python" in str(report) and "attention  disk      0.2 GB free" in str(report)


def test_in_a_notebook_it_is_a_table_that_escapes(monkeypatch):
    page = doctor.Report((doctor.Finding("torch", "problem", "a < b", "do <this>"),))._repr_html_()
    assert "a &lt; b" in page and "do &lt;this&gt;" in page and "cannot run the course yet" in page


def test_nothing_names_a_folder_of_this_machine():
    assert str(doctor.paths.ROOT) not in str(doctor.doctor())
