"""The command line of an experiment; `COMMANDS` are its commands."""

import contextlib
import difflib
import os
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxdiff import plots
from jaxdiff.cli.compare import CompareOptions, Judge, compare
from jaxdiff.cli.ema import AveragesOptions, averages
from jaxdiff.cli.evaluate import EvaluateOptions, evaluate
from jaxdiff.cli.flags import parse, value_of
from jaxdiff.cli.progress import bar
from jaxdiff.cli.replay import ReplayOptions, replay
from jaxdiff.cli.reproduce import ReproduceOptions, reproduce
from jaxdiff.cli.sample import SampleOptions, draw
from jaxdiff.cli.sampling_options import samplings_of
from jaxdiff.cli.statistics import StatisticsOptions, statistics
from jaxdiff.data import to_uint8
from jaxdiff.errors import InputError, NonFiniteError
from jaxdiff.parallel import Parallel, Pmap, cpu_devices, processes
from jaxdiff.parallel.preemption import Terminated
from jaxdiff.pretrained import (
    from_diffusers,
    to_diffusers,
    write_run,
)
from jaxdiff.pretrained.convert import ExportOptions, ImportOptions
from jaxdiff.report import page, run_pictures
from jaxdiff.report.status import status
from jaxdiff.runs.fine_tune import with_model_of
from jaxdiff.runs.folder import CONFIG, read_config
from jaxdiff.runs.load import load
from jaxdiff.runs.log import last_start
from jaxdiff.runs.train import run_training
from jaxdiff.runs.trainer import Trainer
from jaxdiff.storage import compilation_cache
from jaxdiff.training.experiment import Experiment

COMMANDS = (
    "run", "train", "sample", "compare", "evaluate", "ema", "statistics", "report",
    "status", "replay", "reproduce", "import", "export",
)  # fmt: skip
NOT_FINITE = 4
"""The exit code of a training whose loss is not finite."""
HELP = """
Commands: run (the default) trains, samples and draws pictures; train only trains;
sample draws images from a trained run, by any sampler; compare tells how good each
sampler is at how many network evaluations; evaluate tells how likely held-out images
are and how like them the samples; ema tells which average of the parameters draws the
best ones; statistics writes what a Frechet distance needs of any data set; report
writes a page of the run, report.html; status says what a run folder holds; replay takes
one step again, to look at its batch; reproduce runs a run again and compares; import
PATH WORKDIR makes a run folder of a model of Hugging Face's diffusers, and export
WORKDIR PATH such a model of a run. Each has its own flags and --help.

Exit codes: 0 done; 1 a defect, or reproduce found another result; 2 a mistake, or a
full disk; 3 another process was lost; 4 a loss that is not finite; 130 Ctrl-C and 143
SIGTERM, once the step is saved.
"""
PER_CLASS = 20
"""Samples a class that `run` draws and judges."""


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Where a run lives."""

    workdir: Path
    """The run folder; a run that is there goes on from its newest checkpoint."""


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """Which run to put on a page."""

    workdir: Path
    """The run folder; report.html is written there."""


@dataclass(frozen=True, kw_only=True)
class StatusOptions:
    """Which run to look at."""

    workdir: Path
    """The run folder; it is only read, also while a process trains in it."""


@dataclass(frozen=True, kw_only=True)
class Devices:
    """How the devices share a trained model."""

    parallel: Parallel = field(default_factory=Pmap)
    """How devices share the work; what comes of it does not depend on it."""


@dataclass(frozen=True, kw_only=True)
class Trained(Devices):
    """Which of a run's models is used, and how the devices share it."""

    ema: float | None = None
    """Take the parameters' average of this relative length, in (0, 0.288), made from
    those of training.ema-lengths; by default that of constant decay."""


OPTIONS: dict[str, Any] = {
    "sample": SampleOptions,
    "compare": CompareOptions,
    "evaluate": EvaluateOptions,
    "ema": AveragesOptions,
}
"""The options of the commands that use a trained model."""


WORDS = {"import": ("path", "workdir"), "export": ("workdir", "path")}
"""What the words after a command are; flags give them too."""


def _import(options: ImportOptions, config: Experiment) -> None:
    """Makes a run folder of a model of diffusers."""
    if options.path is None:
        raise InputError("import needs the model's folder: import PATH WORKDIR")
    run = from_diffusers(
        options.path, num_steps=options.steps, variant=options.variant,
        null_class=options.null_class, allow_bin=options.bin, base=config,
    )  # fmt: skip
    write_run(run, options.workdir)
    print(f"the model of '{options.path}' is in {options.workdir}")


def _export(options: ExportOptions) -> None:
    """Makes a model of diffusers of a run."""
    if options.path is None:
        raise InputError("export needs a folder to make: export WORKDIR PATH")
    run = load(options.workdir, ema=options.ema)
    samplers = () if options.sampler is None else (options.sampler,)
    (sampling,) = samplings_of(run, samplers, options.steps, None).values()
    experiment = replace(run.experiment, sampling=sampling)
    call = to_diffusers(replace(run, experiment=experiment), options.path)
    given = ", ".join(f"{name}={value}" for name, value in call.items())
    print(f"the model is in {options.path}; call its pipeline with {given}")


def _reproduce(options: ReproduceOptions) -> None:
    if not reproduce(options):
        processes.exit_process(1)


