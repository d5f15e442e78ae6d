"""Explorers: a plotting function with a control for each of its arguments.

A control is a slider, a choice, a patch of an image, a sentence that is typed, or a file.  What is
plotted is a figure, or a clip that plays.
"""

import base64
import html
import io
import re
import sys
import textwrap
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import traitlets

from course_lib.classroom.bridge import Linked, module
from course_lib.classroom.clips import ClipView
from course_lib.classroom.figures import Array, Figure, image_html, webp
from course_lib.media import to_images

KEPT_PICTURES = 64
KEPT_FILES = 4
MAX_FILE_BYTES = 20_000_000
PART_BYTES = 1_000_000  # of one message: Jupyter's server closes the connection at 10 MiB
BOARD_PIXELS = 320  # CSS pixels of the longer side of an image to click; half more for many patches
PATCH_PIXELS = 24  # CSS pixels that a patch should have
MAX_SENTENCE = 200  # characters that can be typed
MAX_PNG_BYTES = 40_000  # of an image to click, above which it is sent as JPEG


class Control:
    """What moves one argument of a plot.

    The page sends a value; `decode` turns it into one that can be a key, and `argument` turns this
    into what the plot receives.
    """

    def argument(self, value: Any) -> Any:
        return value


@dataclass(frozen=True)
class Slider(Control):
    """A number between low and high, in steps."""

    low: int | float
    high: int | float
    value: int | float
    step: int | float
    label: str | None = None

    def decode(self, sent: Any) -> int | float:
        """Put what the page sent on the grid of steps; it is an int when every bound is one."""
        steps = round((float(sent) - self.low) / self.step)
        value = min(max(self.low + steps * self.step, self.low), self.high)
        whole = all(isinstance(v, int) for v in (self.low, self.high, self.step))
        return int(value) if whole else float(f"{value:.12g}")

    def describe(self) -> dict:
        return {
            "kind": "slider",
            "low": self.low,
            "high": self.high,
            "step": self.step,
            "value": self.value,
        }

    def words(self, value: Any) -> str:
        return f"{value:g}" if isinstance(value, float) else str(value)

    def range_words(self) -> str:
        return f"{self.words(self.low)} to {self.words(self.high)}"


@dataclass(frozen=True)
class Choices(Control):
    """One of a list of values; the page knows them by their number."""

    values: tuple
    label: str | None = None

    @property
    def value(self) -> Any:
        return self.values[0]

    def decode(self, sent: Any) -> Any:
        return self.values[min(max(int(sent), 0), len(self.values) - 1)]

    def describe(self) -> dict:
        return {"kind": "choice", "options": [self.words(v) for v in self.values], "value": 0}

    def words(self, value: Any) -> str:
        return str(value)

    def range_words(self) -> str:
        return " or ".join(map(str, self.values))


@dataclass(frozen=True)
class Patches(Control):
    """One patch, (row, column), of an image that is divided into rows and columns.

    picture: the address of an image, all of it, as data.  shape: its height and width as shown, in
    CSS pixels.
    """

    rows: int
    columns: int
    value: tuple[int, int]
    picture: str
    shape: tuple[int, int]
    label: str | None = None

    def decode(self, sent: Any) -> tuple[int, int]:
        row, column = sent
        row = min(max(int(row), 0), self.rows - 1)
        column = min(max(int(column), 0), self.columns - 1)
        return row, column

    def describe(self) -> dict:
        return {
            "kind": "patches",
            "value": self.value,
            "rows": self.rows,
            "columns": self.columns,
            "picture": self.picture,
            "shape": self.shape,
        }

    def words(self, value: Any) -> str:
        return f"row {value[0]}, column {value[1]}"

    def range_words(self) -> str:
        return f"{self.rows} rows and {self.columns} columns"


class Unreadable(ValueError):
    """What a student typed is nothing that the plot understands; the words are for the student."""


