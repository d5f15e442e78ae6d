"""Chapter 09 opens with sentences that were typed, and clips that nobody rendered."""

import torch

from course_lib.classroom.clips import show_clip
from course_lib.training import load_checkpoint
from course_lib.training.recipes.cogvideox import ONE_THING

TYPED = (
    "a large shiny purple cone rises",
    "a small shiny red cube falls",
    "a large shiny orange sphere slides left",
    "a large green cylinder grows",
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
