"""All recipes by name: every module of this package has a list RECIPES."""

import importlib
import pkgutil

from course_lib.training.recipe import Recipe

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for module in pkgutil.iter_modules(__path__)
    for recipe in importlib.import_module(f"{__name__}.{module.name}").RECIPES
}
