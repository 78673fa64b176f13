"""Training: the loop that runs the steps."""

import os
import sys
import time
from pathlib import Path
from typing import Any

from jaxdiff.data import Dataset
from jaxdiff.errors import require
from jaxdiff.runs.sample_grids import Grids
from jaxdiff.runs.trainer import Job
from jaxdiff.runs.log import Log, held
from jaxdiff.parallel import in_words
from jaxdiff.parallel.preemption import between_steps
from jaxdiff.parallel.processes import as_first_says, is_first
from jaxdiff.runs.folder import check_record, check_workdir, training_part, write_record
from jaxdiff.runs.folder import CHECKPOINTS
from jaxdiff.runs.load import newest_step
from jaxdiff.runs.folder import SNAPSHOTS
from jaxdiff.storage.checkpoints import Checkpoints
from jaxdiff.storage.files import ensure_writable
from jaxdiff.training.experiment import Experiment
from jaxdiff.training.state import TrainState


def train(
    experiment: Experiment,
    workdir: str | os.PathLike[str],
    *,
    until: int | None = None,
    progress: bool = True,
    dataset: Dataset | None = None,
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

    Returns:
        The final train state.

    Raises:
        InputError: an option does not fit the data or the devices; the workdir cannot
            be written, is full, or holds a run of another configuration or data.
        NonFinite: a loss or a gradient is not finite.
        KeyboardInterrupt: Ctrl-C; the state is saved.
        Terminated: SIGTERM, which is a SystemExit; the state is saved.
    """
    require("tqdm")
    # What is asked for, checked before anything is written.
    job = Job.of(experiment, dataset)
    return train_job(job, workdir, until=until, progress=progress)


def train_job(
    job: Job,
    workdir: str | os.PathLike[str],
    *,
    until: int | None = None,
    progress: bool = True,
) -> TrainState:
    """What `train` does with an experiment whose data are there."""
    tqdm = require("tqdm").tqdm
    experiment = job.experiment
    training, upkeep, parallel = (
        experiment.training, experiment.upkeep, experiment.parallel
    )  # fmt: skip
    end = training.num_steps if until is None else min(until, training.num_steps)
    workdir = Path(workdir)
    ensure_writable(workdir)
    if is_first():
        check_workdir(workdir, experiment, job.info)
    configuration = training_part(experiment, job.info)
    grids = Grids(job) if upkeep.sample_every else None

    with (
        between_steps() as asked,
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
            check_record(record, workdir, experiment, job.info)
        state = parallel.enter(job.initial_state(checkpoints, newest))
        step = newest or 0

        with (
            held(workdir) as history,
            tqdm(
                total=end, initial=step, unit="step", smoothing=0.1,
                disable=not (progress and is_first()), desc="train",
                dynamic_ncols=True,
            ) as bar,
            Log(workdir, experiment, step, record, history, bar) as log,
        ):  # fmt: skip
            if is_first():
                write_record(workdir, experiment, job.info)
            if step < end:
                if progress and is_first():
                    bar.write(f"trains on {in_words(parallel)}", file=sys.stderr)
                bar.set_postfix_str("compiling")
            saved_at = time.monotonic()
            dispatches = job.feed(step, end)
            for step, batches in dispatches:
                state, metrics = job.advance(state, batches)
                log.add(step, metrics)
                if grids is not None and grids.due(step):
                    log.catch_up()
                    with log.paused():
                        log.grid(step, grids.picture(parallel.leave(state)))
                stop = asked(step)
                due = stop or step == end or step % upkeep.checkpoint_every == 0
                if upkeep.checkpoint_minutes and step % upkeep.log_every == 0:
                    minutes = (time.monotonic() - saved_at) / 60
                    # The clocks of several processes differ.
                    late = as_first_says(minutes >= upkeep.checkpoint_minutes)
                    due = due or bool(late)
                averaged = experiment.snapshot_due(step) and step > snapshot
                if due or averaged:
                    log.catch_up()  # nothing that is not finite is saved
                if averaged:
                    snapshots.save(step, parallel.leave(state).tracks)
                    snapshots.wait()  # a checkpoint has all snapshots before it
                if due:
                    checkpoints.save(
                        step, parallel.leave(state),
                        {**log.record(), "configuration": configuration},
                    )  # fmt: skip
                    saved_at = time.monotonic()
                checkpoints.check()
                if stop:
                    checkpoints.wait()
                    log.tell("stop", step=step)
                    asked.stop(step)
            checkpoints.wait()
            log.tell("end", step=step)
    return parallel.leave(state)
