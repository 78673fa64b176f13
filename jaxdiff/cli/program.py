"""The command line of an experiment: its commands, their errors and exit codes."""

import contextlib
import difflib
import os
import shlex
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

from jaxdiff import interrupts
from jaxdiff.cli.command import (
    DATA,
    Command,
    File,
    Judge,
)
from jaxdiff.cli.commands import COMMANDS
from jaxdiff.cli.flag_errors import HELP as ASKS
from jaxdiff.cli.flag_errors import QUIET
from jaxdiff.cli.flags import completion_script, parse
from jaxdiff.cli.help_text import print_help, table
from jaxdiff.cli.recipe_words import USAGE, check_run, with_recipe
from jaxdiff.errors import InputError, NonFiniteError, printable
from jaxdiff.parallel import processes
from jaxdiff.parallel.preemption import Terminated
from jaxdiff.progress_bar import quiet
from jaxdiff.runs.provenance import versions
from jaxdiff.storage import compilation_cache
from jaxdiff.streams import check_output, tolerant_streams
from jaxdiff.training.experiment import Experiment

COMPLETION = "--completion"
"""First word of the command line that prints a script for a shell."""
NOT_FINITE = 4
"""Exit code of a run that a non-finite loss stopped."""
HELP = """
Commands; COMMAND --help prints its daily flags, COMMAND --help-all every flag:
{commands}
{recipes}Exit codes: 0 success; 1 a bug, or reproduce differs; 2 a wrong argument or a
full disk; 3 another process died; 4 a loss was not finite; 128 + n signal n.
"""
OF_RECIPES = {
    "digits": "digits of 8x8 pixels; 6 minutes on 2 CPU cores",
    "fashion": "clothes of 28x28 pixels; an hour on 2 CPU cores",
    "emoji": "text to image: 3,944 captioned pictures, 32x32 pixels",
    "unclip": "images from the vector of an image or text (DALL-E 2)",
    "folder DIR": "your own images, 64x64 pixels; for a GPU",
    "cifar10": "CIFAR-10 as in the paper of DDPM; for many GPUs",
    "dit": "DiT-XL/2 on latents of ImageNet; for many GPUs",
}
"""Summaries of the recipes for --help."""
ABOUT = """Train diffusion models and sample from them.
  jaxdiff run digits            trains, and draws pictures into runs/digits
  jaxdiff train --workdir RUN   goes on with a run
  --version prints the versions, --quiet shows no progress
"""


def main(
    config: Experiment,
    description: str,
    *,
    judge: Judge | None = None,
    args: Sequence[str] | None = None,
    workdir: Path | None = None,
) -> None:
    """Runs the command line of an experiment; a user's mistake exits with code 2.

    Args:
        config: the experiment; flags change its fields.
        description: the docstring of the experiment's file, shown by --help.
        judge: function of (images, labels, training images, training labels) that
            returns the share of images that show their class. `run` and `compare`
            print this share; see `evaluation.label_agreement`.
        args: the words of the command line. None takes the words of this process.
        workdir: the default of --workdir. None takes runs/ and the program's name.
    """
    workdir = workdir or Path("runs") / Path(sys.argv[0]).stem
    _guarded(File(config, judge, workdir, description), args)


def jaxdiff(args: Sequence[str] | None = None) -> None:
    """Runs the program `jaxdiff`, whose experiments are the recipes.

    Args:
        args: the words of the command line. None takes the words of this process.
    """
    _guarded(File(Experiment(), None, Path("runs/jaxdiff"), ABOUT, program=True), args)


@tolerant_streams()
def _guarded(file: File, args: Sequence[str] | None) -> None:
    """Runs a command line; turns known errors into one line and an exit code."""
    try:
        with _warnings_of_one_line(), open(os.devnull, "w") as nowhere:
            processes.join()
            here = contextlib.nullcontext()
            with here if processes.is_first() else contextlib.redirect_stdout(nowhere):
                _command(file, list(sys.argv[1:] if args is None else args))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        processes.exit_process(2)
    except NonFiniteError as error:
        print(printable(f"error: {error}"), file=sys.stderr)
        processes.exit_process(NOT_FINITE)
    except (KeyboardInterrupt, Terminated) as error:
        # The error of a training names the step that is saved.
        resume = f"{error}. Run the same command to resume." if str(error) else ""
        print(resume or "stopped.", file=sys.stderr)
        code = error.code if isinstance(error, Terminated) else interrupts.CODE
        processes.exit_process(code)
    except jax.errors.JaxRuntimeError as error:
        reason = processes.lost(error)
        if reason is None:
            raise
        print(f"error: {reason}", file=sys.stderr)
        processes.exit_process(processes.PEER_LOST)
    except Exception:
        if not jax.distributed.is_initialized():
            raise
        traceback.print_exc()
        processes.exit_process(1)