@dataclass(frozen=True)
class Typed(Control):
    """A line of text, as `read` understands it."""

    value: str
    read: Callable
    label: str | None = None

    def decode(self, sent: Any) -> str:
        return " ".join(str(sent).split())[:MAX_SENTENCE]

    def argument(self, value: Any) -> Any:
        try:
            return self.read(value)
        except ValueError as error:
            raise Unreadable(str(error)) from error

    def describe(self) -> dict:
        return {"kind": "sentence", "value": self.value, "longest": MAX_SENTENCE}

    def words(self, value: Any) -> str:
        return f"“{value}”"

    def range_words(self) -> str:
        return "whatever you type"


class Upload(Control):
    """A file of the student's own, as `read` understands it.

    The page knows it by a number, and the example by 0.
    """

    value = 0

    def __init__(self, read: Callable, example: Any, label: str, accept: str):
        self.read = read
        self.example = example
        self.label = label
        self.accept = accept
        self.files: OrderedDict[int, tuple[str, Any]] = OrderedDict()  # the latest few, by number
        self.taken = 0
        self.transfer = ("", bytearray())  # the name of the current one, and the bytes so far

    def decode(self, sent: Any) -> int:
        return int(sent)

    def argument(self, value: Any) -> Any:
        if value and value not in self.files:
            raise LookupError("this file is no longer here: choose it again")
        return self.files[value][1] if value else self.example

    def describe(self) -> dict:
        limits = {"largest": MAX_FILE_BYTES, "part": PART_BYTES}
        return {"kind": "file", "value": 0, "start": self.words(0), "accept": self.accept, **limits}

    def words(self, value: Any) -> str:
        return self.files[value][0] if value in self.files else "the example"

    def range_words(self) -> str:
        return "the example or a file that you choose"

    def take(self, message: dict) -> dict:
        """Take the next part of a file.

        Returns {"got": bytes so far}; at the end {"value": its number} or {"error": one line}.
        """
        if message["start"] == 0:
            self.transfer = (message["transfer"], bytearray())
        name, data = self.transfer
        if name != message["transfer"] or len(data) != message["start"]:
            return {"error": "A part of it was lost on the way. Choose it again."}
        data += message.get("data", b"")
        if max(len(data), message["size"]) > MAX_FILE_BYTES:
            return {"error": f"It is larger than {MAX_FILE_BYTES // 1_000_000} MB."}
        if len(data) < message["size"]:
            return {"got": len(data)}
        self.transfer = ("", bytearray())
        try:
            value = self.read(bytes(data))
        except Exception as error:  # a damaged file can break any reader
            return {"error": _line(error)}
        self.taken += 1
        self.files[self.taken] = (message["name"], value)
        while len(self.files) > KEPT_FILES:
            self.files.popitem(last=False)
        return {"value": self.taken}


Number = int | float


def slider(
    low: Number,
    high: Number,
    value: Number | None = None,
    *,
    step: Number | None = None,
    label: str | None = None,
) -> Slider:
    """Make a slider from low to high that starts at value (low if not given).

    step: 1 when low, high and value are ints, else a hundredth of the range.
    Raises ValueError when low >= high, the value is outside, or the step is not positive.
    """
    value = low if value is None else value
    whole = all(isinstance(v, int) for v in (low, high, value))
    if step is None:
        step = 1 if whole else (high - low) / 100
    if not low < high:
        raise ValueError(f"expected low < high, got {low} and {high}")
    if not low <= value <= high:
        raise ValueError(f"expected a value between {low} and {high}, got {value}")
    if not step > 0:
        raise ValueError(f"expected a positive step, got {step}")
    return Slider(low, high, value, step, label)


def choices(values: Iterable, *, label: str | None = None) -> Choices:
    """Make a list of values to choose from, the first one at the start; a bare list does too."""
    values = tuple(values)
    if not values:
        raise ValueError("expected at least one value to choose from, got none")
    return Choices(values, label)


