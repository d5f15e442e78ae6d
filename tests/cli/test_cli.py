import re
import subprocess
import sys
import types

import pytest

from course_lib import build, cli, doctor
from course_lib.training import RECIPES, results


@pytest.fixture
def module(monkeypatch):
    """Put a stand-in for a part of the course in its place."""

    def put(name, **members):
        package, _, leaf = name.rpartition(".")
        stand_in = types.SimpleNamespace(**members)
        monkeypatch.setitem(sys.modules, name, stand_in)
        monkeypatch.setattr(sys.modules[package], leaf, stand_in, raising=False)

    return put


def test_help_lists_the_commands(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["--help"])
    out = capsys.readouterr().out
    assert stop.value.code == 0 and all(
        name in out for name in ("doctor", "build", "train", "generate", "models", "quiz")
    )


@pytest.mark.parametrize(
    "argv",
    [[], ["dance"], ["build", "--check", "--no-execute"], ["quiz", "export", "ddpm", "pdf", "x"]],
)
def test_a_usage_error_exits_with_2(argv, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(argv)
    assert stop.value.code == 2 and "usage: course" in capsys.readouterr().err


def test_the_command_starts_without_torch():
    code = "import sys; from course_lib.cli import main\ntry: main(['--help'])\n"
    code += "except SystemExit: assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_doctor_prints_one_screen(capsys):
    assert cli.main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert len(out.splitlines()) <= 24 and out.endswith("This machine can run the course.\n")


def test_doctor_fails_where_the_course_cannot_run(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "PYTHONS", ((3, 99), (3, 99)))
    assert cli.main(["doctor"]) == 1
    assert "problem    python" in capsys.readouterr().out


def test_an_unknown_chapter_is_one_line_and_1(capsys):
    assert cli.main(["build", "99"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("course build: no chapter named 99")


def test_check_prints_every_problem_and_fails(monkeypatch, capsys):
    monkeypatch.setattr(build, "check_chapters", lambda chapters: ["a.ipynb: x", "b.ipynb: y"])
    assert cli.main(["build", "--check"]) == 1
    assert capsys.readouterr().out == "a.ipynb: x\nb.ipynb: y\n"
    monkeypatch.setattr(build, "check_chapters", lambda chapters: [])
    assert cli.main(["build", "--check"]) == 0


def test_train_hands_its_options_on(monkeypatch):
    from course_lib.training import main

    asked = []

    def run_training(*args, **named):
        asked.append((args, named))
        return 130

    monkeypatch.setattr(main, "run_training", run_training)
    command = ["train", "ddpm", "--device", "cpu", "--steps=4", "--fresh", "--save-every", "2"]
    assert cli.main(command) == 130
    options = {"steps": 4, "seconds": None, "fresh": True, "folder": None, "save_every": 2.0}
    assert asked == [(("ddpm", "cpu"), options)]


def test_the_help_of_train_lists_the_recipes(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["train", "--help"])
    out = capsys.readouterr().out
    assert stop.value.code == 0
    assert "usage: course train" in out and "--save-every" in out
    seconds = results("ddpm-32")["provenance"]["seconds"]
    assert re.search(rf"^  ddpm-32 +3,500 steps +{seconds / 60:.0f} min on 2 CPU cores$", out, re.M)
    assert re.search(r"^  vit-live +900 steps +-$", out, re.M)  # trained in the notebook alone
    listed = re.findall(r"^  (\S+) +[\d,]+ steps", out, re.M)
    assert sorted(listed) == sorted(RECIPES)
    chapters = re.findall(r"^(\d\d_\w+)$", out, re.M)
    assert chapters == sorted(chapters) and "05_magvit" in chapters
    assert max(map(len, out.splitlines())) <= 80


def test_a_usage_error_of_train_is_one_of_course_train(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["train", "ddpm-32", "--steps", "many"])
    assert stop.value.code == 2
    assert "course train: error: argument --steps" in capsys.readouterr().err


def test_models_counts_parameters_without_memory(module, capsys):
    import torch

    def build():
        return torch.nn.Linear(100_000, 1_000_000)  # 400 GB if it were real

    entry = types.SimpleNamespace(build=build, published="100.0B", source="Table 1")
    module("course_lib.zoo", MODELS={"demo/huge": entry})
    assert cli.main(["models"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split() == [
        "demo/huge",
        "100,001,000,000",
        "100.0B",
        "Table",
        "1",
    ]


def test_quiz_export_delegates(module, tmp_path, capsys):
    import course_lib.classroom  # noqa: F401

    asked = []
    module("course_lib.classroom.quiz_export", export=lambda *args: asked.append(args))
    assert cli.main(["quiz", "export", "ddpm", "gift", str(tmp_path / "ddpm.gift")]) == 0
    assert asked == [("ddpm", "gift", tmp_path / "ddpm.gift")]
