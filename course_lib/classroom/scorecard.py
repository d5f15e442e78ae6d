"""Tables, and the scorecard at the end of a chapter.

A scorecard says what the paper says, what the code computes and what you measured.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from html import escape
from typing import Any

import torch
from torch import nn

from course_lib import zoo
from course_lib.classroom.markup import STYLE
from course_lib.metrics.evidence import Finding

COLUMNS = {
    "what": "What",
    "paper": "The paper says",
    "code": "The code computes",
    "measured": "You measured here",
    "note": "Note",
}


@dataclass(frozen=True)
class Table:
    """Rows of text, one entry per column, shown as a table.

    columns: the heading of every key.
    """

    title: str
    columns: Mapping[str, str]
    rows: tuple[dict[str, str], ...]

    def _repr_html_(self) -> str:
        head = "".join(f'<th scope="col">{escape(title)}</th>' for title in self.columns.values())
        body = "".join(self._row(row) for row in self.rows)
        caption = f"<caption>{escape(self.title)}</caption>"
        table = f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        return f'{STYLE}<div class="vgc">{table}</div>'

    def _row(self, row: dict[str, str]) -> str:
        first, *others = self.columns
        cells = "".join(f"<td>{escape(row[key])}</td>" for key in others)
        return f'<tr><th scope="row">{escape(row[first])}</th>{cells}</tr>'

    def __repr__(self) -> str:
        table = [self.columns, *self.rows]
        widths = {key: max(len(row[key]) for row in table) for key in self.columns}
        lines = [
            "  ".join(row[key].ljust(widths[key]) for key in self.columns).rstrip() for row in table
        ]
        rule = "  ".join("-" * width for width in widths.values())
        return "\n".join([self.title, lines[0], rule, *lines[1:]])


TREND_SHOWN = "trend shown"
TREND_NOT_SHOWN = "trend not shown"
TONES = {TREND_SHOWN: "good", TREND_NOT_SHOWN: "bad"}


class Scorecard(Table):
    """A table whose notes say, also in colour, whether a trend was shown."""

    def _row(self, row: dict[str, str]) -> str:
        tone = TONES.get(row["note"], "")
        cells = "".join(f"<td>{escape(row[key])}</td>" for key in ("paper", "code", "measured"))
        last = f'<td class="{tone}">{escape(row["note"])}</td>'
        return f'<tr><th scope="row">{escape(row["what"])}</th>{cells}{last}</tr>'


def table(rows: Sequence[Mapping], title: str) -> Table:
    """Make a table with a column per key of its rows, the first naming the row; None is a dash.

    Numbers are rounded to four digits; for others, give text.  Raises ValueError when there are no
    rows or their keys differ.
    """
    if not rows or any(list(row) != list(rows[0]) for row in rows):
        raise ValueError(
            f"expected rows with the same keys in the same order, got {[list(row) for row in rows]}"
        )
    return Table(
        title,
        {key: key for key in rows[0]},
        tuple({k: _text(v) for k, v in row.items()} for row in rows),
    )


def row(
    what: str,
    *,
    paper: Any = None,
    code: Any = None,
    measured: Any = None,
    note: str | None = None,
    shown: Finding | bool | None = None,
) -> dict[str, Any]:
    """Return a row for `scorecard`; what is None stays a dash.

    shown: the finding that decides whether the miniature shows the paper's trend.  It is the note,
    so that only one of the two can be given, and its figure is what was measured, unless that is
    given.  Raises ValueError for both.
    """
    if note is not None and shown is not None:
        raise ValueError(f"{what}: expected a note or shown, got both")
    if measured is None and isinstance(shown, Finding):
        measured = shown.figure
    cells = {"paper": paper, "code": code, "measured": measured, "note": note, "shown": shown}
    return {"what": what} | {key: value for key, value in cells.items() if value is not None}


def parameters(model: str | nn.Module) -> int:
    """Count the parameters of a model, or of a preset by its name: ``parameters("vit/ViT-B/16")``.

    A preset is built on the meta device, without memory.  Raises ValueError for an unknown preset.
    """
    if isinstance(model, str):
        with torch.device("meta"):
            model = zoo.build(model)
    return sum(parameter.numel() for parameter in model.parameters())


def scorecard(rows: Sequence[Mapping | Any], title: str = "Scorecard") -> Scorecard:
    """Make a table with a row per claim.

    Each row is a dict or dataclass with `what` and any of `paper`, `code`, `measured`, `note`;
    numbers are rounded to four digits.  `row` makes one.  Where the miniature can only show a
    trend, `shown` is true or false, for the note "trend shown" or "trend not shown".  Raises
    ValueError for a row without `what` or with other names.
    """
    return Scorecard(title, COLUMNS, tuple(_texts(row) for row in rows))


def _texts(row: Mapping | Any) -> dict[str, str]:
    given = asdict(row) if is_dataclass(row) and not isinstance(row, type) else row
    if isinstance(given, Mapping) and "shown" in given:
        verdict = TREND_SHOWN if given["shown"] else TREND_NOT_SHOWN
        given = {key: value for key, value in given.items() if key != "shown"} | {"note": verdict}
    if (
        not isinstance(given, Mapping)
        or not given.keys() <= COLUMNS.keys()
        or not given.get("what")
    ):
        raise ValueError(
            f"expected `what` and others: a row has `what` and any of"
            f" {', '.join(list(COLUMNS)[1:])}; got {given!r}"
        )
    return {key: _text(given.get(key)) for key in COLUMNS}


def _text(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
