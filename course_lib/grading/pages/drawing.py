"""The drawings on the pages, as SVG.

Positions and lengths are percentages, so that a drawing fills its place while its text never
shrinks.
"""

from collections import Counter
from collections.abc import Sequence
from typing import get_args

from course_lib.grading.pages.page import text
from course_lib.grading.records import Grade, Status

STATUSES: tuple[str, ...] = get_args(Status)


def svg(kind: str, title: str, shapes: Sequence[str], desc: str = "", width: str = "100%") -> str:
    """Return a drawing with a title, which is read aloud to those who cannot see it."""
    about = f"<title>{text(title)}</title>{f'<desc>{text(desc)}</desc>' if desc else ''}"
    return f'<svg class="{kind}" role="img" width="{width}">{about}{"".join(shapes)}</svg>'


def titled(title: str, shape: str) -> str:
    """Return a part of a drawing that shows a title when pointed at."""
    return f"<g><title>{text(title)}</title>{shape}</g>"


def rect(x: int | float, width: float, kind: str) -> str:
    """Return a bar in a result's colour; position and width in per cent."""
    return f'<rect class="{css_class(kind)}" x="{x:.5g}%" width="{width:.5g}%" height="100%"/>'


def label(x: int | float, y: int | float, said: str, kind: str, dx: int = 0, dy: int = 0) -> str:
    """Return a word in a drawing, at a position in per cent, moved by pixels."""
    return f'<text class="{kind}" x="{x:.5g}%" y="{y:.5g}%" dx="{dx}" dy="{dy}">{said}</text>'


def stacked(title: str, counts: Sequence[tuple[str, str, int]]) -> str:
    """Return one bar of segments, each (what it counts, its status, count).

    A count is written into its segment where there is room.
    """
    counts = [segment for segment in counts if segment[2]]
    total = sum(n for _, _, n in counts)
    x = 0.0
    shapes = []
    for what, status, n in counts:
        width = 100 * n / total
        shape = rect(x, width, status)
        if width > 1.5 + 2 * len(str(n)):
            shape += label(x + width / 2, 50, str(n), f"mid on-{css_class(status)}", dy=4)
        shapes.append(titled(f"{n} {what}", shape))
        x += width
    said = ", ".join(f"{n} {what}" for what, _, n in counts)
    return svg("stack", f"{title}: {said}", shapes)


def spark(grade: Grade) -> str:
    """Return a column for each exercise, whose height is the share of the points earned."""
    shapes = []
    for i, mark in enumerate(grade.exercises):
        height = max(2, round(18 * mark.earned / max(mark.points, 1)))
        column = (
            f'<rect class="{css_class(mark.status)}" x="{8 * i}" y="{18 - height}" width="6"'
            f' height="{height}"/>'
        )
        shapes.append(titled(f"{mark.id}: {mark.status}", column))
    counts = Counter(mark.status for mark in grade.exercises)
    said = ", ".join(f"{counts[status]} {status}" for status in STATUSES if counts[status])
    return svg("spark", said or "no exercises", shapes, width=str(8 * len(shapes)))


def sign(status: str) -> str:
    """Return the small round sign of a result, distinct in its form as well as in its colour."""
    disc = '<circle cx="7" cy="7" r="6" class="{}"/>'
    ring = '<circle cx="7" cy="7" r="5.5" class="{}"/>'
    forms = {
        "passed": disc.format("passed") + '<path class="stroke" d="M4 7.2 6.2 9.4 10 5"/>',
        "partly right": (
            ring.format("ring") + '<path class="passed" d="M7 1.5a5.5 5.5 0 0 1 0 11z"/>'
        ),
        "wrong": (
            disc.format("wrong") + '<path class="stroke" d="M4.8 4.8 9.2 9.2M9.2 4.8 4.8 9.2"/>'
        ),
        "not attempted": disc.format("not-attempted"),
        "missing": ring.format("ring dashed"),
    }
    return f'<svg class="sign" aria-hidden="true" width="14" height="14">{forms[status]}</svg>'


def legend(words: dict[str, str]) -> str:
    """Return what the colours of the bars mean, given {word: status}."""
    entries = []
    for word, status in words.items():
        colour = f'<rect class="{css_class(status)}" width="100%" height="100%"/>'
        entries.append(f'<span><svg class="swatch" aria-hidden="true">{colour}</svg>{word}</span>')
    return f'<p class="legend">{"".join(entries)}</p>'


def css_class(status: str) -> str:
    """Return the style of a result."""
    return status.replace(" ", "-")
