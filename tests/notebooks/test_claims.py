"""Every sentence about results is a claim that holds, or prose with a listed reason."""

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from course_lib import build, paths
from course_lib.classroom.claims import CLAIM_MIME
from tests.notebooks.prose import listed, suspects, uncovered

CHAPTERS = build.sources()


def claims(notebook):
    """Yield the claims in the outputs of a notebook."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if CLAIM_MIME in output.get("data", {}):
                yield output["data"][CLAIM_MIME]


def beside_results(prose: str) -> list[str]:
    cells = [new_code_cell('room.table(results("a")["metrics"])'), new_markdown_cell(prose)]
    return list(suspects(new_notebook(cells=cells)))


@pytest.mark.parametrize("source", CHAPTERS, ids=lambda path: path.stem)
def test_committed_claims_hold(source, record_property):
    notebook = nbformat.read(paths.NOTEBOOKS / f"{source.stem}.ipynb", as_version=4)
    found = list(claims(notebook))
    record_property("claims", [source.stem, len(found)])
    assert [claim["sentence"] for claim in found if not claim["holds"]] == []


@pytest.mark.parametrize("source", CHAPTERS, ids=lambda path: path.stem)
def test_prose_beside_results_has_a_claim_or_a_listed_reason(source):
    assert uncovered(source) == []


@pytest.mark.parametrize("source", CHAPTERS, ids=lambda path: path.stem)
def test_listed_sentences_are_still_there(source):
    found = list(suspects(build.student_edition(source)))
    stale = [
        start
        for start in listed(source.stem)
        if not any(sentence.startswith(start) for sentence in found)
    ]
    assert stale == []


def test_a_comparison_beside_results_is_found():
    assert beside_results("Look at the table. The larger network is better.") == [
        "The larger network is better."
    ]


def test_a_number_beside_results_is_found():
    assert beside_results("It loses two decibels. Now 3% are left.\n\n## 4 Next\n\nTwice!") == [
        "It loses two decibels.",
        "Now 3% are left.",
    ]


@pytest.mark.parametrize(
    "prose",
    [
        "The paper's is better.",
        "In Table 5 it falls by 3%.",
        "Which one is better?",
        "<details>It is 3% better.</details>",
        "Set $x = 3$ and look.",
    ],
)
def test_the_papers_results_questions_and_folds_are_left_out(prose):
    assert beside_results(prose) == []


def test_results_are_beside_the_prose_after_further_code():
    cells = [
        new_code_cell('results("a")'),
        new_code_cell("x = 1"),
        new_markdown_cell("It is less."),
    ]
    assert list(suspects(new_notebook(cells=cells))) == ["It is less."]


def test_prose_away_from_results_is_left_out():
    cells = [new_code_cell("x = 1"), new_markdown_cell("The larger network is better.")]
    assert list(suspects(new_notebook(cells=cells))) == []
