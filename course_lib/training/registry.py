"""Recipes by name."""

import difflib
import importlib

from course_lib.training.recipe import Recipe


def find_recipe(recipe: Recipe | str) -> Recipe:
    """A recipe by its name, or by 'module:ATTRIBUTE' for one of your own; a recipe is itself.

    Raises ValueError that names what there is.
    """
    # late: a recipe may itself load checkpoints to measure with
    from course_lib.training.recipes import RECIPES

    if isinstance(recipe, Recipe):
        return recipe
    module, colon, attribute = recipe.partition(":")
    if colon:
        found = getattr(importlib.import_module(module), attribute, None)
        if not isinstance(found, Recipe):
            raise ValueError(f"expected a Recipe at {recipe!r}, got {found!r}")
        return found
    if recipe not in RECIPES:
        near = difflib.get_close_matches(recipe, RECIPES) or sorted(RECIPES)
        raise ValueError(f"no recipe {recipe!r}; there is {', '.join(near) or 'none yet'}")
    return RECIPES[recipe]
