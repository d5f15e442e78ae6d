"""How a widget of the course reaches the page: readable HTML with a module inside, and a line to
the kernel.

A widget's output is `text/html` only: plain readable content for a page without scripts, and a
module that puts the working version in its place.  The anywidget model is not displayed; while its
kernel lives, the module finds it by its key and saves answers or asks for figures.  (An output
that also offered a widget view would show "model not found" in a notebook reopened the next day,
and nothing in an offline HTML page.)
"""

import html
import json
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anywidget
import traitlets
from IPython.display import display

ASSETS = Path(__file__).parent / "assets"


def module(name: str) -> str:
    """Return the source of an ES module: the link to the kernel, then `assets/<name>.js`."""
    return "\n".join((ASSETS / f"{part}.js").read_text(encoding="utf-8") for part in ("link", name))


class Linked(anywidget.AnyWidget):
    """An anywidget whose display also works without a kernel.

    `payload` is what the module draws from; a subclass adds `fallback()` (HTML for a page without
    scripts) and `caption()` (one line of plain text), and overrides `answer(message)`.
    """

    key = traitlets.Unicode().tag(sync=True)
    payload = traitlets.Dict().tag(sync=True)

    def __init__(self, payload: dict):
        super().__init__(payload=payload, key=uuid.uuid4().hex)
        self.on_msg(lambda _widget, message, buffers: self.receive(message, buffers))

    def receive(self, message: dict, buffers: Sequence = ()) -> None:
        """Answer a message of the page: {"type": "hello"} when it looks for the kernel, or another.

        Bytes that came with it are added to it as `data`.
        """
        reply = self.answer({**message, "data": b"".join(buffers)} if buffers else message)
        if reply is not None:
            self.send(reply)

    def answer(self, message: dict) -> dict | None:
        raise NotImplementedError

    def fallback(self) -> str:
        raise NotImplementedError

    def caption(self) -> str:
        raise NotImplementedError

    def page(self) -> str:
        """Return the HTML of the output: readable on its own, interactive where scripts run."""
        start = f"startAll({script_json(self.key)}, {script_json(self.payload)});"
        return (
            f'<div data-course="{html.escape(self.key)}">\n{self.fallback()}\n</div>\n'
            f'<script type="module">\n{self._esm}\n{start}\n</script>'
        )

    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        return {"text/plain": self.caption(), "text/html": self.page()}

    def show(self) -> None:
        """Display it in the running cell."""
        display(self._repr_mimebundle_(), raw=True)


def script_json(value: Any) -> str:
    """Write JSON that is safe inside a script element: no `<` can close it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
