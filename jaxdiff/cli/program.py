"""The command line of an experiment; `COMMANDS` are its commands."""

import contextlib
import difflib
import os
import sys
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
        "draws images from a trained run, by any sampler",
        needs=(MODEL,),
    ),
    Command(
        "compare", CompareOptions, compare,
        "tells how good each sampler is at how many network evaluations",
        needs=(MODEL, JUDGE),
    ),
    Command(
        "evaluate", EvaluateOptions, evaluate,
        "tells how likely held-out images are and how like them the samples",
        needs=(MODEL,),
    ),
    Command(
        "ema", AveragesOptions, averages,
        "tells which average of the parameters draws the best ones",
        needs=(USUAL_MODEL,),
    ),
    Command(
        "statistics", StatisticsOptions, statistics,
        "writes what a Frechet distance needs of any data set",
        needs=(DATA,),
    ),
    Command(
        "report", ReportOptions, report, "writes a page of the run, report.html"
    ),
    Command("status", StatusOptions, status, "says what a run folder holds"),
    Command(
        "replay", ReplayOptions, replay, "takes one step again, to look at its batch"
    ),
    Command(
        "reproduce", ReproduceOptions, reproduce_or_exit,
        "runs a run again and compares",
    ),
    Command(
        "import", ImportOptions, import_model,
        "makes a run folder of a model of Hugging Face's diffusers",
        needs=(CONFIG,), words=("path", "workdir"),
    ),
    Command(
        "export", ExportOptions, export_model,
        "makes such a model of a run", words=("workdir", "path"),
    ),
)}  # fmt: skip
"""Every command, by its name."""
NOT_FINITE = 4
"""The exit code of a training whose loss is not finite."""
HELP = """
Commands: {}. Each has its own flags and --help.

Exit codes: 0 done; 1 a defect, or reproduce found another result; 2 a mistake, or a
full disk; 3 another process was lost; 4 a loss that is not finite; 130 Ctrl-C and 143
SIGTERM, once the step is saved.
""".format(
    "; ".join(
        " ".join([command.name, *map(str.upper, command.words), command.about])
        for command in COMMANDS.values()
    )
)


def main(
    config: Experiment,
    description: str,
    *,
    judge: Judge | None = None,
    args: Sequence[str] | None = None,
) -> None:
    """Runs an experiment's command line; a user's mistake exits with code 2.

    Args:
        config: the experiment; flags change its fields.
        description: the experiment file's docstring, shown by --help.
        judge: from (images, labels, training images, training labels) the share of
            images that show their class, which `run` prints; see
            `evaluation.label_agreement`.
        args: the command line; the program's own by default.
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
        print(f"{str(error) or 'stopped'}; the same command goes on", file=sys.stderr)
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
    """Does what the command line says."""
    compilation_cache.enable()
    name, *words = list(sys.argv[1:] if args is None else args) or ["run"]
    if not name[:1].isalnum():
        name, words = "run", [name, *words]
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"perhaps you meant {close[0]!r}? " if close else ""
        raise InputError(
            f"unknown command {name!r}; {hint}Commands: {', '.join(COMMANDS)}"
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
    """Shows warnings without the place that they are from."""
    before = warnings.formatwarning
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    try:
        yield
    finally:
        warnings.formatwarning = before


def jaxdiff() -> None:
    """The program `jaxdiff`: every command, for runs that no experiment's file made."""
    main(Experiment(), "Diffusion models: train them, and draw from them.")
