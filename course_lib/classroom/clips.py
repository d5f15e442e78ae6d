"""Clips in a notebook: they play and loop, and their frames are below as film strips."""

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from IPython.display import display

from course_lib.classroom.figures import (
    INK,
    Array,
    Figure,
    check_alt,
    image_html,
    mosaic,
    rgb_array,
    size_style,
    webp,
)
from course_lib.media import to_images, write_clip

MAX_COLUMNS = 6  # of clips that play beside each other
CELL_PIXELS = 150  # CSS pixels that a playing clip may be wide
SMALL_CELL_PIXELS = 98  # where there are more than three
CRF = 28  # of a playing clip: a notebook holds many
CONTROL_PIXELS = 60  # of the file, below the clips: the browser's controls hide none of them
# Not where the reader asked for less motion; there, the controls start it.
PLAY = "matchMedia('(prefers-reduced-motion: reduce)').matches||this.play()"


def show_clip(
    clip: Array,
    *,
    alt: str,
    frames: int = 7,
    labels: Sequence | None = None,
    title: str = "",
    fps: int = 8,
) -> None:
    """Show a clip that plays in a loop, and below it the film strip.

    The strip has `frames` of its frames, evenly spaced, the first and the last among them; it is
    what is left where clips cannot play.
    clip: (t h w 3) uint8 or (t 3 h w) float in [-1, 1]; or several clips of one shape, stacked on
    a first axis or in a list, one strip each.  labels: a line for each clip.  fps: frames per
    second.  A clip of one frame is shown as a strip only.
    """
    check_alt(alt)
    view = clip_view(clip, frames=frames, labels=labels, title=title, fps=fps)
    display({"text/html": view.html(alt), "text/plain": f"Clip: {alt}"}, raw=True)


@dataclass(frozen=True)
class ClipView:
    """Clips (t h w 3) uint8 that play beside each other, and the film strip below them."""

    clips: list[np.ndarray]
    strip: Figure
    title: str
    labels: Sequence | None
    fps: int

    def html(self, alt: str) -> str:
        """Return the elements of the page; alt is the alternative text of both."""
        strip = image_html(webp(self.strip), alt)
        moves = len(self.clips[0]) > 1
        player = clip_html(self.clips, self.labels, alt, self.fps) if moves else ""
        return f"<div data-picture>{player}{strip}</div>"


def clip_view(
    clip: Array,
    *,
    frames: int = 7,
    labels: Sequence | None = None,
    title: str = "",
    fps: int = 8,
) -> ClipView:
    """Make what `show_clip` shows; the plot of an explorer may return it in place of a figure."""
    strip = film_strips(clip, frames=frames, labels=labels, title=title)
    return ClipView(_same_shape(clip, labels), strip, title, labels, fps)


def film_strips(
    clip: Array, *, frames: int = 7, labels: Sequence | None = None, title: str = ""
) -> Figure:
    """Make the figure of the strips that `show_clip` shows."""
    strips = _same_shape(clip, labels)
    chosen = np.unique(np.linspace(0, len(strips[0]) - 1, frames).round().astype(int))
    images = np.concatenate([strip[chosen] for strip in strips])
    heads = [f"t\u00a0=\u00a0{t}" for t in chosen]
    fig, _, _ = mosaic(
        images, len(chosen), title=title, heads=heads, labels=labels, gap=3, paper=INK
    )
    return fig


def clip_html(clips: list[np.ndarray], labels: Sequence | None, alt: str, fps: int) -> str:
    """Return a video element that carries its data: clips (t h w 3) uint8 beside each other."""
    first = np.stack([clip[0] for clip in clips])
    columns = min(len(clips), MAX_COLUMNS)
    titles = None if labels is None or len(clips) == 1 else labels
    cell = CELL_PIXELS if len(clips) <= 3 else SMALL_CELL_PIXELS
    fig, corners, scale = mosaic(first, columns, cell, titles=titles)
    page = np.pad(rgb_array(fig), ((0, CONTROL_PIXELS), (0, 0), (0, 0)), mode="edge")
    movie = np.repeat(page[None], len(clips[0]), axis=0)
    for clip, (y, x) in zip(clips, corners, strict=True):
        large = clip.repeat(scale, axis=1).repeat(scale, axis=2)
        movie[:, y : y + large.shape[1], x : x + large.shape[2]] = large
    file = write_clip(movie, fps, CRF)
    source = "data:video/mp4;base64," + base64.b64encode(file).decode("ascii")
    style = f"display:block;margin-bottom:4px;border-radius:4px;{size_style(movie.shape[2])}"
    return (
        f'<video src="{source}" aria-label="{html.escape(alt)}" style="{style}" controls loop muted'
        f' playsinline onloadeddata="{PLAY}">The frames of the clip are below.</video>'
    )


def _same_shape(clip: Array, labels: Sequence | None) -> list[np.ndarray]:
    """Return the clips, each (t h w 3) uint8.  Raises ValueError for different shapes or labels."""
    clips = list(clip) if isinstance(clip, list | tuple) or clip.ndim == 5 else [clip]
    clips = [to_images(c) for c in clips]
    if len({c.shape for c in clips}) != 1:
        raise ValueError(f"expected clips of one shape, got {[c.shape for c in clips]}")
    if labels is not None and len(labels) != len(clips):
        raise ValueError(f"expected one label per clip, {len(clips)}; got {len(labels)}")
    return clips
