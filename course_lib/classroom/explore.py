"""Explorers: a plotting function with a control for each of its arguments: a slider, a choice, a
patch, a file.
"""

import base64
import html
import io
import re
import sys
import textwrap
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import traitlets

from course_lib.classroom.bridge import Linked, module
from course_lib.classroom.figures import image_html, png, to_images

KEPT_PICTURES = 64
KEPT_FILES = 4
LARGEST_FILE = 20_000_000  # bytes
FILE_PART = 1_000_000  # bytes in one message: Jupyter's server closes the connection at 10 MiB
# CSS pixels of the longer side of a picture to click, or up to half more for many patches
BOARD = 320


class Control:
    """What moves one argument of a plot.

    The page sends a value, `decode` makes of it one that can be a key, and `argument` what the plot
    receives.
    """

    def argument(self, value):
        return value


@dataclass(frozen=True)
class Slider(Control):
    """A number between low and high, in steps."""

    low: int | float
    high: int | float
    value: int | float
    step: int | float
    label: str | None = None

    def decode(self, sent) -> int | float:
        """The value the page sent, on the grid of steps; an int when every bound is one."""
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

    def words(self, value) -> str:
        return f"{value:g}" if isinstance(value, float) else str(value)

    def range_words(self) -> str:
        return f"{self.words(self.low)} to {self.words(self.high)}"


@dataclass(frozen=True)
class Choices(Control):
    """One of a list of values; the page knows them by their number."""

    values: tuple
    label: str | None = None

    @property
    def value(self):
        return self.values[0]

    def decode(self, sent):
        return self.values[min(max(int(sent), 0), len(self.values) - 1)]

    def describe(self) -> dict:
        return {"kind": "choice", "options": [self.words(v) for v in self.values], "value": 0}

    def words(self, value) -> str:
        return str(value)

    def range_words(self) -> str:
        return " or ".join(map(str, self.values))


@dataclass(frozen=True)
class Patches(Control):
    """One cell, (row, column), of a picture that is divided into rows and columns."""

    rows: int
    columns: int
    value: tuple[int, int]
    picture: str  # the address of an image: all of it, as data
    shape: tuple[int, int]  # height and width as shown, in CSS pixels
    label: str | None = None

    def decode(self, sent) -> tuple[int, int]:
        row, column = (
            min(max(int(v), 0), most - 1)
            for v, most in zip(sent, (self.rows, self.columns), strict=True)
        )
        return row, column

    def describe(self) -> dict:
        known = {
            "rows": self.rows,
            "columns": self.columns,
            "picture": self.picture,
            "shape": self.shape,
        }
        return {"kind": "patches", "value": self.value, **known}

    def words(self, value) -> str:
        return f"row {value[0]}, column {value[1]}"

    def range_words(self) -> str:
        return f"{self.rows} rows and {self.columns} columns"


class Upload(Control):
    """A file of the student's own, as `read` understands it.  The page knows it by a number, the
    example by 0.
    """

    value = 0

    def __init__(self, read: Callable, example, label: str, accept: str):
        self.read, self.example, self.label, self.accept = read, example, label, accept
        self.files = OrderedDict()  # number -> (name, value), the latest few
        self.taken = 0
        self.coming = ("", bytearray())  # the transfer under way, and what has come of it

    def decode(self, sent) -> int:
        return int(sent)

    def argument(self, value):
        if value and value not in self.files:
            raise LookupError("this file is no longer here: choose it again")
        return self.files[value][1] if value else self.example

    def describe(self) -> dict:
        limits = {"largest": LARGEST_FILE, "part": FILE_PART}
        return {"kind": "file", "value": 0, "start": self.words(0), "accept": self.accept, **limits}

    def words(self, value) -> str:
        return self.files[value][0] if value in self.files else "the example"

    def range_words(self) -> str:
        return "the example or a file that you choose"

    def take(self, message: dict) -> dict:
        """Take the next part of a file: {got: bytes}, and at the end {value: its number} or {error:
        one line}.
        """
        if message["start"] == 0:
            self.coming = (message["transfer"], bytearray())
        transfer, data = self.coming
        if transfer != message["transfer"] or len(data) != message["start"]:
            return {"error": "A part of it was lost on the way. Choose it again."}
        data += message.get("data", b"")
        if max(len(data), message["size"]) > LARGEST_FILE:
            return {"error": f"It is larger than {LARGEST_FILE // 1_000_000} MB."}
        if len(data) < message["size"]:
            return {"got": len(data)}
        self.coming = ("", bytearray())
        try:
            value = self.read(bytes(data))
        except Exception as error:  # what a person uploads may break any reader
            return {"error": _line(error)}
        self.taken += 1
        self.files[self.taken] = (message["name"], value)
        while len(self.files) > KEPT_FILES:
            self.files.popitem(last=False)
        return {"value": self.taken}


def slider(low, high, value=None, *, step=None, label=None) -> Slider:
    """A slider from low to high that starts at value (low if not given).

    step: 1 when low, high and value are ints, else a hundredth of the range.
    Raises ValueError when low >= high, the value lies outside, or the step is not positive.
    """
    value = low if value is None else value
    whole = all(isinstance(v, int) for v in (low, high, value))
    step = step if step is not None else (1 if whole else (high - low) / 100)
    if not low < high:
        raise ValueError(f"expected low < high, got {low} and {high}")
    if not low <= value <= high:
        raise ValueError(f"expected a value between {low} and {high}, got {value}")
    if not step > 0:
        raise ValueError(f"expected a positive step, got {step}")
    return Slider(low, high, value, step, label)


