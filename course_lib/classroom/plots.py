"""The kinds of plot that notebooks need again and again, one call each."""

from collections.abc import Mapping

import numpy as np

from course_lib.classroom.figures import PALETTE, figure, show

# so that lines differ without their colours too
STYLES = ("-", "--", "-.", ":", (0, (6, 1, 1, 1, 1, 1)))


def line_plot(x, curves: Mapping, title="", xlabel="", ylabel="", **axes):
    """A figure of several curves over one x, each named in a legend.

    x: (n,) or a mapping of the same names, for curves over points of their own.  curves: name ->
    (n,). Further keywords go to `figure`: yscale="log", height=2.6, ...
    """
    fig, ax = figure(title, xlabel, ylabel, **axes)
    for i, (name, y) in enumerate(curves.items()):
        ax.plot(
            x[name] if isinstance(x, Mapping) else x,
            y,
            STYLES[i % 5],
            color=PALETTE[i % 8],
            label=name,
        )
    if len(curves) > 1:
        ax.legend()
    return fig


def show_lines(x, curves: Mapping, title="", xlabel="", ylabel="", *, alt: str, **axes) -> None:
    """Show `line_plot`, with its alternative text."""
    show(line_plot(x, curves, title, xlabel, ylabel, **axes), alt)


def scatter_panels(sets: Mapping, title="", limit=1.2, **axes):
    """A figure of point sets (n 2) in the plane, one panel each, all to the same scale."""
    fig, grid = figure(
        title, columns=len(sets), width=min(6.4, 2.2 * len(sets)), height=2.5, **axes
    )
    for i, (ax, (name, points)) in enumerate(zip(np.atleast_1d(grid), sets.items(), strict=True)):
        ax.scatter(*np.asarray(points).T, s=3, color=PALETTE[i % 8], alpha=0.5, linewidths=0)
        ax.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal")
        ax.set_title(name, fontsize=9.5)
    return fig


def reliability(logits, label, title="Is it right as often as it thinks?"):
    """A figure of the share of right answers against confidence, in tenths; dots on the diagonal
    are calibrated.

    logits: (n k), label: (n,).  A dot's area grows with the number of answers in it.
    """
    chances = np.exp(
        np.asarray(logits, dtype=float) - np.asarray(logits, dtype=float).max(1, keepdims=True)
    )
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


def confusion(matrices: Mapping, names, title="What it says (columns) for each truth (rows)"):
    """A figure of confusion matrices (k k), counts by truth and answer, each row shown as shares of
    its truth.
    """
    fig, grid = figure(title, columns=len(matrices), width=3.2 * len(matrices), height=3.6)
    for ax, (head, matrix) in zip(np.atleast_1d(grid), matrices.items(), strict=True):
        counts = np.asarray(matrix, dtype=float)
        ax.imshow(
            counts / np.maximum(counts.sum(1, keepdims=True), 1), cmap="cividis", vmin=0, vmax=1
        )
        ax.set(xticks=range(len(names)), yticks=range(len(names)), yticklabels=names)
        ax.set_xticklabels(names, rotation=60, ha="right", rotation_mode="anchor")
        ax.set_title(head, fontsize=9.5)
        ax.grid(False)
    return fig


def probability_bars(picture, chances: Mapping, title="What the judge says"):
    """A figure of a picture (h w 3) uint8 and, beside it, the chances of each label's values:
    {label: {value: p}}.
    """
    fig, (left, *axes) = figure(title, columns=1 + len(chances), height=2.4)
    left.imshow(np.asarray(picture), interpolation="nearest")
    left.set_axis_off()
    for ax, (label, of_value) in zip(axes, chances.items(), strict=True):
        ax.barh([str(value) for value in of_value], [float(p) for p in of_value.values()])
        ax.set(xlim=(0, 1))
        ax.set_title(label, fontsize=9.5)
        ax.invert_yaxis()
    return fig
