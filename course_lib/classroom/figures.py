"""Figures in the house style, shown with alternative text."""

import base64
import html
import io
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from IPython.display import display
from torch import Tensor

from course_lib.classroom.layout import DENSITY, LINE_SPACING, Texts, break_titles, misfits
from course_lib.media import to_images

Figure = Any  # matplotlib's, which is imported only when something is drawn
Number = int | float
Array = np.ndarray | Tensor | Sequence

# Okabe and Ito's palette, which people with any common colour blindness can tell apart.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#000000", "#F0E442")
PAPER = "#fdfdfc"  # opaque, so that a figure reads the same in a light and in a dark theme
INK = "#2b2b2b"
WIDTH = 640  # of a full-width figure, in CSS pixels
LABEL_PIXELS = 210  # of the file, that a label beside a strip may be wide before it is broken
MIN_PIXELS = 480  # of the file, for a grid of images with a title
MAX_COLOUR_ERROR = 16  # of 255, where 256 colours are still faithful
MAX_LOSSLESS_BYTES = 40_000
QUALITY = 90  # of 100, of a picture that takes more

STYLE = {
    "figure.facecolor": PAPER,
    "axes.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "axes.edgecolor": "#8a8a8a",
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "text.color": INK,
    "xtick.color": "#5a5a5a",
    "ytick.color": "#5a5a5a",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e1",
    "grid.linewidth": 0.8,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "axes.labelsize": 9.5,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "font.size": 9.5,
    "figure.titlesize": 12,
    "figure.constrained_layout.h_pad": 0.1,
    "figure.constrained_layout.w_pad": 0.1,
}


