"""The kinds of plot that notebooks need often, one call each."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from course_lib.classroom.figures import PALETTE, Array, Figure, figure, show

# So that lines differ in more than their colours.
LINE_STYLES = ("-", "--", "-.", ":", (0, (6, 1, 1, 1, 1, 1)))


def line_plot(
    x: Array | Mapping,
    curves: Mapping,
    title: str = "",
    xlabel: str = "",
    ylabel: str = "",
    **axes: Any,
) -> Figure:
    """Draw several curves over one x, each named in a legend.

    x: (n,) or a mapping of the same names, for curves over points of their own.
    curves: name -> (n,).  Further keywords go to `figure`: yscale="log", height=2.6, ...
    """
    fig, ax = figure(title, xlabel, ylabel, **axes)
    for i, (name, y) in enumerate(curves.items()):
        at = x[name] if isinstance(x, Mapping) else x
        style = LINE_STYLES[i % len(LINE_STYLES)]
        ax.plot(at, y, linestyle=style, color=PALETTE[i % len(PALETTE)], label=name)
    if len(curves) > 1:
        ax.legend()
    return fig


def show_lines(
    x: Array | Mapping,
    curves: Mapping,
    title: str = "",
    xlabel: str = "",
    ylabel: str = "",
    *,
    alt: str,
    **axes: Any,
) -> None:
    """Show `line_plot`, with its alternative text."""
    show(line_plot(x, curves, title, xlabel, ylabel, **axes), alt)


def scatter_panels(sets: Mapping, title: str = "", limit: int | float = 1.2, **axes: Any) -> Figure:
    """Draw point sets (n 2) in the plane, one panel each, all to the same scale."""
    width = min(6.4, 2.2 * len(sets))
    fig, grid = figure(title, columns=len(sets), width=width, height=2.5, **axes)
    for i, (ax, (name, points)) in enumerate(zip(np.atleast_1d(grid), sets.items(), strict=True)):
        ax.scatter(*np.asarray(points).T, s=3, color=PALETTE[i % 8], alpha=0.5, linewidths=0)
        ax.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal")
        ax.set_title(name, fontsize=9.5)
    return fig


def reliability(
    logits: Array, label: Array, title: str = "Is it right as often as it thinks?"
) -> Figure:
    """Draw the share of right answers against confidence, in tenths.

    Dots on the diagonal are calibrated; the area of a dot grows with the number of answers in it.
    logits: (n k).  label: (n,).
    """
    logits = np.asarray(logits, dtype=float)
    chances = np.exp(logits - logits.max(1, keepdims=True))
    confidence = (chances / chances.sum(1, keepdims=True)).max(1)
    right = chances.argmax(1) == np.asarray(label)
    tenth = np.minimum((10 * confidence).astype(int), 9)
    fig, ax = figure(
        title, "confidence", "share right", width=4.4, height=3, xlim=(0, 1.03), ylim=(0, 1.05)
    )
    ax.plot([0, 1], [0, 1], color="#8a8a8a", linewidth=1)
    for i in np.unique(tenth):
        here = tenth == i
        ax.scatter(
            confidence[here].mean(), right[here].mean(), s=15 + 200 * here.mean(), color=PALETTE[0]
        )
    return fig


def confusion(
    matrices: Mapping,
    names: Sequence[str],
    title: str = "What it says (columns) for each truth (rows)",
) -> Figure:
    """Draw confusion matrices (k k) of counts by truth and answer, as shares of each truth."""
    fig, grid = figure(title, columns=len(matrices), width=3.2 * len(matrices), height=3.6)
    for ax, (head, matrix) in zip(np.atleast_1d(grid), matrices.items(), strict=True):
        counts = np.asarray(matrix, dtype=float)
        shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
        ax.imshow(shares, cmap="cividis", vmin=0, vmax=1)
        ax.set(xticks=range(len(names)), yticks=range(len(names)), yticklabels=names)
        ax.set_xticklabels(names, rotation=90)
        ax.set_title(head, fontsize=9.5)
        ax.grid(False)
    return fig


def probability_bars(image: Array, chances: Mapping, title: str = "What the judge says") -> Figure:
    """Draw an image (h w 3) uint8 and, beside it, the chances of each label's values.

    chances: {label: {value: p}}.
    """
    fig, (left, *axes) = figure(title, columns=1 + len(chances), height=2.4)
    left.imshow(np.asarray(image), interpolation="nearest")
    left.set_axis_off()
    for ax, (label, of_value) in zip(axes, chances.items(), strict=True):
        ax.barh([str(value) for value in of_value], [float(p) for p in of_value.values()])
        ax.set(xlim=(0, 1))
        ax.set_title(label, fontsize=9.5)
        ax.invert_yaxis()
    return fig