def choices(values, *, label=None) -> Choices:
    """A list of values to choose from, the first one at the start; a bare list does as well."""
    values = tuple(values)
    if not values:
        raise ValueError("expected at least one value to choose from, got none")
    return Choices(values, label)


def patches(picture, rows: int, columns: int, *, value=None, label=None) -> Patches:
    """A picture divided into rows x columns patches, one of which is chosen: by a click or the
    arrow keys.

    picture: (h w 3) or (h w) uint8, or (3 h w) or (1 h w) float in [-1, 1]; tensor or array.
    value: the patch at the start, (row, column) counted from 0, by default the middle one.  The
    plot receives such a pair. Raises ValueError for other pictures, no rows or columns, and a value
    outside.
    """
    if rows < 1 or columns < 1:
        raise ValueError(f"expected at least one row and one column, got {rows} and {columns}")
    row, column = value if value is not None else (rows // 2, columns // 2)
    if not (0 <= row < rows and 0 <= column < columns):
        raise ValueError(
            f"expected a patch within {rows} rows and {columns} columns, from 0; got"
            f" {(row, column)}"
        )
    pixels = to_images(picture[None])[0]
    longest = max(BOARD, min(24 * max(rows, columns), BOARD * 3 // 2))
    height, width = (
        max(1, round(longest * side / max(pixels.shape[:2]))) for side in pixels.shape[:2]
    )
    return Patches(
        rows, columns, (int(row), int(column)), _address(pixels, longest), (height, width), label
    )


def upload(read: Callable, example, label="your photo", accept="image/*") -> Upload:
    """A file that the student chooses: the plot receives `read(its bytes)`, and before that
    `example`.

    accept: what the file dialogue offers ("image/*", "video/*", ".npz"). A file may have 20 MB.
    An exception of `read` is shown as one line, and what was there before stays.  No file is
    written into the notebook.
    """
    return Upload(read, example, label, accept)


def explore(plot: Callable, *, alt: str | Callable | None = None, **controls) -> None:
    """Show `plot(**values)` under one control per keyword, redrawn when a control moves.

    plot returns a matplotlib Figure.  controls: `t=slider(0, 999, 250, label="step t")`, a list of
    choices, a bool, `patches(...)` or `upload(...)`.  alt: the picture's alternative text, fixed or
    computed from what plot receives, by default the figure's title; the values are always added.
    An exception in plot is shown as one line.
    """
    Explorer(plot, {name: _control(name, c) for name, c in controls.items()}, alt).show()


class Explorer(Linked):
    """Draws a picture for the values the page asks for, and keeps the last ones drawn."""

    _esm = traitlets.Unicode(module("explore")).tag(sync=True)

    def __init__(self, plot: Callable, controls: dict, alt: str | Callable | None = None):
        self.plot, self.controls, self.alt = plot, controls, alt
        self.pictures = OrderedDict()
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
        """HTML of the picture for these values, or one line that says why there is none."""
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
            if not hasattr(fig, "savefig"):
                raise TypeError(f"plot should return a matplotlib Figure, got {type(fig).__name__}")
            start = self.alt(**given) if callable(self.alt) else self.alt or _title(fig)
            words = f"{start.rstrip('.')}. {self._values_words(values)}." if values else start
            picture = image_html(png(fig), words)
        except Exception as error:  # a student's function may fail in any way: the notebook goes on
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


def _control(name: str, given) -> Control:
    if isinstance(given, Control):
        return given
    if isinstance(given, bool):
        return choices([given, not given])
    if isinstance(given, list | tuple):
        return choices(given)
    raise ValueError(
        f"expected slider(...), patches(...), upload(...), choices or a bool for {name}, got"
        f" {given!r}"
    )


def _label(name: str, control: Control) -> str:
    return control.label or name.replace("_", " ")


def _line(error: Exception) -> str:
    """An exception in one line."""
    return textwrap.shorten(f"{type(error).__name__}: {error}", 200)


def _address(pixels, longest: int) -> str:
    """A picture (h w 3) uint8 as the address of its own data: a small one enlarged without
    blurring, a large one made smaller, and one that PNG keeps badly as JPEG.
    """
    from PIL import Image

    times = max(1, longest // max(pixels.shape[:2]))
    picture = Image.fromarray(pixels.repeat(times, axis=0).repeat(times, axis=1))
    picture.thumbnail((2 * longest, 2 * longest))
    file, kind = io.BytesIO(), "png"
    picture.save(file, "PNG", optimize=True)
    if file.tell() > 40_000:
        file, kind = io.BytesIO(), "jpeg"
        picture.save(file, "JPEG", quality=90)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode('ascii')}"


def _title(fig) -> str:
    """The figure's own title, or the titles of its axes, without line breaks and maths marks."""
    of_axes = [ax.get_title(loc) for ax in fig.axes for loc in ("left", "center")]
    title = fig.get_suptitle() or "; ".join(t for t in of_axes if t)
    return re.sub(r"[$\\{}]", "", " ".join(title.split())) or "A figure"
