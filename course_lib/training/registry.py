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
    if not isinstance(recipe, str):
        raise ValueError(f"expected a recipe or the name of one, got {recipe!r}")
    module, colon, attribute = recipe.partition(":")
    if colon:
        try:
            own = getattr(importlib.import_module(module), attribute, None)
        except (ImportError, TypeError, ValueError) as error:  # of a name that no module can have
            raise ValueError(f"expected a module to import, got {module!r}: {error}") from error
        if not isinstance(own, Recipe):
            raise ValueError(f"expected a Recipe at {recipe!r}, got {own!r}")
        return own
    if recipe not in RECIPES:
        candidates = difflib.get_close_matches(recipe, RECIPES) or sorted(RECIPES)
        raise ValueError(
            f"expected a recipe that there is, got another: no recipe {recipe!r}; there is"
            f" {', '.join(candidates)}"
        )
    return RECIPES[recipe]
