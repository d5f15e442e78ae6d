"""The kinds of plot that notebooks need again and again, one call each."""

from collections.abc import Mapping

import numpy as np

from course_lib.classroom.figures import PALETTE, figure, show

STYLES = ("-", "--", "-.", ":", (0, (6, 1, 1, 1, 1, 1)))  # so that lines differ without their colours too


def lines(x, curves: Mapping, title="", xlabel="", ylabel="", **axes):
    """A figure of several curves over one x, each named in a legend.

    x: (n,) or a mapping of the same names, for curves over points of their own.  curves: name -> (n,).
    Further keywords go to `figure`: yscale="log", height=2.6, ...
    """
    fig, ax = figure(title, xlabel, ylabel, **axes)
    for i, (name, y) in enumerate(curves.items()):
        ax.plot(x[name] if isinstance(x, Mapping) else x, y, STYLES[i % 5], color=PALETTE[i % 8], label=name)
    if len(curves) > 1:
        ax.legend()
    return fig


def show_lines(x, curves: Mapping, title="", xlabel="", ylabel="", *, alt: str, **axes) -> None:
    """Show `lines`, with its alternative text."""
    show(lines(x, curves, title, xlabel, ylabel, **axes), alt)


def clouds(sets: Mapping, title="", limit=1.2, **axes):
    """A figure of point sets (n 2) in the plane, one panel each, all to the same scale."""
    fig, grid = figure(title, columns=len(sets), width=min(6.4, 2.2 * len(sets)), height=2.5, **axes)
    for i, (ax, (name, points)) in enumerate(zip(np.atleast_1d(grid), sets.items(), strict=True)):
        ax.scatter(*np.asarray(points).T, s=3, color=PALETTE[i % 8], alpha=0.5, linewidths=0)
        ax.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal")
        ax.set_title(name, fontsize=9.5)
    return fig
