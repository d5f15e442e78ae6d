from dataclasses import dataclass

import pytest
import torch
from torch import nn

from course_lib import zoo
from course_lib.classroom import parameters, row, scorecard, table


@dataclass
class Row:
    what: str
    paper: float
    measured: float | None = None
    note: str = ""


ROWS = [
    {"what": "parameters", "paper": 35746307, "code": 35746307, "note": "exact"},
    Row("bits per dimension", 3.70, 3.912345, "trend shown"),
    Row("FID < 4 & falling", 3.17, note="trend not shown"),
]


def test_the_text_twin_is_aligned_and_rounded():
    lines = repr(scorecard(ROWS, title="DDPM")).splitlines()
    assert lines[0] == "DDPM" and lines[1].startswith("What ") and len(lines) == 6
    assert "35,746,307" in lines[3] and "3.912" in lines[4] and "–" in lines[5]
    column = lines[1].index("You measured here")
    assert lines[4][column:].startswith("3.912") and lines[5][column:].startswith("–")


def test_the_table_is_accessible_and_escaped():
    html = scorecard(ROWS, title="a <b>")._repr_html_()
    assert html.count('scope="col"') == 5 and html.count('scope="row"') == 3
    assert "<caption>a &lt;b&gt;</caption>" in html and "FID &lt; 4 &amp; falling" in html
    assert (
        '<td class="good">trend shown</td>' in html
        and '<td class="bad">trend not shown</td>' in html
    )


@pytest.mark.parametrize("row", [{"paper": 1}, {"what": ""}, {"what": "x", "papers": 1}, 5, Row])
def test_what_is_not_a_row_is_refused(row):
    with pytest.raises(ValueError, match="a row has `what`"):
        scorecard([row])


def test_a_plain_table_has_the_columns_of_its_rows():
    shown = table(
        [
            {"model": "1", "accuracy": "91%", "MMAC": 28.5748},
            {"model": "<2>", "accuracy": None, "MMAC": 7},
        ],
        "Costs",
    )
    html = shown._repr_html_()
    assert (
        '<th scope="col">accuracy</th>' in html
        and '<th scope="row">&lt;2&gt;</th><td>–</td><td>7</td>' in html
    )
    assert repr(shown).splitlines()[3].split() == ["1", "91%", "28.57"]


@pytest.mark.parametrize("rows", [[], [{"a": 1}, {"b": 1}], [{"a": 1, "b": 2}, {"b": 1, "a": 2}]])
def test_rows_of_different_columns_are_refused(rows):
    with pytest.raises(ValueError, match="the same keys in the same order"):
        table(rows, "x")


def test_a_row_leaves_out_what_is_not_given():
    assert row("FID", paper=3.17) == {"what": "FID", "paper": 3.17}
    given = row("a trend", code=0, measured="1 of 3", shown=False)
    assert given == {"what": "a trend", "code": 0, "measured": "1 of 3", "shown": False}
    assert "trend not shown" in repr(scorecard([given]))


def test_a_note_that_only_mentions_what_is_shown_has_no_colour():
    html = scorecard([row("FID", note="not shown in the paper")])._repr_html_()
    assert '<td class="">not shown in the paper</td>' in html


def test_a_row_has_a_note_or_a_trend():
    with pytest.raises(ValueError, match="FID: expected a note or shown, got both"):
        row("FID", note="exact", shown=True)


def test_parameters_are_counted_without_building_the_model():
    assert parameters("vit/ViT-B/16") == 86_567_656
    assert parameters(nn.Linear(3, 4)) == 16
    assert torch.get_default_device().type == "cpu"
    with pytest.raises(ValueError, match="no preset 'vit/ViT-B/17'"):
        parameters("vit/ViT-B/17")


def test_parameters_agree_with_the_model_that_is_built():
    built = zoo.build("vit/tiny")
    assert parameters("vit/tiny") == parameters(built)
