"""Recipes on the command line: the words after a command of the program `jaxdiff`."""

import shlex
from pathlib import Path
from typing import Any

from jaxdiff.cli.command import DATA, Command, File
from jaxdiff.cli.flag_errors import HELP
from jaxdiff.cli.flags import value_of
from jaxdiff.errors import InputError
from jaxdiff.recipes import RECIPES, recipe
from jaxdiff.recipes.folder import of_folder
from jaxdiff.runs.folder import is_run

USAGE = ", ".join(RECIPES).replace("folder", "folder DIR")


def with_recipe(
    file: File, command: Command, words: list[str]
) -> tuple[File, list[str]]:
    """Returns the file of the recipe that a command line names, and the other words.

    Without a recipe, both stay as they are.

    Raises:
        InputError: there is no such recipe, or training has nothing to begin with.
    """
    trains = command.trains or DATA in command.needs
    first = words[0] if words else ""
    if not first or first.startswith("-"):
        if trains:
            _check_beginning(command, words)
        return file, words
    if first not in RECIPES and not trains:
        return file, words  # the error of the flags names the remedy
    if first not in RECIPES and Path(first).is_dir():
        raise InputError(
            f"unknown recipe {first!r}. For your own images, run jaxdiff "
            f"{command.name} folder {shlex.quote(first)}"
        )
    found, (name, *words) = recipe(first), words
    config, workdir = found.CONFIG, Path("runs") / f"{name}{command.suffix}"
    if name == "folder" and words and words[0] and not words[0].startswith("-"):
        config, workdir = of_folder(words.pop(0))
        workdir = workdir.with_name(f"{workdir.name}{command.suffix}")
    elif name == "folder" and not any(w in HELP or _is_path(w) for w in words):
        raise InputError(
            f"folder must have the path of your images, got none. Run jaxdiff "
            f"{command.name} folder DIR."
        )
    judge = getattr(found, "JUDGE", None)
    return File(config, judge, workdir, found.__doc__), words


def _is_path(word: str) -> bool:
    """Returns True for the flag of the images' path."""
    return word.partition("=")[0] == "--data.path"


def check_run(file: File, command: Command, options: Any) -> None:
    """Raises an error for a command of the program `jaxdiff` that was given no run."""
    default = getattr(options, "workdir", None) == file.workdir
    if file.program and not command.words and default and not is_run(file.workdir):
        raise InputError(
            f"{command.name} must have a run, got none. Run jaxdiff {command.name} "
            "--workdir RUN."
        )


def _check_beginning(command: Command, words: list[str]) -> None:
    """Raises an error for a command line without recipe, data, model and run."""
    if any(word in HELP or word.startswith(("--data", "--init")) for word in words):
        return
    name = command.name
    if not command.trains:
        raise InputError(
            f"{name} must have a recipe or data, got none. Run jaxdiff {name} digits "
            f"({USAGE}), or name --data."
        )
    workdir = value_of("--workdir", words)
    if workdir and not is_run(Path(workdir)):
        raise InputError(
            f"there is no run in '{workdir}' to go on with. Name another, or begin "
            f"with a recipe: jaxdiff {name} RECIPE --workdir {shlex.quote(workdir)} "
            f"({USAGE})."
        )
    if not workdir:
        raise InputError(
            f"{name} must have a recipe or a run, got none. Run jaxdiff {name} digits "
            f"({USAGE}), or jaxdiff {name} --workdir RUN."
        )