def figure(
    title: str = "",
    xlabel: str = "",
    ylabel: str = "",
    *,
    rows: int = 1,
    columns: int = 1,
    width: int | float = 6.4,
    height: int | float = 3.4,
    **axes: Any,
) -> tuple[Figure, Any]:
    """Make a figure in the house style.

    width and height are in inches; `rows` and `columns` make a grid, whose axes share the labels.
    Further keywords go to every axes: `yscale="log"`, `xlim=(0, 1)`, ...  Returns (figure, axes),
    axes an array for a grid.  The figure belongs to no global state: it appears where it is shown,
    and only there.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_style()):
        fig = Figure(figsize=(width, height), layout="constrained")
        grid = fig.subplots(rows, columns, squeeze=False)
        for ax in grid.flat:
            ax.set(xlabel=xlabel, ylabel=ylabel, **axes)
        if rows * columns == 1:
            grid[0, 0].set_title(title)
            return fig, grid[0, 0]
        fig.suptitle(title, x=0.01, ha="left")
        if rows == 1:
            return fig, grid[0]
        return fig, (grid[:, 0] if columns == 1 else grid)


def show(fig: Figure, alt: str) -> None:
    """Show a figure with its alternative text: one sentence that says what it shows."""
    check_alt(alt)
    display({"text/html": image_html(webp(fig), alt), "text/plain": f"Figure: {alt}"}, raw=True)


def show_images(
    images: Array,
    titles: Sequence | None = None,
    columns: int | None = None,
    *,
    alt: str,
    title: str = "",
    cell: int | None = None,
) -> None:
    """Show images in a grid, small ones enlarged without blurring.

    images: (n h w 3) or (n h w) uint8, or (n 3 h w) or (n 1 h w) float in [-1, 1]; tensor or array.
    titles: one per image.  columns: images per row (up to six).  cell: width of an image in pixels.
    Raises ValueError for other shapes and values, or a number of titles that does not fit.
    """
    show(image_grid(images, titles, columns, title=title, cell=cell), alt)


def image_grid(
    images: Array,
    titles: Sequence | None = None,
    columns: int | None = None,
    *,
    title: str = "",
    cell: int | None = None,
) -> Figure:
    """Make the figure that `show_images` shows."""
    images = to_images(images)
    n = len(images)
    if titles is not None and len(titles) != n:
        raise ValueError(f"expected one title per image, {n}; got {len(titles)}")
    if columns is not None and not (isinstance(columns, int) and columns >= 1):
        raise ValueError(f"expected at least one column, got {columns}")
    columns = min(n, columns or 6)
    fig, _, _ = mosaic(images, columns, cell, title, titles=titles)
    return fig


def show_rows(
    rows: Mapping[str, Array],
    heads: Sequence[str] = (),
    *,
    alt: str,
    title: str = "",
    cell: int | None = None,
) -> None:
    """Show images in rows, each with a label in front; a short row is left empty at its end.

    rows: label -> (n h w 3) uint8 or (n 3 h w) float in [-1, 1], all of one size.  heads: a title
    for each column.  cell: width of an image in pixels.
    """
    show(row_grid(rows, heads, title=title, cell=cell), alt)


def row_grid(
    rows: Mapping[str, Array],
    heads: Sequence[str] = (),
    *,
    title: str = "",
    cell: int | None = None,
) -> Figure:
    """Make the figure that `show_rows` shows."""
    images = {label: to_images(row) for label, row in rows.items()}
    columns = max(len(row) for row in images.values())
    first = next(iter(images.values()))
    canvas = np.full((len(images), columns, *first.shape[1:]), _rgb(PAPER), np.uint8)
    for place, row in zip(canvas, images.values(), strict=True):
        place[: len(row)] = row
    flat = canvas.reshape(-1, *first.shape[1:])
    fig, _, _ = mosaic(flat, columns, cell, title, heads=heads, labels=list(images), gap=4)
    return fig


def webp(fig: Figure) -> bytes:
    """Encode a figure as WebP, without loss unless that takes more than `MAX_LOSSLESS_BYTES`.

    It has 256 colours where that is faithful.  Titles that are too long for their place are broken
    into lines.  With COURSE_STRICT=1, as in the build and in the tests, raises ValueError for a
    text that is cut off or touches another.
    """
    from PIL import Image

    _lay_out(fig)
    image = Image.fromarray(rgb_array(fig))
    palette = image.quantize(256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    fewer = palette.convert("RGB")
    error = np.abs(np.asarray(fewer, int) - np.asarray(image, int)).max()
    file = io.BytesIO()
    (fewer if error <= MAX_COLOUR_ERROR else image).save(file, "WEBP", lossless=True)
    if file.tell() > MAX_LOSSLESS_BYTES:
        file = io.BytesIO()
        image.save(file, "WEBP", quality=QUALITY)
    return file.getvalue()


def _lay_out(fig: Figure) -> None:
    import matplotlib

    with matplotlib.rc_context(_style()):
        break_titles(fig)
        if os.environ.get("COURSE_STRICT") == "1" and (problems := misfits(fig)):
            raise ValueError(f"expected texts that fit the figure, got {'; '.join(problems)}")


def rgb_array(fig: Figure) -> np.ndarray:
    """Draw a figure as an array (h w 3) uint8, in pixels of its file."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    with matplotlib.rc_context(_style()):
        fig.set_dpi(100 * DENSITY)
        canvas = FigureCanvasAgg(fig)
        canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def image_html(data: bytes, alt: str) -> str:
    """Return an image element that carries its data, a WebP file.

    It grows with the page: a figure of full width fills it, up to the pixels of the file.
    """
    from PIL import Image

    width = Image.open(io.BytesIO(data)).width
    source = "data:image/webp;base64," + base64.b64encode(data).decode("ascii")
    style = f"{size_style(width)};border-radius:4px"
    return f'<img src="{source}" alt="{html.escape(alt)}" style="{style}">'


def size_style(width: int) -> str:
    """Return the CSS of something `width` pixels of the file wide, for pages of any width."""
    css = round(width / DENSITY)
    share = min(100.0, 100 * css / WIDTH)
    return (
        f"width:{share:.4g}%;min-width:min(100%,{css}px);max-width:min(100%,{width}px);height:auto"
    )


