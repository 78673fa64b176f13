"""Recipes: experiments with a name, a docstring and measured results.

`jaxdiff train digits` trains the recipe `digits`; the scripts in `experiments/` start
the same recipes.
"""

import difflib
import importlib
from typing import Any

from jaxdiff.errors import InputError

RECIPES = {
    "digits": "digits",
    "fashion": "fashion_mnist",
    "emoji": "emoji",
    "unclip": "unclip",
    "folder": "folder",
    "cifar10": "cifar10",
    "dit": "dit",
}
"""Modules of this folder by the recipe's name on the command line.

Each has a docstring and `CONFIG`, an `Experiment`. `JUDGE`, if there is one, returns
the share of samples that show their class.
"""


def recipe(name: str) -> Any:
    """Returns the module of a recipe.

    Raises:
        InputError: there is no recipe of this name.
    """
    if name not in RECIPES:
        close = difflib.get_close_matches(name, RECIPES, n=1)
        hint = f"Perhaps you meant {close[0]!r}. " if close else ""
        raise InputError(
            f"unknown recipe {name!r}. {hint}Recipes: {', '.join(RECIPES)}"
        )
    return importlib.import_module(f"jaxdiff.recipes.{RECIPES[name]}")
