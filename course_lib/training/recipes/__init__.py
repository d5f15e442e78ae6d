"""All recipes by name: every module of this package has a list RECIPES."""

import difflib
import importlib
import pkgutil

from course_lib.training.recipe import Recipe

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for module in pkgutil.iter_modules(__path__)
    for recipe in importlib.import_module(f"{__name__}.{module.name}").RECIPES
}


def find_recipe(recipe: Recipe | str) -> Recipe:
    """A recipe by its name, or by 'module:ATTRIBUTE' for one of your own; a recipe is itself."""
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
