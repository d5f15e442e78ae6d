"""Explorers: a plotting function with a slider or a list of choices for each of its arguments."""

import html
import re
import sys
import textwrap
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import traitlets

from course_lib.classroom.bridge import Linked, module
from course_lib.classroom.figures import image_html, png

KEPT_PICTURES = 64


@dataclass(frozen=True)
class Slider:
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
        return {"kind": "slider", "low": self.low, "high": self.high, "step": self.step, "value": self.value}

    def words(self, value) -> str:
        return f"{value:g}" if isinstance(value, float) else str(value)

    def range_words(self) -> str:
        return f"{self.words(self.low)} to {self.words(self.high)}"


@dataclass(frozen=True)
class Choices:
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


def explore(plot: Callable, *, alt: str | Callable | None = None, **controls) -> None:
    """Show `plot(**values)` under one control per keyword, redrawn when a control moves.

    plot returns a matplotlib Figure.  controls: `t=slider(0, 999, 250, label="step t")`, a list of choices, or
    a bool.  alt: the picture's alternative text, fixed or computed from the values, by default the figure's
    title; the values are always added.  An exception in plot is shown as one line.
    """
    Explorer(plot, {name: _control(name, c) for name, c in controls.items()}, alt).show()


class Explorer(Linked):
    """Draws a picture for the values the page asks for, and keeps the last ones drawn."""

    _esm = traitlets.Unicode(module("explore")).tag(sync=True)

    def __init__(self, plot: Callable, controls: dict, alt: str | Callable | None = None):
        self.plot, self.controls, self.alt = plot, controls, alt
        self.pictures = OrderedDict()
        described = [
            {"name": name, "label": _label(name, control), **control.describe()} for name, control in controls.items()
        ]
        super().__init__({"controls": described})

    def answer(self, message: dict) -> dict | None:
        if message.get("type") == "hello":
            return {"type": "welcome"}
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
            fig = self.plot(**values)
            if not hasattr(fig, "savefig"):
                raise TypeError(f"plot should return a matplotlib Figure, got {type(fig).__name__}")
            picture = image_html(png(fig), self._alt_text(fig, values))
        except Exception as error:  # a student's function may fail in any way: the notebook goes on
            line = textwrap.shorten(f"{type(error).__name__}: {error}", 200)
            return f'<p role="alert" data-error="1">This picture could not be drawn. {html.escape(line)}</p>'
        if "matplotlib.pyplot" in sys.modules:  # a figure made by pyplot would be shown again after the cell
            sys.modules["matplotlib.pyplot"].close(fig)
        return picture

    def _alt_text(self, fig, values: dict) -> str:
        start = self.alt(**values) if callable(self.alt) else self.alt or _title(fig)
        return f"{start.rstrip('.')}. {self._values_words(values)}." if values else start

    def _values_words(self, values: dict) -> str:
        return ", ".join(f"{_label(n, c)} = {c.words(values[n])}" for n, c in self.controls.items())

    def first(self) -> dict:
        return {name: control.value for name, control in self.controls.items()}

    def caption(self) -> str:
        return f"Explorer: {self._values_words(self.first())}. Run this cell to move the controls."

    def fallback(self) -> str:
        ranges = "; ".join(
            f"{_label(n, c)}: {c.words(c.value)} (of {c.range_words()})" for n, c in self.controls.items()
        )
        note = f"<p><em>Run this cell to move the controls.</em> {html.escape(ranges)}</p>"
        return f"{self.picture(self.first())}\n{note}"


def _control(name: str, given) -> Slider | Choices:
    if isinstance(given, Slider | Choices):
        return given
    if isinstance(given, bool):
        return choices([given, not given])
    if isinstance(given, list | tuple):
        return choices(given)
    raise ValueError(f"expected slider(...), a list of choices or a bool for {name}, got {given!r}")


def _label(name: str, control: Slider | Choices) -> str:
    return control.label or name.replace("_", " ")


def _title(fig) -> str:
    """The figure's own title, or the titles of its axes, without line breaks and maths marks."""
    of_axes = [ax.get_title(loc) for ax in fig.axes for loc in ("left", "center")]
    title = fig.get_suptitle() or "; ".join(t for t in of_axes if t)
    return re.sub(r"[$\\{}]", "", " ".join(title.split())) or "A figure"