def _command(file: File, args: list[str]) -> None:
    """Parses the command line and runs its command."""
    compilation_cache.enable()
    if QUIET in args:
        with quiet():
            _command(file, [word for word in args if word != QUIET])
        return
    if "--version" in args:
        found = versions()
        print(
            f"jaxdiff {found['jaxdiff']}, jax {found['jax']}, Python {found['python']}"
        )
        return
    if args[:1] == [COMPLETION] and file.program:
        commands = {name: _options(file, one, []) for name, one in COMMANDS.items()}
        print(completion_script(commands, " ".join(args[1:])), end="")
        return
    if args[:1] in ([], *([word] for word in ASKS)) and (args or file.program):
        usage = "COMMAND [RECIPE] [OPTIONS]" if file.program else "[COMMAND] [OPTIONS]"
        usage = f"{_called()} {usage}"
        print_help(f"{file.description}\n{_overview(file)}", usage)
        return
    later = [word for word in args if word in COMMANDS]
    if file.program and later and args[0].startswith("-"):
        rest = [word for word in args if word != later[0]]
        raise InputError(
            f"the command must be the first word, got {args[0]!r}. Run jaxdiff "
            f"{shlex.join([later[0], *rest])}"
        )
    name, *words = args or ["run"]
    if not name[:1].isalnum():
        name, words = "run", [name, *words]
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, [*COMMANDS, "help", "version"], n=1)
        hint = f"Perhaps you meant {close[0]!r}. " if close else ""
        if close and close[0] not in COMMANDS:
            hint = f"Perhaps you meant --{close[0]}. "
        raise InputError(
            f"unknown command {name!r}. {hint}Commands: {', '.join(COMMANDS)}"
        )
    command, recipe = COMMANDS[name], ""
    if file.program and not command.words:
        given = words
        file, words = with_recipe(file, command, words)
        recipe = "" if file.program else given[0]
    about = f"{name} {command.about}."
    if recipe:
        about += f" The recipe {recipe}:\n\n{file.description}"
    flags: list[str] = []
    for word in command.words:
        if words and not words[0].startswith("-"):
            flags += [f"--{word}", words.pop(0)]
    words = flags + words
    options, *more = parse(
        _options(file, command, words), words,
        prog=f"{_called()} {name}", description=about,
        daily=command.daily, usage=f"{_called()} {_usage(file, command, recipe)}",
    )  # fmt: skip
    if not command.trains:
        check_run(file, command, options)
    command.run(options, *(need.get(file, options, *more) for need in command.needs))
    if not command.trains:  # a training's results are in its folder
        check_output()


def _usage(file: File, command: Command, recipe: str) -> str:
    """Returns the words of a command line, for the help of a command."""
    words = [command.name, *map(str.upper, command.words)]
    if recipe:
        words += [recipe, "DIR"] if recipe == "folder" else [recipe]
    elif file.program and (command.trains or DATA in command.needs):
        words += [f"[{USAGE.replace(', ', '|')}]"]
    elif file.program and "workdir" in vars(_options(file, command, [])[0]):
        words += ["--workdir RUN"] * (not command.words)
    return " ".join([*words, "[OPTIONS]"])


def _called() -> str:
    """Returns the name of this program, for users to type: a script has its path."""
    path = Path(sys.argv[0])
    return str(path) if path.suffix else path.name


def _options(file: File, command: Command, words: Sequence[str]) -> list[Any]:
    """Returns the options of a command if no flag is given."""
    more = [need.flags(file, words) for need in command.needs if need.flags]
    return [command.defaults(file), *more]


def _overview(file: File) -> str:
    """Returns the list of commands, and for the program `jaxdiff` that of recipes."""
    commands = {
        " ".join([name, *map(str.upper, command.words)]): command.about
        for name, command in COMMANDS.items()
    }
    if not file.program:
        commands["run"] += "; the default"
    recipes = (
        f"Recipes, as in jaxdiff train digits:\n{table(OF_RECIPES)}\n"
        f"source <(jaxdiff {COMPLETION} bash) completes commands and flags with TAB.\n"
    )
    return HELP.format(
        commands=table(commands),
        recipes=recipes * file.program,
    )


@contextlib.contextmanager
def _warnings_of_one_line() -> Iterator[None]:
    """Formats each warning as one line, without its place in the code."""
    before = warnings.formatwarning
    warnings.formatwarning = lambda message, *_, **__: (
        f"warning: {printable(str(message))}\n"
    )
    try:
        yield
    finally:
        warnings.formatwarning = before
