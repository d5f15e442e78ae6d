"""The scorecard at the end of a chapter: what the paper says, what the code computes, what you measured."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from html import escape
from typing import Any

from course_lib.classroom.markup import STYLE

COLUMNS = {
    "what": "What",
    "paper": "The paper says",
    "code": "The code computes",
    "measured": "You measured here",
    "note": "Note",
}


@dataclass(frozen=True)
class Scorecard:
    """Rows of text, one entry per column.  Shows itself as a table."""

    title: str
    rows: tuple[dict[str, str], ...]

    def _repr_html_(self) -> str:
        head = "".join(f'<th scope="col">{title}</th>' for title in COLUMNS.values())
        body = "".join(_row(row) for row in self.rows)
        caption = f"<caption>{escape(self.title)}</caption>"
        table = f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        return f'{STYLE}<div class="vgc">{table}</div>'

    def __repr__(self) -> str:
        table = [COLUMNS, *self.rows]
        widths = {key: max(len(row[key]) for row in table) for key in COLUMNS}
        lines = ["  ".join(row[key].ljust(widths[key]) for key in COLUMNS).rstrip() for row in table]
        rule = "  ".join("-" * width for width in widths.values())
        return "\n".join([self.title, lines[0], rule, *lines[1:]])


def scorecard(rows: Sequence[Mapping | Any], title: str = "Scorecard") -> Scorecard:
    """A table with a row per claim.

    Each row is a dict or dataclass with `what` and any of `paper`, `code`, `measured`, `note`; numbers are
    rounded to four digits.  Where the miniature can only show a trend, `shown`, true or false, stands for the
    note "trend shown" or "trend not shown".  Raises ValueError for a row without `what` or with other names.
    """
    return Scorecard(title, tuple(_texts(row) for row in rows))


def _texts(row: Mapping | Any) -> dict[str, str]:
    given = asdict(row) if is_dataclass(row) and not isinstance(row, type) else row
    if isinstance(given, Mapping) and "shown" in given:
        verdict = "trend shown" if given["shown"] else "trend not shown"
        given = {key: value for key, value in given.items() if key != "shown"} | {"note": verdict}
    if not isinstance(given, Mapping) or not given.keys() <= COLUMNS.keys() or not given.get("what"):
        raise ValueError(f"a row has `what` and any of {', '.join(list(COLUMNS)[1:])}; got {given!r}")
    return {key: _text(given.get(key)) for key in COLUMNS}


def _text(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _row(row: dict[str, str]) -> str:
    note = row["note"].lower()
    tone = "bad" if "not shown" in note else "good" if "shown" in note else ""
    cells = "".join(f"<td>{escape(row[key])}</td>" for key in ("paper", "code", "measured"))
    return f'<tr><th scope="row">{escape(row["what"])}</th>{cells}<td class="{tone}">{escape(row["note"])}</td></tr>'