ON_FOLDERS: dict[str, tuple[Any, Callable[[Any], None]]] = {
    "report": (ReportOptions, lambda options: page.tell(options.workdir)),
    "status": (StatusOptions, lambda options: print(status(options.workdir))),
    "replay": (ReplayOptions, replay),
    "reproduce": (ReproduceOptions, _reproduce),
}
"""The options of the commands that look at a run's folder, and what they do."""


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
            `metrics.agreement.label_agreement`.
        args: the command line; the program's own by default.
    """
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    try:
        processes.join()
        with open(os.devnull, "w") as nowhere:
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
    command, *rest = list(sys.argv[1:] if args is None else args) or ["run"]
    if not command[:1].isalnum():
        command, rest = "run", [command, *rest]
    program = Path(sys.argv[0])
    workdir = Path("runs") / program.stem
    texts = {"prog": f"{program} {command}", "description": description + HELP}
    words: list[str] = []
    if command in ("run", "train"):
        config = _from_init(config, rest, workdir)
        both = [TrainOptions(workdir=workdir), config]
        where, experiment = parse(both, rest, **texts)
        cpu_devices.use(train_devices(experiment))
        _train(experiment, where.workdir, command == "run", judge)
        if processes.is_first():
            page.refresh(where.workdir)
        return
    for name in WORDS.get(command, ()):
        if rest and not rest[0].startswith("-"):
            words += [f"--{name}", rest.pop(0)]
    rest = words + rest
    if command == "import":
        (wanted,) = parse([ImportOptions(workdir=workdir)], rest, **texts)
        _import(wanted, config)
        return
    if command == "export":
        (wanted,) = parse([ExportOptions(workdir=workdir)], rest, **texts)
        _export(wanted)
        return
    if command == "statistics":
        wanted, experiment = parse([StatisticsOptions(), config], rest, **texts)
        cpu_devices.use(experiment.parallel.usable(cpu_devices.available()))
        statistics(experiment, wanted)
        return
    if command in ON_FOLDERS:
        cls, act = ON_FOLDERS[command]
        (asked,) = parse([cls(workdir=workdir)], rest, **texts)
        if command not in ("report", "status"):
            cpu_devices.use(devices_again(asked.workdir))
        act(asked)
        return
    if command not in OPTIONS:
        close = difflib.get_close_matches(command, COMMANDS, n=1)
        hint = f"perhaps you meant {close[0]!r}? " if close else ""
        raise InputError(
            f"unknown command {command!r}; {hint}Commands: {', '.join(COMMANDS)}"
        )
    options = OPTIONS[command](workdir=workdir)
    devices: Devices = Devices() if command == "ema" else Trained()
    asked, devices = parse([options, devices], rest, **texts)
    cpu_devices.use(devices.parallel.usable(cpu_devices.available()))
    ema = devices.ema if isinstance(devices, Trained) else None
    run = load(asked.workdir, parallel=devices.parallel, ema=ema)
    if command == "ema":
        averages(run, asked)
    elif command == "sample":
        draw(run, asked)
    elif command == "compare":
        compare(run, asked, judge)
    else:
        evaluate(run, asked)
    if command != "sample" and processes.is_first():
        page.refresh(asked.workdir)


def _from_init(config: Experiment, words: Sequence[str], workdir: Path) -> Experiment:
    """The experiment with the model of the run that --init names.

    A run that goes on needs only its own record of it.
    """
    init = value_of("--init", words)
    if init in (None, "", "None"):
        return config
    workdir = Path(value_of("--workdir", words) or workdir)
    is_there = (workdir / CONFIG).exists()
    return with_model_of(config, workdir if is_there else Path(init))


def train_devices(experiment: Experiment) -> int:
    """How many CPU devices train best: as many of the cores as divide a batch."""
    training = experiment.training
    rows = max(1, training.batch_size // training.accumulate)
    return experiment.parallel.usable(cpu_devices.available(), rows)


def devices_again(workdir: Path) -> int:
    """As many as a run had, where one process can: others would round differently."""
    experiment, _ = read_config(workdir)
    found = last_start(workdir).get("devices")
    if isinstance(found, dict) and found.get("backend") == "cpu":
        count = found.get("count")
        possible = range(1, experiment.training.batch_size + 1)
        if found.get("processes") == 1 and type(count) is int and count in possible:
            return count
    return train_devices(experiment)


def _train(
    experiment: Experiment, workdir: Path, whole_job: bool, judge: Judge | None
) -> None:
    """Trains; for the whole job also samples, draws the pictures and judges."""
    if whole_job:
        plots.check_installed()
    start = time.monotonic()
    trainer = Trainer.of(experiment)
    run_training(trainer, workdir)
    print(f"trained in {time.monotonic() - start:.0f} s; checkpoints are in {workdir}")
    if not whole_job:
        return
    run = load(workdir, parallel=experiment.parallel)
    dataset = trainer.dataset
    classes = run.info.num_classes
    num = PER_CLASS * (classes or 5)
    labels = None if classes is None else np.arange(num) % classes
    with bar(num, "sample") as on_chunk:
        images = run.generate(labels, num, 0, on_chunk=on_chunk)
    frames = run_pictures.reverse_frames(run)
    if not processes.is_first():
        return
    plots.save_samples(
        workdir / "samples.png", to_uint8(images), labels, run.info.class_names, 10
    )
    run_pictures.save_pictures(run, dataset, frames, workdir)
    print(f"pictures are in {workdir}: {', '.join(run_pictures.PICTURES)}")
    if judge and labels is not None and dataset.labels is not None:
        known = np.asarray(dataset.images)
        share = judge(to_uint8(images), labels, known, dataset.labels)
        print(
            f"label agreement: {share:.1%} of {num} samples are read as the class that "
            "was asked for"
        )


def jaxdiff() -> None:
    """The program `jaxdiff`: every command, for runs that no experiment's file made."""
    main(Experiment(), "Diffusion models: train them, and draw from them.")
