"""Training in a notebook, with its loss drawn as it runs."""

from course_lib.classroom.figures import live_curve
from course_lib.training import Recipe, TrainingResult, find_recipe, live


def train_live(recipe: Recipe | str, seconds: int | float = 60.0) -> TrainingResult:
    """Train a recipe for at most so many seconds, with its loss drawn live.

    Nothing is written to disk.
    Returns the averaged model (`.model`) and how it went.  COURSE_FAST=1 cuts it to a few steps.
    """
    recipe = find_recipe(recipe)
    with live_curve(recipe.steps, title=recipe.name) as curve:
        return live(recipe, seconds, on_step=lambda step, losses, model: curve(step, losses))
