"""A sign of life while something runs: a line with the seconds, and a bar where the end is known.

    with busy("Sampling 512 images"):
        samples = process.sample(model, noise)

    for batch in busy("Reading clips", batches):
        ...

Nothing appears in the first second, and nothing stays when it is over.  A notebook shows it below
the cell, a terminal in one line that is wiped; output into a file gets none of it.  In a notebook
every other cell that takes two seconds gets such a line of itself (`watch_cells`).
"""

import contextvars
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from html import escape
from typing import Any

__all__ = ["MARK", "Ticker", "bar", "busy", "watch_cells", "watched"]

PATIENCE_SECONDS = 1.0  # before anything appears
CELL_SECONDS = 2.0  # before a cell that says nothing is said to run
TICK_SECONDS = 0.5
MARK = {"course": "busy"}  # the metadata of such an output, by which a build leaves it out


class busy:
    """Show that `what` is going on, as a context or around the items of a loop.

    total: number of items, where `len(items)` does not say it.  An exception, Ctrl-C included,
    ends the display and passes through.
    """

    def __init__(self, what: str, items: Iterable = (), *, total: int | None = None):
        self.what, self.items = what, items
        self.total = len(items) if total is None and hasattr(items, "__len__") else total
        self.done = 0
        self.screen = _screen()

    def __enter__(self) -> "busy":
        watched.pause()
        self.start(PATIENCE_SECONDS)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        watched.resume()

    def start(self, patience: float) -> None:
        """Begin; something appears after so many seconds."""
        self.started = time.monotonic()
        self.ticker = Ticker(self._draw, first=patience)
        if self.screen is not None:
            self.ticker.start()

    def stop(self) -> None:
        """End, and leave nothing."""
        self.ticker.stop()
        if self.screen is not None:
            self.screen.wipe()

    def __iter__(self) -> Iterator[Any]:
        with self:
            for item in self.items:
                yield item
                self.done += 1

    def _draw(self) -> None:
        seconds = time.monotonic() - self.started
        share = self.done / self.total if self.total else None
        line = f"{self.what}: {seconds:.0f} s"
        if share:
            line += (
                f", {self.done:,} of {self.total:,}, about {seconds * (1 / share - 1):.0f} s left"
            )
        self.screen.show(line, share)


class Ticker:
    """Call a function twice a second in a thread of its own, until stopped.

    first: seconds until the first call.
    """

    def __init__(self, call: Callable[[], None], first: float = TICK_SECONDS):
        self.call, self.first = call, first
        self.ended = threading.Event()
        # A notebook knows by the context to which cell an output belongs.
        run = contextvars.copy_context().run
        self.thread = threading.Thread(target=run, args=(self._run,), daemon=True)

    def start(self) -> None:
        self.thread.start()

    def stop(self) -> None:
        """Stop, and wait until a call that has begun is over."""
        self.ended.set()
        if self.thread.is_alive():
            self.thread.join()

    def _run(self) -> None:
        wait = self.first
        while not self.ended.wait(wait):
            self.call()
            wait = TICK_SECONDS


class _Watched:
    """The running cell of a notebook: it shows its seconds while nothing else does."""

    def __init__(self) -> None:
        self.line: busy | None = None  # of the running cell, while it is not paused
        self.is_running = False

    def begin(self, *_: object) -> None:
        self.is_running = True
        self.resume()

    def end(self, *_: object) -> None:
        self.pause()
        self.is_running = False

    def pause(self) -> None:
        """Leave the word to something that shows more."""
        if self.line is not None:
            self.line.stop()
            self.line = None

    def resume(self) -> None:
        if self.is_running and self.line is None:
            self.line = busy("Running")
            self.line.start(CELL_SECONDS)


watched = _Watched()


def watch_cells() -> None:
    """Let every cell of this notebook show a sign of life; anywhere else, do nothing."""
    shell = _shell()
    if hasattr(shell, "kernel"):
        shell.events.register("pre_run_cell", watched.begin)
        shell.events.register("post_run_cell", watched.end)


def bar(share: float | None, words: str) -> str:
    """Return a line, with a progress bar above it where the share of what is done is known."""
    above = ""
    if share is not None:
        label = escape(words, quote=True)
        above = (
            f'<progress value="{share:.3f}" max="1" aria-label="{label}" style="width:100%">'
            "</progress>"
        )
    return f'<div style="max-width:640px">{above}<div>{escape(words)}</div></div>'


# --------------------------------------------------------------------------- where it is shown


class _Notebook:
    """Shows the line as an output of the cell."""

    def __init__(self) -> None:
        self.handle = None

    def show(self, line: str, share: float | None) -> None:
        from IPython.display import display

        bundle = {"text/html": bar(share, line), "text/plain": line}
        if self.handle is None:
            self.handle = display(bundle, raw=True, display_id=True, metadata=MARK)
        else:
            self.handle.update(bundle, raw=True, metadata=MARK)

    def wipe(self) -> None:
        if self.handle is not None:
            self.handle.update({"text/html": "", "text/plain": ""}, raw=True, metadata=MARK)


class _Terminal:
    """Shows the line in place."""

    def __init__(self) -> None:
        self.width = 0

    def show(self, line: str, share: float | None) -> None:
        self.width = max(self.width, len(line))
        print(f"\r{line:<{self.width}}", end="", file=sys.stderr, flush=True)

    def wipe(self) -> None:
        if self.width:
            print(f"\r{'':<{self.width}}\r", end="", file=sys.stderr, flush=True)


def _screen() -> _Notebook | _Terminal | None:
    if hasattr(_shell(), "kernel"):
        return _Notebook()
    return _Terminal() if sys.stderr is not None and sys.stderr.isatty() else None


def _shell() -> Any:
    ipython = sys.modules.get("IPython")
    return ipython.get_ipython() if ipython else None
