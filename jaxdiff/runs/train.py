"""Training of a run: the loop over its steps."""

import os
import sys
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from jaxdiff.data import Dataset
from jaxdiff.errors import InputError, require
from jaxdiff.parallel import describe_devices
from jaxdiff.parallel.preemption import stop_between_steps
from jaxdiff.parallel.processes import is_first
from jaxdiff.progress_bar import bar as progress_bar
from jaxdiff.progress_bar import is_shown
from jaxdiff.runs.folder import (
    CHECKPOINTS,
    HISTORY,
    SNAPSHOTS,
    check_record,
    check_workdir,
    write_record,
)
from jaxdiff.runs.forecast import Forecast, duration
from jaxdiff.runs.identity import newest_step
from jaxdiff.runs.log import Log, open_history
from jaxdiff.runs.own_text import store_tokenizer
from jaxdiff.runs.parts import write_link
from jaxdiff.runs.parts_info import PARTS
from jaxdiff.runs.previews import previews_of
from jaxdiff.runs.provenance import now
from jaxdiff.runs.saver import Saver
from jaxdiff.runs.stages import stages_before
from jaxdiff.runs.trainer import Trainer
from jaxdiff.storage import compilation_cache
from jaxdiff.storage.checkpoints import Checkpoints
from jaxdiff.storage.files import ensure_writable
from jaxdiff.streams import tolerant
from jaxdiff.training.experiment import AnyExperiment
from jaxdiff.training.state import TrainState
from jaxdiff.typing import Network


def train(
    experiment: AnyExperiment,
    workdir: str | os.PathLike[str],
    *,
    until: int | None = None,
    progress: bool = True,
    dataset: Dataset | None = None,
    network: Network | None = None,
) -> TrainState:
    """Trains a run, or resumes it from the newest whole checkpoint in `workdir`.

    A resume may change `Experiment.optimizer` and `Training.num_steps` for the next
    steps; learning-rate schedules are functions of the step. The checkpoints and the
    history record the change.

    With several processes (see `jaxdiff.parallel.processes`), each calls it with the
    same arguments. All of them must see the same `workdir`.

    Args:
        experiment: the experiment to train.
        workdir: the run folder; see `jaxdiff.runs.folder`.
        until: stop after this step, with a checkpoint; None for the last step.
        progress: if True, show a progress bar (lines outside a terminal), the devices
            and the time of a step.
        dataset: training data, such as `data.from_arrays` returns; the experiment's by
            default. A resume needs the same data.
        network: a Flax module of your own (see `typing.Network`) instead of the
            experiment's network. A resume and `load` need the same module.

    Returns:
        The final train state.

    Raises:
        InputError: an option does not fit the data or the devices; the workdir cannot
            be written, is full, or holds a run of another configuration or data.
        NonFiniteError: a loss or a gradient is not finite.
        KeyboardInterrupt: Ctrl-C; the state is saved.
        Terminated: SIGTERM, SIGHUP or SIGUSR1; the state is saved. It is a SystemExit.
    """
    require("tqdm")
    # Check all options before anything is written.
    compilation_cache.enable()
    trainer = Trainer.of(experiment, dataset, network)
    return run_training(trainer, workdir, until=until, progress=progress)


