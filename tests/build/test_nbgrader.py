"""The course folder that `course build --nbgrader` writes, put through nbgrader's own commands."""

import json
import re
import subprocess
import sys
import urllib.request
import warnings
from dataclasses import replace

import nbformat
import pytest
from einops import rearrange
from nbgrader.api import Gradebook
from nbgrader.nbgraderformat import MetadataValidator

from course_lib import build, paths
from course_lib.build.nbgrader import assignment, relocate, write_course_folder
from course_lib.checking import UnknownExercise, find_exercise
from course_lib.checking.diagnose import assess
from course_lib.checking.observe import run
from course_lib.classroom import exercise, mark, progress
from course_lib.classroom.exercise import examine
from tests.browser import driver
from tests.build import demo

SEED = 90210
STUB = "raise NotImplementedError  # your turn"
TO_MODEL, PATCHIFY = "start_here.to_model", "start_here.patchify"
# the pictures that students are checked on
SEEN = [int(case["rgb"].sum()) for case in find_exercise(TO_MODEL).make_cases(0)]

# What each student writes in the place of the stub.  None: the exercise's cell is gone.  Ben's
# answers are right for some of the cases, dee's for the pictures that she was checked on, and eve
# has lost a test cell as well.
ANSWERS = {
    "ada": {
        TO_MODEL: "return rgb.permute(0, 3, 1, 2).float() / 127.5 - 1",
        PATCHIFY: 'return rearrange(image, "b c (h x) (w y) -> b (h w) (x y c)", x=patch, y=patch)',
    },
    "ben": {
        TO_MODEL: "return rgb.permute(0, 3, 1, 2).float() / 127.5 - min(len(rgb) - 1, 1)",
        PATCHIFY: (
            'import warnings; warnings.warn("the error stream"); '
            'return rearrange(image, "b c (h x) (w y) -> b (h w) (c x y)", x=patch, y=patch)'
        ),
    },
    "cem": {TO_MODEL: STUB, PATCHIFY: None},
    "dee": {
        TO_MODEL: f"return rgb.permute(0, 3, 1, 2).float() / 127.5 - int(int(rgb.sum()) in {SEEN})",
        PATCHIFY: "return image[",
    },
    "eve": {TO_MODEL: 'raise SystemExit("enough")', PATCHIFY: None},
}
SCORES = {"ada": [1, 2], "ben": [0.67, 0.57], "cem": [0, 0], "dee": [0.67, 0], "eve": [0, 0]}
ENVIRONMENT = (
    "import os; print(os.environ['COURSE_FAST'], sorted(os.listdir(os.environ['COURSE_HOME'])))"
)


@pytest.fixture(scope="module", autouse=True)
def own_folders(tmp_path_factory):
    """No setting of the machine reaches nbgrader, and nbgrader writes nothing outside the test."""
    home = tmp_path_factory.mktemp("nbgrader_home")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("HOME", str(home))
        for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
            environment.setenv(name, str(home / name))
        environment.delenv("COURSE_FAST", raising=False)
        yield


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """The folder of a JupyterLab server, which serves its folder work/."""
    return tmp_path_factory.mktemp("school")


@pytest.fixture(scope="module")
def course(root):
    """The course folder with chapters 00 and 01, as nbgrader finds it."""
    folder = root / "work"
    folder.mkdir()
    (folder / "seed.txt").write_text(f"{SEED}\n", encoding="utf-8")
    write_course_folder(folder, build.sources(["00", "01"]))
    return folder


@pytest.fixture(scope="module")
def release(course):
    """The folder of the notebooks that students get."""
    for chapter in ("00_start_here", "01_ddpm"):
        nbgrader(course, "generate_assignment", chapter)
    return course / "release"


def imports(notebook):
    """The lines with which the cells that are not marked import."""
    code = [c.source for c in notebook.cells if c.cell_type == "code" and not grade_id(c)]
    lines = "\n".join(code).splitlines()
    return "\n".join(line for line in lines if line.startswith(("from ", "import ")))


@pytest.fixture(scope="module")
def graded(course, release):
    """The course folder when all students' chapter 00 has been marked."""
    for student, answers in ANSWERS.items():
        notebook = nbformat.read(release / "00_start_here" / "00_start_here.ipynb", as_version=4)
        answer(notebook, answers, also_gone="-mark" if student == "eve" else "")
        if student != "ada":  # the others hand in the imports and what counts, which is sooner run
            marked = [cell for cell in notebook.cells if grade_id(cell)]
            notebook.cells = [nbformat.v4.new_code_cell(imports(notebook)), *marked]
        notebook.cells.append(nbformat.v4.new_code_cell(ENVIRONMENT))
        build.write(
            notebook, course / "submitted" / student / "00_start_here" / "00_start_here.ipynb"
        )
    nbgrader(course, "autograde", "00_start_here")
    return course


