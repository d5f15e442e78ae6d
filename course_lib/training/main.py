"""What `course train NAME` does: train a recipe, print how it goes, and return an exit status."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

from torch import nn

from course_lib.training.loop import train
from course_lib.training.registry import find_recipe
from course_lib.training.store import STORE, Store


def run_training(
    name: str,
    device: str | None = None,
    *,
    steps: int | None = None,
    seconds: float | None = None,
    fresh: bool = False,
    folder: Path | None = None,
    save_every: float = 60.0,
) -> int:
    """Train one recipe, with the options of the command (course_lib/cli.py).

    Returns 0, or 130 when it was interrupted, or 2 when the input or a loss was bad.
    """
    try:
        recipe = find_recipe(name)
        trained = train(
            recipe,
            device,
            steps=steps,
            seconds=seconds,
            resume=not fresh,
            on_step=_log(recipe.steps),
            store=Store.under(folder) if folder else STORE,
            save_every=save_every,
        )
    except (ValueError, FloatingPointError, ImportError) as error:
        print(f"course train: {error}", file=sys.stderr)
        return 2
    if not trained.finished:
        _say(
            f"{recipe.name}: stopped after step {trained.step:,} of {recipe.steps:,}; run it again"
            " to resume"
        )
        return 130 if trained.interrupted else 0
    for metric, value in trained.metrics.items():
        _say(f"{recipe.name}: {metric} = {value:.6g}")
    return 0


def _log(steps: int) -> Callable[[int, dict, nn.Module], None]:
    """Print a line now and then when the output goes to a file and so shows no progress bar."""

    def on_step(step: int, losses: dict, model: nn.Module) -> None:
        if step % max(1, steps // 50) == 0 and not sys.stderr.isatty():
            _say(
                f"step {step:,} of {steps:,}: "
                + ", ".join(f"{k} {v:.4f}" for k, v in losses.items())
            )

    return on_step


def _say(line: str) -> None:
    """Print once, however many processes there are."""
    if os.environ.get("RANK", "0") == "0":
        print(line, flush=True)