def run_training(
    trainer: Trainer,
    workdir: str | os.PathLike[str],
    *,
    until: int | None = None,
    progress: bool = True,
    about: str = "",
) -> TrainState:
    """Trains a run whose data are loaded; see `train`. Shows `about` first."""
    experiment, info = trainer.experiment, trainer.info
    upkeep, parallel = experiment.upkeep, experiment.parallel
    num_steps = experiment.training.num_steps
    end = num_steps if until is None else min(until, num_steps)
    workdir = Path(workdir)
    shows = progress and is_shown() and is_first()

    # Check the folder and the sampler of the grids.
    ensure_writable(workdir)
    if is_first():
        check_workdir(workdir, experiment, info)
    grids = previews_of(trainer)
    told = tolerant(sys.stderr)

    with ExitStack() as stack:
        # The lock excludes other processes that train. A run is locked before its
        # newest checkpoint is looked for: a process that was asked to stop may still
        # save one. A new folder is locked after all checks, which leave it unchanged.
        history = None
        if (workdir / HISTORY).exists():
            history = stack.enter_context(open_history(workdir))

        # Restore the newest checkpoint, or initialize.
        asked = stack.enter_context(stop_between_steps())
        checkpoints = stack.enter_context(
            Checkpoints(
                workdir / CHECKPOINTS, keep=upkeep.keep, keep_every=upkeep.keep_every,
                keep_best=upkeep.keep_best,
            )
        )  # fmt: skip
        snapshots = stack.enter_context(Checkpoints(workdir / SNAPSHOTS, keep=2**31))
        newest, last_snapshot = newest_step(checkpoints), newest_step(snapshots) or 0
        record: dict[str, Any] = {}
        if newest is not None:
            record = checkpoints.record(newest)
            check_record(record, workdir, experiment, info)
        _check_end(newest, num_steps, workdir)
        stages = stages_before(record, experiment)
        step = newest or 0
        changes: dict[str, Any] = {}
        if stages and stages[-1].until == step:
            changes = stages[-1].changes(experiment)
            new = ", ".join(f"{path} {value}" for path, value in changes.items())
            about = f"{about}\nfrom step {step:,} on: {new}".lstrip()
        start = trainer.start(newest)
        if shows:
            place = f" from step {step:,}" * bool(step)
            goes = f"training{place} on {describe_devices(parallel)}; compiling first"
            if step >= end:
                about = f"all {step:,} steps are done"
                goes = "set a larger --training.num-steps for more" * (end == num_steps)
            print("\n".join(filter(None, (about, goes))), file=told, flush=True)
        state = trainer.initial_state(checkpoints, newest, start)
        del start  # the state has the memory
        state = parallel.localize(state)

        # Open the log files.
        if history is None:
            history = stack.enter_context(open_history(workdir))
        bar = stack.enter_context(
            progress_bar(end, "train", "step", initial=step, show=shows and step < end)
        )
        log = stack.enter_context(Log(workdir, experiment, step, record, history, bar))
        if is_first():
            write_record(workdir, experiment, info)
            if trainer.parts is not None:
                write_link(trainer.parts, workdir / PARTS)
            if trainer.tokenizer is not None:
                store_tokenizer(workdir, trainer.tokenizer)
        if changes:
            log.event("change", step=step, time=now(), options=changes)
        saver = Saver(
            experiment, info, checkpoints, snapshots, last_snapshot, end, stages
        )
        dispatches = trainer.feed(step, end)
        write = partial(bar.write, file=told)
        forecast = Forecast(end, write) if shows else None
        compiled: set[tuple[int, ...]] = set()

        for step, batches in dispatches:
            # Compile the program of another shape.
            shape = batches.batch.images.shape
            is_new = shape not in compiled
            if is_new:
                bar.set_postfix_str("compiling")
            began = time.monotonic()

            # Train; metrics are fetched while later steps run.
            state, metrics = trainer.advance(state, batches)
            if is_new:
                compiled.add(shape)
                size, took = "x".join(map(str, shape[-3:-1])), time.monotonic() - began
                log.compiled(step, size, took)
                if forecast is not None:
                    forecast.exclude(took)
                if shows and len(trainer.dataset.buckets) > 1:
                    write(f"compiled for images of {size} in {duration(took)}")
            log.add(step, metrics)
            if forecast is not None:
                forecast.add(step, metrics)

            # Draw a grid of samples.
            if grids is not None and grids.due(step):
                log.catch_up()
                with log.paused():
                    log.grid(step, grids.picture(parallel.globalize(state)))

            # Save; `check` raises if an earlier save failed.
            stop = asked(step)
            if saver.due(step, stop):
                log.catch_up()  # a state that is not finite is not saved
                saver.save(step, parallel.globalize(state), log.record())
            checkpoints.check()

            # Stop after a signal.
            if stop:
                checkpoints.wait()
                log.event("stop", step=step)
                asked.stop(step)

        checkpoints.wait()
        log.event("end", step=step)
    return parallel.globalize(state)


def _check_end(newest: int | None, num_steps: int, workdir: Path) -> None:
    """Raises an InputError for fewer steps than the run has done."""
    if newest is not None and newest > num_steps:
        raise InputError(
            f"training.num_steps must be at least {newest}, the steps that the run in "
            f"'{workdir}' has done, got {num_steps}. Give more steps, or choose "
            "another --workdir."
        )
