"""The command: `course train NAME`, `python -m course_lib.training NAME`, or the latter under
torchrun.
"""

import argparse
import os
import sys
from pathlib import Path

from course_lib.training.loop import train
from course_lib.training.recipes import RECIPES
from course_lib.training.registry import find_recipe
from course_lib.training.store import STORE, Store


def main(argv: list[str] | None = None) -> int:
    """Train one recipe.

    Returns 0, or 130 when it was interrupted, or 2 when the input or a loss was bad.
    """
    parser = argparse.ArgumentParser(
        "course train", description="Train a recipe; run it again to resume."
    )
    parser.add_argument(
        "name", help=f"one of {', '.join(RECIPES) or '(none yet)'}, or module:ATTRIBUTE"
    )
    parser.add_argument("--device", help="cpu, cuda or mps; the best there is by default")
    parser.add_argument("--steps", type=int, help="go to this step only; resume later")
    parser.add_argument("--seconds", type=float, help="stop after so much time; resume later")
    parser.add_argument("--fresh", action="store_true", help="start over instead of resuming")
    parser.add_argument(
        "--folder", type=Path, help="keep everything there, not in the course's own folders"
    )
    parser.add_argument(
        "--save-every", type=float, default=60.0, help="seconds between saves (default 60)"
    )
    options = parser.parse_args(argv)
    try:
        recipe = find_recipe(options.name)
        trained = train(
            recipe,
            options.device,
            steps=options.steps,
            seconds=options.seconds,
            resume=not options.fresh,
            on_step=_log(recipe.steps),
            store=Store.under(options.folder) if options.folder else STORE,
            save_every=options.save_every,
        )
    except (ValueError, FloatingPointError, ImportError) as error:
        print(f"course train: {error}", file=sys.stderr)
        return 2
    if not trained.finished:
        _say(
            f"{recipe.name}: stopped after step {trained.step:,} of {recipe.steps:,}; run it again"
            " to go on"
        )
        return 130 if trained.interrupted else 0
    for metric, value in trained.metrics.items():
        _say(f"{recipe.name}: {metric} = {value:.6g}")
    return 0


def _log(steps: int):
    """A line now and then when the output goes to a file and so shows no progress bar."""

    def on_step(step, losses, model):
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
