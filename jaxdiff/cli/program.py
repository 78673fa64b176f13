"""The command line of an experiment; `COMMANDS` lists its commands."""

import contextlib
import difflib
import os
import sys
import textwrap
import traceback
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax

from jaxdiff.cli.command import (
    CONFIG,
    DATA,
    EXPERIMENT,
    JUDGE,
    MODEL,
    USUAL_MODEL,
    Command,
    File,
    Judge,
)
from jaxdiff.cli.compare import CompareOptions, compare
from jaxdiff.cli.convert import (
    ExportOptions,
    ImportOptions,
    export_model,
    import_model,
)
from jaxdiff.cli.ema import AveragesOptions, averages
from jaxdiff.cli.evaluate import EvaluateOptions, evaluate
from jaxdiff.cli.flags import parse
from jaxdiff.cli.replay import ReplayOptions, replay
from jaxdiff.cli.report import ReportOptions, report
from jaxdiff.cli.reproduce import ReproduceOptions, reproduce_or_exit
from jaxdiff.cli.sample import SampleOptions, draw
from jaxdiff.cli.statistics import StatisticsOptions, statistics
from jaxdiff.cli.status import StatusOptions, status
from jaxdiff.cli.train import TrainOptions, run, train
from jaxdiff.errors import InputError, NonFiniteError
from jaxdiff.parallel import processes
from jaxdiff.parallel.preemption import Terminated
from jaxdiff.runs.provenance import versions
from jaxdiff.storage import compilation_cache
from jaxdiff.training.experiment import Experiment

COMMANDS = {command.name: command for command in (
    Command(
        "run", TrainOptions, run,
        "(the default) trains, samples and draws pictures",
        needs=(EXPERIMENT, JUDGE),
    ),
    Command("train", TrainOptions, train, "only trains", needs=(EXPERIMENT,)),
    Command(
        "sample", SampleOptions, draw,
        "draws images from a trained run, with any sampler",
        needs=(MODEL,),
    ),
    Command(
        "compare", CompareOptions, compare,
        "measures sampler quality by number of network evaluations",
        needs=(MODEL, JUDGE),
    ),
    Command(
        "evaluate", EvaluateOptions, evaluate,
        "measures the likelihood of held-out images and the sample quality",
        needs=(MODEL,),
    ),
    Command(
        "ema", AveragesOptions, averages,
        "compares averages of the parameters by sample quality",
        needs=(USUAL_MODEL,),
    ),
    Command(
        "statistics", StatisticsOptions, statistics,
        "writes the mean and covariance of a dataset's features",
        needs=(DATA,),
    ),
    Command(
        "report", ReportOptions, report, "writes a page on the run, report.html"
    ),
    Command("status", StatusOptions, status, "prints the contents of a run folder"),
    Command(
        "replay", ReplayOptions, replay, "repeats one step and shows its batch"
    ),
    Command(
        "reproduce", ReproduceOptions, reproduce_or_exit,
        "repeats a run and compares checksums",
    ),
    Command(
        "import", ImportOptions, import_model,
        "converts a model folder of Hugging Face's diffusers to a run folder",
        needs=(CONFIG,), words=("path", "workdir"),
    ),
    Command(
        "export", ExportOptions, export_model,
        "converts a run to a model folder of diffusers", words=("workdir", "path"),
    ),
)}  # fmt: skip
"""Commands by name."""
NOT_FINITE = 4
"""Exit code of a run that a non-finite loss stopped."""
HELP = """

Commands; each has its own flags and --help:
{}

--version prints the versions of jaxdiff, JAX and Python.

Exit codes: 0 success; 1 a bug, or reproduce found a difference; 2 a wrong argument, or
a full disk; 3 another process died; 4 a loss was not finite; 130 Ctrl-C; 143 SIGTERM.
Ctrl-C and SIGTERM end a training after the step is saved.
""".format(
    "\n".join(
        textwrap.fill(
            command.about,
            width=78,
            initial_indent=f"  {' '.join([name, *map(str.upper, command.words)]):21}",
            subsequent_indent=" " * 23,
        )
        for name, command in COMMANDS.items()
    )
)


def main(
    config: Experiment,
    description: str,
    *,
    judge: Judge | None = None,
    args: Sequence[str] | None = None,
) -> None:
    """Runs the command line of an experiment; a user's mistake exits with code 2.

    Args:
        config: the experiment; flags change its fields.
        description: the docstring of the experiment's file, shown by --help.
        judge: function of (images, labels, training images, training labels) that
            returns the share of images that show their class. `run` and `compare`
            print this share; see `evaluation.label_agreement`.
        args: the words of the command line. None takes the words of this process.
    """
    try:
        with _warnings_of_one_line(), open(os.devnull, "w") as nowhere:
            processes.join()
            quiet = contextlib.nullcontext()
            with quiet if processes.is_first() else contextlib.redirect_stdout(nowhere):
                _command(config, description, judge, args)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        processes.exit_process(2)
    except NonFiniteError as error:
        print(f"error: {error}", file=sys.stderr)
        processes.exit_process(NOT_FINITE)
    except (KeyboardInterrupt, Terminated) as error:
        print(
            f"{str(error) or 'stopped'}. Run the same command to resume.",
            file=sys.stderr,
        )
        processes.exit_process(143 if isinstance(error, Terminated) else 130)
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


def _command(
    config: Experiment,
    description: str,
    judge: Judge | None,
    args: Sequence[str] | None,
) -> None:
    """Parses the command line and runs its command."""
    compilation_cache.enable()
    name, *words = list(sys.argv[1:] if args is None else args) or ["run"]
    if name == "--version":
        found = versions()
        print(
            f"jaxdiff {found['jaxdiff']}, jax {found['jax']}, Python {found['python']}"
        )
        return
    if not name[:1].isalnum():
        name, words = "run", [name, *words]
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"Perhaps you meant {close[0]!r}. " if close else ""
        raise InputError(
            f"unknown command {name!r}. {hint}Commands: {', '.join(COMMANDS)}"
        )
    command = COMMANDS[name]
    flags: list[str] = []
    for word in command.words:
        if words and not words[0].startswith("-"):
            flags += [f"--{word}", words.pop(0)]
    words = flags + words
    program = Path(sys.argv[0])
    file = File(config, judge, Path("runs") / program.stem)
    more = [need.flags(file, words) for need in command.needs if need.flags]
    options, *more = parse(
        [command.defaults(file), *more], words,
        prog=f"{program} {name}", description=description + HELP,
    )  # fmt: skip
    command.run(options, *(need.get(file, options, *more) for need in command.needs))


@contextlib.contextmanager
def _warnings_of_one_line() -> Iterator[None]:
    """Formats each warning as one line, without its place in the code."""
    before = warnings.formatwarning
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    try:
        yield
    finally:
        warnings.formatwarning = before


def jaxdiff() -> None:
    """Runs the program `jaxdiff`, whose default experiment is `Experiment()`."""
    main(Experiment(), "Train diffusion models and sample from them.")