def mosaic(
    images: np.ndarray,
    columns: int,
    cell: int | None = None,
    title: str = "",
    *,
    titles: Sequence | None = None,
    heads: Sequence[str] = (),
    labels: Sequence | None = None,
    gap: int = 6,
    paper: str = PAPER,
) -> tuple[Figure, list[tuple[int, int]], int]:
    """Put images (n h w 3) and texts into one figure; lengths are pixels of its file.

    Every text is measured: a long one is broken into lines, and a word too long for its place makes
    the texts of its kind smaller.  cell: CSS pixels that an image may be wide.  Returns the figure,
    the upper left corner (y, x) of every image, and how many times it is enlarged.
    """
    import matplotlib
    from matplotlib.figure import Figure

    n, h, w, _ = images.shape
    rows = math.ceil(n / columns)
    beside = Texts(labels, LABEL_PIXELS, 7.5)
    left = beside.width + 21 if labels is not None else 0
    room = (WIDTH * DENSITY - left) // columns - gap
    scale = int(max(1, min(room, (cell or 112) * DENSITY) // w))
    tall = h * scale
    wide = w * scale
    captions = Texts(titles, wide, 7.5)
    across = max(int(left + columns * (wide + gap) + gap), MIN_PIXELS if title else 0)
    above = Texts([title] if title else None, 0.96 * (across - 2 * gap), 11)
    above_columns = Texts(heads or None, wide, 7.5)
    top = (above.height + 12 if title else 0) + (above_columns.height + 6 if heads else 0)
    caption = captions.height + 6 if titles is not None else 0
    down = top + rows * (tall + caption + gap) + gap
    canvas = np.full((down, across, 3), _rgb(PAPER), np.uint8)
    canvas[top:, left : left + columns * (wide + gap) + gap] = _rgb(paper)
    corners = []
    for i, image in enumerate(images):
        y = top + gap + caption + i // columns * (tall + caption + gap)
        x = left + gap + i % columns * (wide + gap)
        canvas[y : y + tall, x : x + wide] = image.repeat(scale, axis=0).repeat(scale, axis=1)
        corners.append((y, x))

    with matplotlib.rc_context(_style()):
        fig = Figure(figsize=(across / (100 * DENSITY), down / (100 * DENSITY)))
        ax = fig.add_axes((0, 0, 1, 1))
        ax.set_axis_off()
        ax.imshow(canvas, interpolation="nearest", extent=(0, across, down, 0), aspect="auto")
        for words, (y, x) in zip(captions.broken, corners, strict=False):
            _write(ax, x + wide / 2, y - 4, words, captions.size, ha="center", va="bottom")
        for words, (_, x) in zip(above_columns.broken, corners, strict=False):
            _write(ax, x + wide / 2, top - 4, words, above_columns.size, ha="center", va="bottom")
        for row, words in enumerate(beside.broken):
            middle = corners[row * columns][0] + tall / 2
            _write(ax, left - 9, middle, words, beside.size, ha="right", va="center")
        if title:
            _write(ax, gap, 6, above.broken[0], above.size, ha="left", va="top")
    return fig, corners, scale


def _write(ax: Any, x: Number, y: Number, words: str, size: Number, **place: str) -> None:
    ax.text(x, y, words, fontsize=size, linespacing=LINE_SPACING, parse_math=False, **place)


def _rgb(colour: str) -> list[int]:
    return [int(colour[i : i + 2], 16) for i in (1, 3, 5)]


def _style() -> dict:
    from cycler import cycler

    return {**STYLE, "axes.prop_cycle": cycler(color=PALETTE)}


def check_alt(alt: str) -> None:
    """Raise ValueError unless there is an alternative text."""
    if not isinstance(alt, str) or not alt.strip():
        raise ValueError(f"expected alt: a sentence that says what the picture shows; got {alt!r}")
