import pytest
from nbformat.v4 import new_code_cell, new_output

from course_lib import build
from tests.build import demo
from tests.build.demo import SOURCE

DECLARED = ["demo.double", "demo.box"]


@pytest.fixture
def chapter(tmp_path, monkeypatch):
    """A source and its notebook as if it had been executed; the test may change the notebook."""
    demo.declare(monkeypatch)
    source = tmp_path / "01_demo.py"
    source.write_text(SOURCE, encoding="utf-8")
    notebook = build.student_edition(source)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for count, cell in enumerate(code, start=1):
        cell.execution_count = count
    code[-1].outputs = [new_output("stream", name="stdout", text="again\n")]
    committed = tmp_path / "01_demo.ipynb"

    def problems(declared=DECLARED):
        build.write(notebook, committed)
        return build.check_notebook(source, committed, declared)

    return notebook, code, problems


def test_a_notebook_as_built_has_no_problem(chapter):
    _, _, problems = chapter
    assert problems() == []


def test_a_missing_notebook_is_reported(tmp_path):
    assert build.check_notebook(tmp_path / "01_demo.py", tmp_path / "01_demo.ipynb", []) == [
        "is missing"
    ]


def test_drift_names_the_first_cell_that_differs(chapter):
    notebook, _, problems = chapter
    notebook.cells[2].source = "## Edited by hand"
    assert problems() == ["cell 2 (## Edited by hand) is not what 01_demo.py makes"]


def test_a_lost_tag_is_drift(chapter):
    _, code, problems = chapter
    del code[3].metadata["tags"]
    assert "is not what 01_demo.py makes" in problems()[0]


def test_an_added_cell_is_drift(chapter):
    notebook, _, problems = chapter
    notebook.cells.append(new_code_cell("1", id="one", execution_count=7))
    assert problems()[0] == "has 10 cells, 01_demo.py makes 9"


def test_a_notebook_that_was_not_executed_is_reported(chapter):
    _, code, problems = chapter
    code[2].execution_count = None
    assert problems() == ["its code cells have not been executed in order, once each"]


@pytest.mark.parametrize(
    "output, told",
    [
        (
            new_output("error", ename="ZeroDivisionError", evalue="", traceback=[]),
            "stores a traceback: ZeroDivisionError",
        ),
        (
            new_output("stream", name="stderr", text="UserWarning: no\n"),
            "stores a warning: UserWarning: no",
        ),
        (new_output("stream", text="saved to /home/me/x.png"), "shows a path of the machine"),
        (new_output("stream", text="Temp: C:\\Users\\me"), "shows a path of the machine"),
        (
            new_output("stream", text="return amount*factor + shift"),
            "gives a solution away: return amount * factor + shift",
        ),
        (
            new_output(
                "display_data", {"text/html": "<b>return</b> amount * <i>factor</i> +&nbsp;shift"}
            ),
            "gives a solution away: return amount * factor + shift",
        ),
    ],
)
def test_what_an_output_must_not_hold(chapter, output, told):
    _, code, problems = chapter
    code[0].outputs = [output]
    (problem,) = problems()
    assert told in problem and problem.startswith("cell 1 (from course_lib")


def test_a_widget_that_gives_a_solution_away_is_reported(chapter):
    notebook, _, problems = chapter
    state = {"1": {"state": {"value": "return amount * factor + shift"}}}
    notebook.metadata["widgets"] = {"application/vnd.jupyter.widget-state+json": {"state": state}}
    assert problems() == [
        "the widgets' state gives a solution away: return amount * factor + shift"
    ]


def test_exercises_declared_and_present_must_agree(chapter):
    _, _, problems = chapter
    assert problems([*DECLARED, "demo.third"]) == [
        "exercise demo.third is declared and not in the notebook"
    ]
    assert problems(DECLARED[:1]) == [
        "exercise demo.box is in the notebook and not declared for this chapter"
    ]


def test_a_large_notebook_is_reported(chapter):
    _, code, problems = chapter
    code[0].outputs = [new_output("display_data", {"image/png": "x" * 2_000_000})]
    assert problems() == ["is 2.0 MB, 2 MB are allowed"]