def patches(
    image: Array,
    rows: int,
    columns: int,
    *,
    value: tuple[int, int] | None = None,
    label: str | None = None,
) -> Patches:
    """Divide an image into rows x columns patches; a click or the arrow keys choose one.

    image: (h w 3) or (h w) uint8, or (3 h w) or (1 h w) float in [-1, 1]; tensor or array.
    value: the patch at the start, (row, column) counted from 0, by default the middle one.  The
    plot receives such a pair.  Raises ValueError for other images, no rows or columns, and a value
    outside.
    """
    if not (isinstance(rows, int) and isinstance(columns, int) and min(rows, columns) >= 1):
        raise ValueError(f"expected at least one row and one column, got {rows} and {columns}")
    row, column = value if value is not None else (rows // 2, columns // 2)
    if not (0 <= row < rows and 0 <= column < columns):
        raise ValueError(
            f"expected a patch within {rows} rows and {columns} columns, from 0; got"
            f" {(row, column)}"
        )
    pixels = to_images(np.asarray(image)[None] if not hasattr(image, "ndim") else image[None])[0]
    longest = max(BOARD_PIXELS, min(PATCH_PIXELS * max(rows, columns), BOARD_PIXELS * 3 // 2))
    height, width = pixels.shape[:2]
    side = max(height, width)
    shape = (max(1, round(longest * height / side)), max(1, round(longest * width / side)))
    return Patches(
        rows=rows,
        columns=columns,
        value=(int(row), int(column)),
        picture=_address(pixels, longest),
        shape=shape,
        label=label,
    )


def sentence(value: str, read: Callable = str, *, label: str | None = None) -> Typed:
    """Let the student type a line: the plot receives `read(the line)`; at the start it is `value`.

    The words of a ValueError of `read` are shown as they are, in place of the figure: they may tell
    the student what to type instead.  Raises ValueError where `read` refuses the start.
    """
    read(value)
    return Typed(value, read, label)


def upload(
    read: Callable, example: Any, label: str = "your photo", accept: str = "image/*"
) -> Upload:
    """Let the student choose a file: the plot receives `read(its bytes)`, before that `example`.

    accept: what the file dialogue offers ("image/*", "video/*", ".npz").  A file may have 20 MB.
    An exception of `read` is shown as one line, and what was there before stays.  No file is
    written into the notebook.
    """
    return Upload(read, example, label, accept)


def explore(plot: Callable, *, alt: str | Callable | None = None, **controls: Any) -> None:
    """Show `plot(**values)` under one control per keyword, redrawn when a control moves.

    plot returns a matplotlib Figure, or a `clip_view`.  controls: `t=slider(0, 999, 250,
    label="step t")`, a list of choices, a bool, `patches(...)`, `sentence(...)` or `upload(...)`.
    alt: the figure's alternative text, fixed or
    computed from what plot receives, by default the figure's title; the values are always added.
    An exception in plot is shown as one line.
    """
    Explorer(plot, {name: _control(name, c) for name, c in controls.items()}, alt).show()


class Explorer(Linked):
    """A figure with controls, drawn for the values the page asks for; the last ones are kept."""

    _esm = traitlets.Unicode(module("explore")).tag(sync=True)

    def __init__(self, plot: Callable, controls: dict, alt: str | Callable | None = None):
        self.plot = plot
        self.controls = controls
        self.alt = alt
        self.pictures: OrderedDict[tuple, str] = OrderedDict()
        described = [
            {"name": name, "label": _label(name, control), **control.describe()}
            for name, control in controls.items()
        ]
        super().__init__({"controls": described})

    def answer(self, message: dict) -> dict | None:
        if message.get("type") == "hello":
            return {"type": "welcome"}
        if message.get("type") == "file":
            taken = self.controls[message["control"]].take(message)
            return {"type": "file", "transfer": message["transfer"], **taken}
        if message.get("type") == "draw":
            sent = message["values"]
            values = {name: control.decode(sent[name]) for name, control in self.controls.items()}
            return {"type": "picture", "html": self.picture(values)}
        return None

    def picture(self, values: dict) -> str:
        """Return the HTML of the figure for these values, or one line on why there is none."""
        asked = tuple(values.items())
        if asked not in self.pictures:
            self.pictures[asked] = self._draw(values)
        self.pictures.move_to_end(asked)
        while len(self.pictures) > KEPT_PICTURES:
            self.pictures.popitem(last=False)
        return self.pictures[asked]

    def _draw(self, values: dict) -> str:
        try:
            given = {name: self.controls[name].argument(value) for name, value in values.items()}
            fig = self.plot(**given)
            if not (isinstance(fig, ClipView) or hasattr(fig, "savefig")):
                raise TypeError(f"plot: expected a matplotlib Figure, got {type(fig).__name__}")
            start = self.alt(**given) if callable(self.alt) else self.alt or _title(fig)
            words = f"{start.rstrip('.')}. {self._values_words(values)}." if values else start
            if isinstance(fig, ClipView):
                return fig.html(words)
            picture = image_html(webp(fig), words)
        except Unreadable as error:
            return f'<p role="alert">{html.escape(str(error))}</p>'
        except Exception as error:  # a student's function may fail in any way
            line = html.escape(_line(error))
            return f'<p role="alert" data-error="1">This picture could not be drawn. {line}</p>'
        # a figure made by pyplot would be shown again after the cell
        if "matplotlib.pyplot" in sys.modules:
            sys.modules["matplotlib.pyplot"].close(fig)
        return picture

    def _values_words(self, values: dict) -> str:
        return ", ".join(f"{_label(n, c)} = {c.words(values[n])}" for n, c in self.controls.items())

    def first(self) -> dict:
        return {name: control.value for name, control in self.controls.items()}

    def caption(self) -> str:
        return f"Explorer: {self._values_words(self.first())}. Run this cell to move the controls."

    def fallback(self) -> str:
        ranges = "; ".join(
            f"{_label(n, c)}: {c.words(c.value)} (of {c.range_words()})"
            for n, c in self.controls.items()
        )
        note = f"<p><em>Run this cell to move the controls.</em> {html.escape(ranges)}</p>"
        return f"{self.picture(self.first())}\n{note}"


def _control(name: str, given: Any) -> Control:
    if isinstance(given, Control):
        return given
    if isinstance(given, bool):
        return choices([given, not given])
    if isinstance(given, list | tuple):
        return choices(given)
    raise ValueError(
        f"expected slider(...), patches(...), sentence(...), upload(...), choices or a bool for"
        f" {name}, got {given!r}"
    )


def _label(name: str, control: Control) -> str:
    return control.label or name.replace("_", " ")


def _line(error: Exception) -> str:
    """Shorten an exception to one line."""
    return textwrap.shorten(f"{type(error).__name__}: {error}", 200)


def _address(pixels: np.ndarray, longest: int) -> str:
    """Return an image (h w 3) uint8 as the address of its own data.

    A small one is enlarged without blurring, a large one made smaller, and one that PNG compresses
    badly is JPEG.
    """
    from PIL import Image

    times = max(1, longest // max(pixels.shape[:2]))
    image = Image.fromarray(pixels.repeat(times, axis=0).repeat(times, axis=1))
    image.thumbnail((2 * longest, 2 * longest))
    kind = "png"
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    if file.tell() > MAX_PNG_BYTES:
        kind = "jpeg"
        file = io.BytesIO()
        image.save(file, "JPEG", quality=90)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode('ascii')}"


def _title(fig: Figure | ClipView) -> str:
    """Return the figure's title, or those of its axes, without line breaks and maths marks."""
    if isinstance(fig, ClipView):
        return fig.title or "A clip"
    of_axes = [ax.get_title(loc) for ax in fig.axes for loc in ("left", "center")]
    title = fig.get_suptitle() or "; ".join(t for t in of_axes if t)
    return re.sub(r"[$\\{}]", "", " ".join(title.split())) or "A figure"