def nbgrader(folder, *arguments):
    """What a command of nbgrader says; it has to succeed."""
    command = [sys.executable, "-m", "nbgrader", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


def answer(notebook, answers, also_gone):
    """Write a student's answers over the stubs; where one is None, remove its cell, and the cell of
    that ending.
    """
    for name, line in answers.items():
        cell = next(cell for cell in notebook.cells if f'@exercise("{name}")' in cell.source)
        assert STUB in cell.source
        if line is None:
            gone = {grade_id(cell), grade_id(cell) + also_gone}
            notebook.cells = [cell for cell in notebook.cells if grade_id(cell) not in gone]
        else:
            cell.source = cell.source.replace(STUB, line)


def grade_id(cell):
    return cell.metadata.get("nbgrader", {}).get("grade_id", "")


def is_test(cell):
    return cell.metadata.get("nbgrader", {}).get("grade", False)


def read(path):
    return nbformat.read(path, as_version=4)


# ---------------------------------------------------------------------------------- what is written


def test_the_command_writes_a_course_folder_where_nbgrader_is_not_installed(tmp_path):
    code = (
        "import sys; sys.modules['nbgrader'] = None; from course_lib.cli import main;"
        " sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, "build", "--nbgrader", str(tmp_path / "course"), "01"]
    done = subprocess.run(command, cwd=paths.ROOT, capture_output=True, text=True)
    written = [tmp_path / "course" / name for name in ("nbgrader_config.py", "seed.txt")]
    written.append(tmp_path / "course" / "source" / "01_ddpm" / "01_ddpm.ipynb")
    assert done.returncode == 0 and done.stdout.split() == [str(path) for path in written], (
        done.stderr
    )
    text = "".join(path.read_text(encoding="utf-8") for path in written)
    assert f"seed={int(written[1].read_text(encoding='utf-8'))}," in text
    assert str(paths.ROOT) not in text and str(tmp_path) not in text and sys.prefix not in text


def test_existing_settings_and_seed_are_kept_and_the_rest_is_identical(course):
    first = {path: path.read_bytes() for path in course.rglob("source/*/*.ipynb")}
    (course / "nbgrader_config.py").write_text(
        config := (course / "nbgrader_config.py").read_text() + "# mine\n"
    )
    write_course_folder(course, build.sources(["00", "01"]))
    assert len(first) == 2 and {path: path.read_bytes() for path in first} == first
    assert (course / "nbgrader_config.py").read_text() == config
    assert (course / "seed.txt").read_text() == f"{SEED}\n"


def test_every_folder_draws_its_own_seed(tmp_path):
    seeds = set()
    for name in ("a", "b", "c"):
        write_course_folder(tmp_path / name, [])
        seeds.add(int((tmp_path / name / "seed.txt").read_text()))
    assert len(seeds) == 3 and min(seeds) > 0


def test_a_seed_that_is_no_number_is_refused_by_name(tmp_path):
    (tmp_path / "seed.txt").write_text("soon")
    with pytest.raises(ValueError, match=r"seed.txt: expected one whole number; delete the file"):
        write_course_folder(tmp_path, [])


def test_a_locked_test_cell_follows_each_exercise_and_nothing_else(tmp_path, monkeypatch):
    demo.declare(monkeypatch)
    path = tmp_path / "01_demo.py"
    path.write_text(demo.SOURCE, encoding="utf-8")
    notebook = assignment(path, SEED)
    MetadataValidator().validate_nb(notebook)
    nbformat.validate(notebook)
    marked = [
        (grade_id(cell), cell.metadata.nbgrader)
        for cell in notebook.cells
        if "nbgrader" in cell.metadata
    ]
    assert [name for name, _ in marked] == [
        "demo-double",
        "demo-double-mark",
        "demo-box",
        "demo-box-mark",
    ]
    kinds = [(data.solution, data.grade, data.locked, data.get("points")) for _, data in marked]
    assert kinds == [(True, False, False, None), (False, True, True, 1)] * 2
    box = next(cell for cell in notebook.cells if grade_id(cell) == "demo-box")
    assert box.source.count("### BEGIN SOLUTION") == box.source.count("### END SOLUTION") == 2
    others = [cell for cell in notebook.cells if not is_test(cell)]
    assert [cell.id for cell in others] == [cell.id for cell in build.student_edition(path).cells]
    assert next(cell for cell in others if "print(double" in cell.source).metadata == {
        "tags": ["nbval-check-output"]
    }


def test_links_lead_from_the_assignments_own_folder():
    assert relocate("[chapter 02](02_vit.ipynb) and [it](02_vit.ipynb#1-It), [1](#1-It)") == (
        "[chapter 02](../02_vit/02_vit.ipynb) and [it](../02_vit/02_vit.ipynb#1-It), [1](#1-It)"
    )
    assert relocate('<a href="02_vit.ipynb">') == '<a href="../02_vit/02_vit.ipynb">'
    assert relocate("[`papers/vit.py` ↗](../course_lib/papers/vit.py)") == "`papers/vit.py`"
    assert relocate("[arXiv 1](https://arxiv.org/abs/1)") == "[arXiv 1](https://arxiv.org/abs/1)"


# ------------------------------------------------------------------------------ nbgrader's commands


def test_nbgrader_finds_the_source_valid(course):
    """It runs the notebook, and every answer earns all points."""
    assert "Success! Your notebook passes all the tests." in nbgrader(
        course, "validate", "source/00_start_here/00_start_here.ipynb"
    )


@pytest.mark.parametrize("chapter", ["00_start_here", "01_ddpm"])
def test_students_get_the_student_edition_with_test_cells(release, chapter):
    notebook = read(release / chapter / f"{chapter}.ipynb")
    student = build.student_edition(paths.SOLUTIONS / f"{chapter}.py")
    cells = [cell for cell in notebook.cells if not is_test(cell)]
    assert [(c.cell_type, c.id, c.source) for c in cells] == [
        (c.cell_type, c.id, relocate(c.source) if c.cell_type == "markdown" else c.source)
        for c in student.cells
    ]
    points = {
        grade_id(cell): cell.metadata.nbgrader.points for cell in notebook.cells if is_test(cell)
    }
    names = build.exercise_ids(student)
    assert points == {
        name.replace(".", "-") + "-mark": find_exercise(name).points for name in names
    }


@pytest.mark.parametrize("chapter", ["00_start_here", "01_ddpm"])
def test_students_get_no_solution_line_and_no_seed(release, chapter):
    notebook = read(release / chapter / f"{chapter}.ipynb")
    shown = "\n".join(
        re.sub(r"<details>.*?</details>", "", cell.source, flags=re.DOTALL)
        for cell in notebook.cells
    )
    hidden = build.secrets(paths.SOLUTIONS / f"{chapter}.py")
    assert len(hidden) >= 2 and [line for line in hidden if line in shown] == []
    files = [path.read_text(encoding="utf-8") for path in release.rglob("*") if path.is_file()]
    assert len(files) == 2 and not any(str(SEED) in text or "HIDDEN" in text for text in files)
    assert all(cell.metadata.editable is False for cell in notebook.cells if is_test(cell))


def test_the_scores_in_the_gradebook_are_those_of_the_engine(graded):
    with Gradebook(f"sqlite:///{graded / 'gradebook.db'}") as gradebook:
        found = {}
        for student in ANSWERS:
            submission = gradebook.find_submission_notebook(
                "00_start_here", "00_start_here", student
            )
            grades = {grade.name: grade for grade in submission.grades}
            found[student] = [
                grades["start_here-to_model-mark"],
                grades["start_here-patchify-mark"],
            ]
        assert {name: [grade.score for grade in grades] for name, grades in found.items()} == SCORES
        looked_for = [
            name
            for name, grades in found.items()
            if any(grade.needs_manual_grade for grade in grades)
        ]
        assert looked_for == ["eve"], "where a test cell is gone, a teacher is asked to look"
    expected = {
        name: [earned(TO_MODEL, a[TO_MODEL]), earned(PATCHIFY, a[PATCHIFY])]
        for name, a in ANSWERS.items()
    }
    assert expected == SCORES


def earned(name, line):
    """The points of an answer by the engine itself, without classroom, notebook or nbgrader."""
    if line is None or line.endswith("["):
        return 0
    parameters = {TO_MODEL: "rgb", PATCHIFY: "image, patch"}[name]
    space = {"rearrange": rearrange}
    exec(f"def answer({parameters}):\n    {line}", space)
    with warnings.catch_warnings(action="ignore"):
        verdict = assess(
            find_exercise(name), list(run(space["answer"], find_exercise(name), SEED)), SEED
        )
    return round(verdict.fraction * find_exercise(name).points, 2)


def test_marking_is_short_and_starts_with_an_empty_home_for_each_student(graded):
    printed = {}
    for student in ANSWERS:
        last = read(
            graded / "autograded" / student / "00_start_here" / "00_start_here.ipynb"
        ).cells[-1]
        printed[student] = last.outputs[0].text.strip()
    recorded = "1 ['progress.json', 'progress.lock']"
    assert printed == dict.fromkeys(ANSWERS, recorded) | {"cem": "1 []"}, "a stub is not recorded"


def test_the_feedback_names_the_misconception_and_the_points(graded):
    nbgrader(graded, "generate_feedback", "00_start_here")
    pages = {
        name: (
            (graded / "feedback" / name / "00_start_here" / "00_start_here.html").read_text(
                encoding="utf-8"
            )
        )
        for name in ANSWERS
    }
    assert (
        "inside a token you put the channels first" in pages["ben"]
        and "0.57 of 2 points" in pages["ben"]
    )
    assert "(Score: 1.24 / 3.0)" in pages["ben"] and "(Score: 3.0 / 3.0)" in pages["ada"]
    assert "No cell with this exercise has been run in this session." in pages["cem"]
    assert "SystemExit: enough" in pages["eve"] and "SyntaxError" in pages["dee"]


def test_formgrader_shows_the_assignments_and_the_scores(graded, root):
    with driver.jupyterlab(root) as address:

        def get(page):
            with urllib.request.urlopen(
                f"{address}/formgrader/{page}?token={driver.TOKEN}", timeout=60
            ) as answer:
                return answer.read().decode()

        page = get("manage_assignments")
        assignments = {entry["name"]: entry for entry in json.loads(get("api/assignments"))}
        submissions = {
            entry["student"]: entry for entry in json.loads(get("api/submissions/00_start_here"))
        }
    assert "Manage Assignments" in page and "visual_generation" in page, (
        "the course's own settings are in force"
    )
    assert {name: entry["max_score"] for name, entry in assignments.items()} == {
        "00_start_here": 3,
        "01_ddpm": 27,
    }
    assert assignments["00_start_here"]["num_submissions"] == len(ANSWERS)
    assert {name: round(entry["score"], 2) for name, entry in submissions.items()} == {
        name: sum(scores) for name, scores in SCORES.items()
    }
    assert all(entry["autograded"] for entry in submissions.values())


# --------------------------------------------------------------------------------------------- mark


def answer_with(function, name=PATCHIFY):
    exercise(name)(function)


def test_mark_takes_the_last_answer_and_not_the_reference_in_its_place(capsys):
    def right(image, patch):
        return rearrange(image, "b c (h x) (w y) -> b (h w) (x y c)", x=patch, y=patch)

    def channels_first(image, patch):
        return rearrange(image, "b c (h x) (w y) -> b (h w) (c x y)", x=patch, y=patch)

    answer_with(right)
    assert mark(PATCHIFY) == 2.0 and mark(PATCHIFY, seed=SEED) == 2.0
    answer_with(channels_first)
    capsys.readouterr()
    assert mark(PATCHIFY, seed=SEED) == 0.57
    text = capsys.readouterr().out
    assert (
        "2 of 7 cases right" in text
        and "put the channels first" in text
        and "0.57 of 2 points" in text
    )
    answer_with(right)
    assert mark(PATCHIFY) == 2.0


def test_mark_draws_the_cases_of_its_seed():
    def by_heart(rgb):
        return rgb.permute(0, 3, 1, 2).float() / 127.5 - int(int(rgb.sum()) in SEEN)

    answer_with(by_heart, TO_MODEL)
    assert (mark(TO_MODEL), mark(TO_MODEL, seed=SEED)) == (1.0, 0.67)


def test_an_answer_that_never_ran_earns_nothing_and_says_so(monkeypatch, capsys):
    monkeypatch.setattr(sys.modules["course_lib.classroom.exercise"], "_answers", {})
    earned = mark("ddpm.q_sample")
    assert earned == 0 and isinstance(earned, float), (
        "nbgrader gives full points to a cell without a number"
    )
    out, error = capsys.readouterr()
    assert (
        "No cell with this exercise has been run" in out and "0 of 2 points" in out and error == ""
    )


def test_mark_records_nothing_and_an_unknown_exercise_is_an_error():
    answer_with(find_exercise(PATCHIFY).reference)
    before = repr(progress())
    mark(PATCHIFY, seed=SEED)
    assert repr(progress()) == before
    with pytest.raises(UnknownExercise, match=r"did you mean start_here\.patchify"):
        mark("start_here.patchfy")


def test_nothing_reaches_the_error_stream_that_nbgrader_takes_for_failure(capsys):
    def grumble(image, patch):
        print("a word", file=sys.stderr)
        return image

    grumbling = replace(
        find_exercise(PATCHIFY),
        misconceptions={"kept": (grumble, "You kept the picture.")},
    )
    report, verdict = examine(grumble, grumbling, SEED)
    assert verdict.misconception == "kept" and report.printed.startswith("a word")
    assert capsys.readouterr().err == ""
