"""Training in a notebook: the loss drawn as it runs, by the clock, and a stored network beside it.

How many steps fit into the time varies from machine to machine.  `course build` notes how many its
own run made (data/live.json), if no other program took its processors; a notebook says so beside
the number of steps that it made itself.
"""

import html
import json
import math
import os
import threading
import time
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from IPython.display import display

from course_lib import paths
from course_lib.busy import Ticker, bar, watched
from course_lib.classroom.figures import PALETTE, Array, Figure, figure, image_html, webp
from course_lib.files import write_atomically
from course_lib.training import (
    Recipe,
    TrainingResult,
    find_recipe,
    live,
    live_steps,
    load_checkpoint,
)

__all__ = ["LiveResult", "live_curve", "smooth", "train_live", "with_stored"]

RECORD = paths.DATA / "live.json"  # recipe -> the steps of a build's run
IDLE = 0.05  # of the time: so long a run may wait for a processor and still be noted
SHORT = 0.5  # of the steps that two idle cores make


@dataclass
class LiveResult(TrainingResult):
    """The result of a live run, which stops by the clock.

    usual_steps: what two idle cores make in the same time; None where that is not known.
    """

    usual_steps: int | None = None

    @property
    def is_short(self) -> bool:
        """Whether the run made so few steps that what follows may not show on its network."""
        if self.finished:
            return False
        return self.usual_steps is None or self.step < SHORT * self.usual_steps


def train_live(recipe: Recipe | str, seconds: int | float = 60.0) -> LiveResult:
    """Train a recipe for at most so many seconds, with its loss drawn live.

    No checkpoint is written.  Returns the averaged model (`.model`) and how it went.  COURSE_FAST=1
    cuts it to a few steps.
    """
    recipe = find_recipe(recipe)
    waited = _waited_seconds()
    with live_curve(live_steps(recipe), title=recipe.name, seconds=seconds) as curve:
        trained = live(recipe, seconds, on_step=lambda step, losses, model: curve(step, losses))
        is_idle = waited is not None and _waited_seconds() - waited < IDLE * trained.seconds
        is_whole = live_steps(recipe) == recipe.steps and not trained.interrupted
        if os.environ.get("COURSE_BUILD") == "1" and is_idle and is_whole:
            _record(recipe, seconds, trained.step)
        curve.usual_steps = _recorded(recipe, seconds)
    return LiveResult(**vars(trained), usual_steps=curve.usual_steps)


def with_stored(trained: LiveResult, recipe: Recipe | str) -> dict[str, Any]:
    """Return the network trained here under a label, and the stored one if the run was short.

    recipe: of the stored network.  What is shown of the first is then shown of the second, too.
    """
    steps = f"{trained.step:,} step{'s' * (trained.step != 1)}"
    networks = {f"yours, {steps}": trained.model}
    if trained.is_short:
        model, provenance = load_checkpoint(recipe)
        networks[f"stored, {provenance['steps']:,} steps"] = model
    return networks


# --------------------------------------------------------------- how many steps two idle cores make


def _recorded(recipe: Recipe, seconds: int | float) -> int | None:
    """Return the steps of a build's run of this very recipe, None if there was none."""
    entry = _read(RECORD).get(recipe.name, {})
    same = entry.get("recipe") == _digest(recipe) and entry.get("seconds") == seconds
    return entry["steps"] if same else None


def _record(recipe: Recipe, seconds: int | float, steps: int) -> None:
    """Note a build's run; of several runs of the same recipe the one with most steps counts."""
    best = max(steps, _recorded(recipe, seconds) or 0)
    entry = {"steps": best, "seconds": seconds, "recipe": _digest(recipe)}
    record = {**_read(RECORD), recipe.name: entry}
    write_atomically(RECORD, json.dumps(dict(sorted(record.items())), indent=1) + "\n")


def _read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _digest(recipe: Recipe) -> str:
    return sha256(json.dumps(recipe.fields()).encode()).hexdigest()[:12]


def _waited_seconds() -> float | None:
    """Return how long this thread has waited for a processor so far, where the system says it."""
    try:
        return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return None


# ------------------------------------------------------------------------------------- the display


