"""Chapter 09 opens with sentences that were typed, and clips that nobody rendered."""

import torch

from course_lib.classroom.clips import show_clip
from course_lib.training import load_checkpoint
from course_lib.training.recipes.cogvideox import ONE_THING

TYPED = (
    "a small red cube bounces",
    "a large shiny blue sphere slides left",
    "a large yellow cone goes in a circle",
    "a small shiny green cylinder falls",
)


def show() -> None:
    """Draw a clip for each of four sentences."""
    model, made = load_checkpoint(ONE_THING.name)
    clips = ONE_THING.draw(model, list(TYPED), torch.Generator().manual_seed(0))
    show_clip(
        list(clips),
        labels=TYPED,
        title="Typed, and filmed by the model of this chapter",
        alt="Four film strips, one for each typed sentence.",
    )
    print(
        f"the transformer: {made['seconds'] / 60:.0f} minutes on {made['device']},"
        f" {made['steps']:,} steps"
    )
