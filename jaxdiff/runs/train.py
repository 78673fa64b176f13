"""Training: the loop that runs the steps."""

import os
import sys
import time
from pathlib import Path
from typing import Any

from jaxdiff.data import Dataset
from jaxdiff.errors import require
from jaxdiff.parallel import describe_devices
from jaxdiff.parallel.preemption import stop_between_steps
from jaxdiff.parallel.processes import broadcast_int, is_first
from jaxdiff.runs.folder import (
    CHECKPOINTS,
    SNAPSHOTS,
    check_record,
    check_workdir,
    training_part,
    write_record,
)
from jaxdiff.runs.load import newest_step
from jaxdiff.runs.log import Log, open_history
from jaxdiff.runs.sample_grids import SampleGrids
from jaxdiff.runs.trainer import Trainer
from jaxdiff.storage import compilation_cache
from jaxdiff.storage.checkpoints import Checkpoints
from jaxdiff.storage.files import ensure_writable
from jaxdiff.training.experiment import Experiment
from jaxdiff.training.state import TrainState
from jaxdiff.typing import Network


def train(
    experiment: Experiment,
    workdir: str | os.PathLike[str],
    *,
    until: int | None = None,
    progress: bool = True,
    dataset: Dataset | None = None,
    network: Network | None = None,
) -> TrainState:
    """Trains, or goes on where the workdir's newest whole checkpoint stopped.

    Of several processes (see `jaxdiff.parallel.processes`) each calls it with the same
    arguments, and a workdir that all of them see.

    Args:
        experiment: what to train.
        workdir: the run folder; see `jaxdiff.runs.load`.
        until: stop after so many steps, with a checkpoint; by default at the end.
        progress: show a progress bar, and on what it trains.
        dataset: what to train on, such as `data.from_arrays` makes of your own images;
            by default the experiment's data. Going on needs the same again.
        network: a network of your own, a Flax module as `typing.Network` says, instead
            of the experiment's. Resuming and `load` need the same again.

    Returns:
        The final train state.

    Raises:
        InputError: an option does not fit the data or the devices; the workdir cannot
            be written, is full, or holds a run of another configuration or data.
        NonFiniteError: a loss or a gradient is not finite.
        KeyboardInterrupt: Ctrl-C; the state is saved.
        Terminated: SIGTERM, which is a SystemExit; the state is saved.
    """
    require("tqdm")
    # What is asked for, checked before anything is written.
    compilation_cache.enable()
    trainer = Trainer.of(experiment, dataset, network)
    return run_training(trainer, workdir, until=until, progress=progress)


def run_training(
    trainer: Trainer,
    workdir: str | os.PathLike[str],
    *,
    until: int | None = None,
    progress: bool = True,
) -> TrainState:
    """What `train` does with an experiment whose data are there."""
    tqdm = require("tqdm").tqdm
    experiment = trainer.experiment
    training, upkeep, parallel = (
        experiment.training, experiment.upkeep, experiment.parallel
    )  # fmt: skip
    end = training.num_steps if until is None else min(until, training.num_steps)
    workdir = Path(workdir)
    ensure_writable(workdir)
    if is_first():
        check_workdir(workdir, experiment, trainer.info)
    configuration = training_part(experiment, trainer.info)
    grids = SampleGrids(trainer) if upkeep.sample_every else None

    with (
        stop_between_steps() as asked,
        Checkpoints(
            workdir / CHECKPOINTS, keep=upkeep.keep, keep_every=upkeep.keep_every,
            keep_best=upkeep.keep_best,
        ) as checkpoints,
        Checkpoints(workdir / SNAPSHOTS, keep=2**31) as snapshots,
    ):  # fmt: skip
        newest, snapshot = newest_step(checkpoints), newest_step(snapshots) or 0
        record: dict[str, Any] = {}
        if newest is not None:
            record = checkpoints.record(newest)
            check_record(record, workdir, experiment, trainer.info)
        state = parallel.localize(trainer.initial_state(checkpoints, newest))
        step = newest or 0

        with (
            open_history(workdir) as history,
            tqdm(
                total=end, initial=step, unit="step", smoothing=0.1,
                disable=not (progress and is_first()), desc="train",
                dynamic_ncols=True,
            ) as bar,
            Log(workdir, experiment, step, record, history, bar) as log,
        ):  # fmt: skip
            if is_first():
                write_record(workdir, experiment, trainer.info)
            if step < end:
                if progress and is_first():
                    bar.write(
                        f"trains on {describe_devices(parallel)}", file=sys.stderr
                    )
                bar.set_postfix_str("compiling")
            saved_at = time.monotonic()
            dispatches = trainer.feed(step, end)
            for step, batches in dispatches:
                state, metrics = trainer.advance(state, batches)
                log.add(step, metrics)
                if grids is not None and grids.due(step):
                    log.catch_up()
                    with log.paused():
                        log.grid(step, grids.picture(parallel.globalize(state)))
                stop = asked(step)
                due = stop or step == end or step % upkeep.checkpoint_every == 0
                if upkeep.checkpoint_minutes and step % upkeep.log_every == 0:
                    minutes = (time.monotonic() - saved_at) / 60
                    # The clocks of several processes differ.
                    late = broadcast_int(minutes >= upkeep.checkpoint_minutes)
                    due = due or bool(late)
                averaged = experiment.snapshot_due(step) and step > snapshot
                if due or averaged:
                    log.catch_up()  # nothing that is not finite is saved
                if averaged:
                    snapshots.save(step, parallel.globalize(state).tracks)
                    snapshots.wait()  # a checkpoint has all snapshots before it
                if due:
                    checkpoints.save(
                        step, parallel.globalize(state),
                        {**log.record(), "configuration": configuration},
                    )  # fmt: skip
                    saved_at = time.monotonic()
                checkpoints.check()
                if stop:
                    checkpoints.wait()
                    log.event("stop", step=step)
                    asked.stop(step)
            checkpoints.wait()
            log.event("end", step=step)
    return parallel.globalize(state)
