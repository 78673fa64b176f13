"""Training: the loop that runs the steps."""

import os
import time
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxdiff import data
from jaxdiff.checkpoint import Checkpoints, ensure_writable
from jaxdiff.errors import require
from jaxdiff.experiment import DataInfo, Experiment
from jaxdiff.hosts import is_first
from jaxdiff.interrupt import between_steps
from jaxdiff.loss import QUARTERS, check_batch
from jaxdiff.metrics.writer import JsonLines
from jaxdiff.run import (
    build_network,
    init_state,
    load_data,
    newest_step,
    placed,
    write_record,
)
from jaxdiff.step import several, train_step
from jaxdiff.train_state import TrainState
from jaxdiff.typing import Array, Batch


def train(
    experiment: Experiment,
    workdir: str | os.PathLike[str],
    *,
    progress: bool = True,
) -> TrainState:
    """Trains, or goes on where the workdir's newest checkpoint stopped.

    Of several processes (see `jaxdiff.hosts`) each calls it with the same arguments,
    and a workdir that all of them see.

    Args:
        experiment: what to train.
        workdir: the run folder; see `jaxdiff.run`.
        progress: show a progress bar.

    Returns:
        The final train state.

    Raises:
        InputError: an option does not fit the data or the devices; the workdir cannot
            be written, or holds a run of another configuration.
    """
    tqdm = require("tqdm").tqdm

    # What is asked for, checked before anything is written.
    training, upkeep = experiment.training, experiment.upkeep
    parallel = experiment.parallel
    parallel.check_batch_size(training.batch_size, training.accumulate)
    schedule = experiment.schedule.build()
    experiment.check(schedule)
    dataset = load_data(experiment, "train")
    info = data_info(experiment, dataset)
    experiment.check_guidance(info.num_classes)
    network = build_network(experiment, info)
    rows = parallel.rows(training.batch_size)
    get_batches = partial(_batches, experiment, dataset, info, rows)
    check_batch(_batch(experiment, dataset, info, rows, 0), info.num_classes)
    workdir = Path(workdir)
    ensure_writable(workdir)
    if is_first():
        write_record(workdir, experiment, info)

    step_fn = parallel.step(
        several(
            partial(
                train_step,
                network=network,
                schedule=schedule,
                prediction=experiment.prediction,
                objective=experiment.objective,
                optimizer=experiment.optimizer.build(training.num_steps),
                ema_decay=training.ema_decay,
                seed=experiment.seed,
                accumulate=training.accumulate,
            )
        )
    )
    learning_rate = experiment.optimizer.schedule(training.num_steps)

    with Checkpoints(workdir / "checkpoints", keep=upkeep.keep) as checkpoints:
        state = parallel.enter(initial_state(experiment, info, checkpoints))
        start = step = int(state.step)
        with (
            between_steps() as check_interrupt,
            _writer(workdir, start) as writer,
            tqdm(
                total=training.num_steps, initial=start, unit="step", smoothing=0.1,
                disable=not (progress and is_first()), desc="train",
                dynamic_ncols=True,
            ) as bar,
        ):  # fmt: skip
            if start < training.num_steps:
                bar.set_postfix_str("compiling")
            # Steps are dispatched without waiting for them: the metrics of an interval
            # are fetched when the next one has been dispatched.
            dispatched: list[dict[str, Array]] = []
            waiting: tuple[int, list[dict[str, Array]]] | None = None
            clock, reported = time.perf_counter(), start

            def report() -> None:
                nonlocal clock, reported
                if waiting is None:
                    return
                step, metrics = waiting
                values = summary(jax.device_get(metrics))
                now = time.perf_counter()
                values["learning_rate"] = float(learning_rate(step - 1))
                values["images_per_s"] = (
                    (step - reported) * training.batch_size / (now - clock)
                )
                clock, reported = now, step
                if writer is not None:
                    writer.write(step, values)
                bar.set_postfix_str(
                    f"loss {values['loss']:.4f}, {values['images_per_s']:.0f} images/s"
                )
                bar.update(step - bar.n)

            while step < training.num_steps:
                # As many as may be dispatched, up to the next report or the end.
                count = min(
                    training.steps_per_dispatch,
                    upkeep.log_every - step % upkeep.log_every,
                    training.num_steps - step,
                )
                state, metrics = step_fn(state, get_batches(step, count))
                step += count
                dispatched.append(metrics)
                last = step == training.num_steps
                if step % upkeep.log_every == 0 or last:
                    report()
                    waiting, dispatched = (step, dispatched), []
                if step % upkeep.checkpoint_every == 0 or last:
                    # A run that goes on from here must find its metrics up to here.
                    report()
                    waiting = None
                    checkpoints.save(step, parallel.leave(state))
                check_interrupt()
    return parallel.leave(state)


def initial_state(
    experiment: Experiment, info: DataInfo, checkpoints: Checkpoints
) -> TrainState:
    """The newest checkpoint's state, or that of step 0, on the devices."""
    init = partial(init_state, experiment, info)
    shapes = jax.eval_shape(init)
    shardings = experiment.parallel.shardings(shapes)
    newest = newest_step(checkpoints)
    if newest is None:
        return jax.jit(init, out_shardings=shardings)()
    return checkpoints.restore(placed(shapes, shardings), newest)


def _writer(workdir: Path, step: int) -> AbstractContextManager[JsonLines | None]:
    """What writes the metrics after a step, in the process that does."""
    return JsonLines(workdir / "metrics.jsonl", step) if is_first() else nullcontext()


def data_info(experiment: Experiment, dataset: data.Dataset) -> DataInfo:
    """What the model must know of the data."""
    conditional = experiment.conditional and dataset.num_classes is not None
    return DataInfo(
        dataset.image_shape,
        dataset.num_classes if conditional else None,
        dataset.class_names if conditional else None,
    )


def summary(metrics: list[dict[str, np.ndarray]]) -> dict[str, float]:
    """The means over several steps, with the loss of each quarter of the time range.

    Args:
        metrics: of each dispatch the metrics of its steps, [steps, ...].
    """
    means: dict[str, Any] = {
        name: np.concatenate([m[name] for m in metrics]).mean(axis=0)
        for name in metrics[0]
    }
    part, share = means.pop("loss_by_quarter"), means.pop("share_by_quarter")
    for q in range(QUARTERS):
        if share[q]:
            means[f"loss_q{q + 1}"] = part[q] / share[q]
    return {name: float(value) for name, value in means.items()}


def _batches(
    experiment: Experiment,
    dataset: data.Dataset,
    info: DataInfo,
    rows: np.ndarray,
    step: int,
    count: int,
) -> Batch:
    """These rows of the batches of `count` steps, [rows, count, ...]."""
    steps = range(step, step + count)
    batches = [_batch(experiment, dataset, info, rows, s) for s in steps]
    return jax.tree.map(lambda *parts: np.stack(parts, axis=1), *batches)


def _batch(
    experiment: Experiment,
    dataset: data.Dataset,
    info: DataInfo,
    rows: np.ndarray,
    step: int,
) -> Batch:
    """These rows of a step's batch, without labels where the model takes none."""
    size = experiment.training.batch_size
    batch = data.batch(
        dataset, experiment.seed, step, size, flip=experiment.data.flip, rows=rows
    )
    return batch if info.num_classes is not None else batch._replace(labels=None)
