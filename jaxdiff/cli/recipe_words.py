"""Recipes on the command line: the words after a command of the program `jaxdiff`."""

from pathlib import Path

from jaxdiff.cli.command import DATA, EXPERIMENT, Command, File
from jaxdiff.cli.flag_errors import HELP
from jaxdiff.cli.flags import value_of
from jaxdiff.errors import InputError
from jaxdiff.recipes import RECIPES, recipe
from jaxdiff.recipes.folder import of_folder
from jaxdiff.runs.folder import CONFIG

USAGE = ", ".join(RECIPES).replace("folder", "folder DIR")


def with_recipe(
    file: File, command: Command, words: list[str]
) -> tuple[File, list[str]]:
    """Returns the file of the recipe that a command line names, and the other words.

    Without a recipe, both stay as they are.

    Raises:
        InputError: there is no such recipe, or training has nothing to begin with.
    """
    trains = {DATA, EXPERIMENT} & set(command.needs)
    first = words[0] if words else ""
    if not first or first.startswith("-"):
        if EXPERIMENT in command.needs:
            _check_beginning(file, command.name, words)
        return file, words
    if first not in RECIPES and not trains:
        return file, words  # the error of the flags names the remedy
    found, (name, *words) = recipe(first), words
    config, workdir = found.CONFIG, Path("runs") / name
    if name == "folder" and words and words[0] and not words[0].startswith("-"):
        config, workdir = of_folder(words.pop(0))
    judge = getattr(found, "JUDGE", None)
    return File(config, judge, workdir, found.__doc__), words


def _check_beginning(file: File, name: str, words: list[str]) -> None:
    """Raises an error for a command line without recipe, data, model and run."""
    if any(word in HELP or word.startswith(("--data", "--init")) for word in words):
        return
    workdir = value_of("--workdir", words)
    if workdir and not (Path(workdir) / CONFIG).exists():
        raise InputError(
            f"there is no run in '{workdir}' to go on with. Name another, or begin "
            f"with a recipe: jaxdiff {name} RECIPE --workdir {workdir} ({USAGE})."
        )
    if not workdir:
        raise InputError(
            f"{name} must have a recipe or a run, got none. Run jaxdiff {name} digits "
            f"({USAGE}), or jaxdiff {name} --workdir RUN."
        )
