"""Recipes by name."""

import difflib
import importlib

from course_lib.training.recipe import Recipe


def find_recipe(recipe: Recipe | str) -> Recipe:
    """Return a recipe by its name, or by 'module:ATTRIBUTE' for one of your own.

    A recipe is returned as it is.  Raises ValueError, with the names there are, for an unknown one.
    """
    # Imported here because recipes load checkpoints, and loading a checkpoint finds its recipe.
    from course_lib.training.recipes import RECIPES

    if isinstance(recipe, Recipe):
        return recipe
    module, colon, attribute = recipe.partition(":")
    if colon:
        own = getattr(importlib.import_module(module), attribute, None)
        if not isinstance(own, Recipe):
            raise ValueError(f"expected a Recipe at {recipe!r}, got {own!r}")
        return own
    if recipe not in RECIPES:
        candidates = difflib.get_close_matches(recipe, RECIPES) or sorted(RECIPES)
        raise ValueError(f"no recipe {recipe!r}; there is {', '.join(candidates)}")
    return RECIPES[recipe]
