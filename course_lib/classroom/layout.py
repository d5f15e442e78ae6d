"""How much room the texts of a figure take: measured, broken into lines, and checked."""

import itertools
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

Figure = Any  # matplotlib's, which is imported only when something is drawn

SPACE = re.compile(r"[ \n\t]+")  # where a line may break; not at a no-break space
DENSITY = 1.5  # pixels of the file for one CSS pixel: sharp on a fine screen, small on disk
MIN_FONT_POINTS = 5.0
TEXT_GAP_PIXELS = 8  # of the file, between a title and what is on its right
CUT_PIXELS = 2  # of the file, by which a text may leave the figure or touch another
LINE_SPACING = 1.15  # of lines, relative to the height of one


class Texts:
    """Texts of one kind, broken into lines that fit a width, all in one size."""

    def __init__(self, words: Sequence | None, width: int | float, size: int | float):
        words = [" ".join(str(text).split()) for text in (words if words is not None else [])]
        longest = max(
            (text_width(word, size) for text in words for word in text.split()), default=0
        )
        self.size = size if longest <= width else max(MIN_FONT_POINTS, size * width / longest)
        self.broken = [break_lines(text, width, self.size) for text in words]
        lines = max((text.count("\n") + 1 for text in self.broken), default=0)
        self.height = math.ceil(lines * LINE_SPACING * 1.17 * self.size * DENSITY * 100 / 72)
        every = [line for text in self.broken for line in text.split("\n")]
        self.width = math.ceil(max((text_width(line, self.size) for line in every), default=0))


def text_width(words: str, size: int | float) -> float:
    """Measure a text in the font of the figures, in pixels of the file; size in points."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    width, _, _ = text_to_path.get_text_width_height_descent(
        words, FontProperties(size=size), ismath=False
    )
    return width * 100 * DENSITY / 72


def break_lines(words: str, width: int | float, size: int | float) -> str:
    """Break a text into lines of at most `width` pixels of the file, if need be within a word."""
    lines = [""]
    for word in SPACE.split(words):
        longer = f"{lines[-1]} {word}".strip()
        if text_width(longer, size) <= width:
            lines[-1] = longer
            continue
        lines.append("")
        for letter in word:
            if lines[-1] and text_width(lines[-1] + letter, size) > width:
                lines.append("")
            lines[-1] += letter
    return "\n".join(line for line in lines if line)


def break_titles(fig: Figure) -> None:
    """Break the titles of a figure and of its axes into lines where their place is too narrow.

    A title of an axes may reach as far as the axes to its right, or the edge of the figure.
    """
    axes = [ax for ax in fig.axes if ax.get_visible()]
    titles = [(ax, title) for ax in axes for title in _titles_of(ax) if title.get_text()]
    headline = getattr(fig, "_suptitle", None)
    if not titles and headline is None:
        return
    fig.set_dpi(100 * DENSITY)
    fig.draw_without_rendering()
    if headline is not None:
        _break_text(headline, 0.98 * fig.bbox.width)
    for ax, title in titles:
        box = title.get_window_extent()
        _break_text(title, _room_of(ax, box, axes, fig))


def _titles_of(ax: Any) -> list:
    return [ax.title, ax._left_title, ax._right_title]


def _room_of(ax: Any, box: Any, axes: list, fig: Figure) -> float:
    """Return how wide a title may be: to the next axes on its right, or to the figure's edge."""
    own = ax.get_window_extent()
    starts = [
        other.get_tightbbox().x0
        for other in axes
        if other is not ax
        and other.get_window_extent().x0 >= own.x1
        and other.get_window_extent().y0 < own.y1
        and other.get_window_extent().y1 > own.y0
    ]
    end = min(starts, default=fig.bbox.x1) - TEXT_GAP_PIXELS
    if abs((box.x0 + box.x1) / 2 - (own.x0 + own.x1) / 2) < 2:  # centred on its axes
        return 2 * min(end - (own.x0 + own.x1) / 2, (own.x0 + own.x1) / 2)
    return end - box.x0


def _break_text(text: Any, width: float) -> None:
    if text.get_window_extent().width > width and "$" not in text.get_text():
        text.set_text(break_lines(text.get_text(), width, text.get_fontsize()))


def misfits(fig: Figure) -> list[str]:
    """Say which texts of a figure are cut off at its edge, and which of them touch each other."""
    fig.set_dpi(100 * DENSITY)
    fig.draw_without_rendering()
    shown = [
        (" ".join(text.get_text().split()), text.get_window_extent())
        for text in _drawn_texts(fig)
        if text.get_visible() and text.get_text().strip()
    ]
    problems = []
    for words, box in shown:
        beyond = max(-box.x0, -box.y0, box.x1 - fig.bbox.x1, box.y1 - fig.bbox.y1)
        if beyond > CUT_PIXELS:
            problems.append(f"{words!r} cut off by {beyond:.0f} pixels")
    for (words, box), (others, other) in itertools.combinations(shown, 2):
        wide = min(box.x1, other.x1) - max(box.x0, other.x0)
        tall = min(box.y1, other.y1) - max(box.y0, other.y0)
        if wide > CUT_PIXELS and tall > CUT_PIXELS:
            problems.append(f"{words!r} on {others!r}")
    return problems


def _drawn_texts(fig: Figure) -> Iterator[Any]:
    """Yield the texts that a figure draws; tick labels beyond the limits of an axis are none."""
    yield from fig.texts
    legends = list(fig.legends)
    for ax in fig.axes:
        if not ax.get_visible():
            continue
        yield from (*ax.texts, *_titles_of(ax))
        if ax.get_legend():
            legends.append(ax.get_legend())
        for axis in (ax.xaxis, ax.yaxis) if ax.axison else ():
            yield axis.label
            for tick in axis._update_ticks():
                yield from (tick.label1, tick.label2)
    for legend in legends:
        yield from (*legend.get_texts(), legend.get_title())