class live_curve:
    """A progress bar with the curve of the loss so far, for a training loop of `total` steps.

    seconds: the loop's limit, if it has one; the bar follows whichever ends first.  Call it after
    every step: `on_step(step, loss)`, loss a number or {name: number}.  It redraws at most twice a
    second and leaves a still figure: after `total` calls, or at the end of a `with` block.
    """

    def __init__(
        self,
        total: int,
        label: str = "loss",
        *,
        title: str = "Training",
        seconds: int | float | None = None,
        every: int | float = 0.5,
    ):
        if total < 1:
            raise ValueError(f"expected at least one step, got {total}")
        self.total, self.label, self.title, self.every = total, label, title, every
        self.limit = seconds
        self.usual_steps: int | None = None  # of two idle cores
        self.steps: list[int] = []
        self.losses: dict[str, list[float]] = {}
        self.started = self.drawn = time.monotonic()
        self.finished = False
        self.lock = threading.Lock()
        watched.pause()
        self.handle = display(self._bundle(), raw=True, display_id=True)
        self.ticker = Ticker(self._draw_if_due)  # for the time before a first, or in a slow step

    def __call__(self, step: int, loss: Any) -> None:
        values = loss if isinstance(loss, dict) else {self.label: loss}
        with self.lock:
            self.steps.append(int(step))
            for name, value in values.items():
                self.losses.setdefault(name, []).append(float(value))
        if len(self.steps) >= self.total and not self.ticker.thread.is_alive():
            self.finish()
        else:
            self._draw_if_due()

    def __enter__(self) -> "live_curve":
        self.ticker.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ticker.stop()
        self.finish()
        watched.resume()

    def finish(self) -> None:
        """Replace the running display by the figure of the whole curve."""
        if self.finished:
            return
        self.finished = True
        if not self.steps:
            self._update({"text/plain": "no step was made"})
            return
        curves = []
        for name, values in self.losses.items():
            if values[-1] < values[0]:
                curves.append(f"{name} falls from {values[0]:.3g} to {values[-1]:.3g}")
            else:
                curves.append(f"{name} ends at {values[-1]:.3g}")
        title = self._summary()
        alt = f"{title}. {'; '.join(curves)}"
        image = image_html(webp(self._figure(title)), alt)
        self._update({"text/html": image, "text/plain": alt})

    def _summary(self) -> str:
        done = len(self.steps)
        seconds = time.monotonic() - self.started
        usual = f"; on two idle cores {self.usual_steps:,}" if self.usual_steps else ""
        return f"{self.title}: {done:,} step{'s' * (done != 1)} here in {seconds:.0f} s{usual}"

    def _figure(self, title: str) -> Figure:
        fig, ax = figure(title, "step", self.label, height=2.6)
        for colour, (name, values) in zip(PALETTE, self.losses.items(), strict=False):
            steps = self.steps[-len(values) :]
            ax.plot(steps, values, color=colour, alpha=0.25, linewidth=0.8)
            ax.plot(steps, smooth(values), color=colour, label=name)
        if len(self.losses) > 1:
            ax.legend()
        if all(min(v) > 0 for v in self.losses.values()):
            spread = [max(smooth(v)) / min(smooth(v)) for v in self.losses.values()]
            ax.set_yscale("log" if max(spread) > 20 else "linear")
        return fig

    def _draw_if_due(self) -> None:
        with self.lock:
            if time.monotonic() - self.drawn >= self.every:
                self.drawn = time.monotonic()
                self._update(self._bundle())

    def _bundle(self) -> dict:
        """Draw the running display: a bar, a line of numbers, the smoothed curve as a small SVG."""
        done = len(self.steps)
        seconds = time.monotonic() - self.started
        share = done / self.total
        ends = [seconds / share] if share else []
        if self.limit is not None:
            share = min(1.0, max(share, seconds / self.limit))
            ends.append(self.limit)
        left = f", about {max(0, min(ends) - seconds):.0f} s left" if ends else ""
        now = "".join(f"; {name} {smooth(v)[-1]:.3g}" for name, v in self.losses.items())
        words = f"{self.title}: step {done:,}{left}{now}"
        curves = "".join(
            _polyline(smooth(v), share, colour)
            for colour, v in zip(PALETTE, self.losses.values(), strict=False)
        )
        page = (
            f'{bar(share, words)}<svg viewBox="0 0 640 120" width="100%" role="img"'
            f' aria-label="{html.escape(words)}" style="max-width:640px">{curves}</svg>'
        )
        return {"text/html": page, "text/plain": words}

    def _update(self, bundle: dict) -> None:
        if self.handle is not None:  # there is none outside a notebook
            self.handle.update(bundle, raw=True)


def smooth(values: Array) -> np.ndarray:
    """Return a running mean over a fiftieth of the curve so far, as long as `values`."""
    values = np.asarray(values, dtype=float)
    width = max(1, len(values) // 50)
    sums = np.cumsum(np.concatenate([[0.0], values]))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(0, ends - width)
    return (sums[ends] - sums[starts]) / (ends - starts)


def _polyline(values: np.ndarray, share: float, colour: str) -> str:
    """Draw a curve as SVG, over `share` of the width; at most 300 points, its range as height."""
    values = values[:: max(1, len(values) // 300)]
    finite = values[np.isfinite(values)]
    if len(finite) < 2:
        return ""
    low = float(finite.min())
    high = float(finite.max())
    heights = 114 - 108 * (values - low) / ((high - low) or 1.0)
    across = np.linspace(2, 2 + 636 * share, len(values))
    points = " ".join(
        f"{x:.1f},{y:.1f}" for x, y in zip(across, heights, strict=True) if math.isfinite(y)
    )
    return f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>'
