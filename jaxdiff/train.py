"""Training: one pure step, and the loop that runs it."""

import os
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from jaxdiff import data
from jaxdiff.checkpoint import Checkpoints, ensure_writable
from jaxdiff.experiment import DataInfo, Experiment
from jaxdiff.interrupt import between_steps
from jaxdiff.loss import QUARTERS, check_batch, loss_fn
from jaxdiff.metrics.writer import JsonLines
from jaxdiff.objective import Objective
from jaxdiff.parallel import Mean, Pmap
from jaxdiff.prediction import Prediction
from jaxdiff.run import build_network, init_state, write_record
from jaxdiff.train_state import TrainState
from jaxdiff.typing import AnySchedule, Array, Batch, Network


def train_step(
    state: TrainState,
    batch: Batch,
    mean: Mean = lambda tree: tree,
    *,
    network: Network,
    schedule: AnySchedule,
    prediction: Prediction,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    ema_decay: float,
    seed: int,
) -> tuple[TrainState, dict[str, Array]]:
    """One step of training: a pure function of the state and the batch.

    Args:
        state: the train state.
        batch: the examples, or one device's share of them.
        mean: averages a pytree over the devices.
        network: the network.
        schedule: the noise schedule.
        prediction: what the network predicts.
        objective: what to make small.
        optimizer: the Optax optimiser.
        ema_decay: decay of the parameters' moving average.
        seed: the run's seed; with the state's step it makes the step's key.

    Returns:
        The next state, and the metrics of `loss_fn` with `grad_norm`, the gradient's
        global norm before clipping.
    """
    key = jax.random.fold_in(jax.random.key(seed), state.step)
    gradient_fn = jax.grad(loss_fn, has_aux=True)
    gradients, metrics = gradient_fn(
        state.params, network, schedule, batch, key, prediction, objective, state.memory
    )
    gradients, metrics = mean((gradients, metrics))
    metrics["grad_norm"] = optax.tree.norm(gradients)
    memory = objective.times.update(state.memory, metrics.pop("seen"))
    state = state.apply_gradients(gradients, optimizer, ema_decay)
    return state._replace(memory=memory), metrics


def train(
    experiment: Experiment,
    workdir: str | os.PathLike[str],
    *,
    parallel: Pmap | None = None,
    progress: bool = True,
) -> TrainState:
    """Trains, or goes on where the workdir's newest checkpoint stopped.

    Args:
        experiment: what to train.
        workdir: the run folder; see `jaxdiff.run`.
        parallel: how steps run on devices; all local devices by default.
        progress: show a progress bar.

    Returns:
        The final train state.

    Raises:
        InputError: an option does not fit the data or the devices; the workdir cannot
            be written, or holds a run of another configuration.
    """
    from tqdm import tqdm

    # What is asked for, checked before anything is written.
    training, upkeep = experiment.training, experiment.upkeep
    parallel = parallel or Pmap()
    parallel.check_batch_size(training.batch_size)
    schedule = experiment.schedule.build()
    experiment.check(schedule)
    dataset = experiment.data.load("train")
    info = data_info(experiment, dataset)
    experiment.check_guidance(info.num_classes)
    network = build_network(experiment, info)
    get_batch = partial(_batch, experiment, dataset, info)
    check_batch(get_batch(0), info.num_classes)
    workdir = Path(workdir)
    ensure_writable(workdir)
    write_record(workdir, experiment, info)

    step_fn = parallel.step(
        partial(
            train_step,
            network=network,
            schedule=schedule,
            prediction=experiment.prediction,
            objective=experiment.objective,
            optimizer=experiment.optimizer.build(training.num_steps),
            ema_decay=training.ema_decay,
            seed=experiment.seed,
        )
    )
    learning_rate = experiment.optimizer.schedule(training.num_steps)

    with Checkpoints(workdir / "checkpoints", keep=upkeep.keep) as checkpoints:
        state = initial_state(experiment, info, parallel, checkpoints)
        start = int(state.step)
        with (
            between_steps() as check_interrupt,
            JsonLines(workdir / "metrics.jsonl", start) as writer,
            tqdm(
                total=training.num_steps, initial=start, unit="step", smoothing=0.1,
                disable=not progress, desc="train", dynamic_ncols=True,
            ) as bar,
        ):  # fmt: skip
            if start < training.num_steps:
                bar.set_postfix_str("compiling")
            # Steps are dispatched without waiting for them: the metrics of an interval
            # are fetched when the next one has been dispatched.
            dispatched: list[dict[str, Array]] = []
            waiting: tuple[int, list[dict[str, Array]]] | None = None
            clock = time.perf_counter()

            def report() -> None:
                nonlocal clock
                if waiting is None:
                    return
                step, metrics = waiting
                values = summary(jax.device_get(metrics))
                now = time.perf_counter()
                values["learning_rate"] = float(learning_rate(step - 1))
                values["images_per_s"] = (
                    len(metrics) * training.batch_size / (now - clock)
                )
                clock = now
                writer.write(step, values)
                bar.set_postfix_str(
                    f"loss {values['loss']:.4f}, {values['images_per_s']:.0f} images/s"
                )
                bar.update(step - bar.n)

            for step in range(start + 1, training.num_steps + 1):
                state, metrics = step_fn(state, get_batch(step - 1))
                dispatched.append(metrics)
                last = step == training.num_steps
                if step % upkeep.log_every == 0 or last:
                    report()
                    waiting, dispatched = (step, dispatched), []
                if step % upkeep.checkpoint_every == 0 or last:
                    # A run that goes on from here must find its metrics up to here.
                    report()
                    waiting = None
                    checkpoints.save(step, state)
                check_interrupt()
    return state


def initial_state(
    experiment: Experiment, info: DataInfo, parallel: Pmap, checkpoints: Checkpoints
) -> TrainState:
    """The newest checkpoint's state, or that of step 0, on the devices."""
    init = partial(init_state, experiment, info)
    shapes = jax.eval_shape(init)
    shardings = parallel.shardings(shapes)
    if checkpoints.latest() is None:
        return jax.jit(init, out_shardings=shardings)()
    template = jax.tree.map(
        lambda a, sharding: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding),
        shapes, shardings,
    )  # fmt: skip
    return checkpoints.restore(template)


def data_info(experiment: Experiment, dataset: data.Dataset) -> DataInfo:
    """What the model must know of the data."""
    conditional = experiment.conditional and dataset.num_classes is not None
    return DataInfo(
        dataset.image_shape,
        dataset.num_classes if conditional else None,
        dataset.class_names if conditional else None,
    )


def summary(metrics: list[dict[str, np.ndarray]]) -> dict[str, float]:
    """The means over several steps, with the loss of each quarter of the time range."""
    means: dict[str, Any] = {
        name: np.mean([m[name] for m in metrics], axis=0) for name in metrics[0]
    }
    part, share = means.pop("loss_by_quarter"), means.pop("share_by_quarter")
    for q in range(QUARTERS):
        if share[q]:
            means[f"loss_q{q + 1}"] = part[q] / share[q]
    return {name: float(value) for name, value in means.items()}


def _batch(
    experiment: Experiment, dataset: data.Dataset, info: DataInfo, step: int
) -> Batch:
    """The batch of a step, without its labels where the model takes none."""
    size = experiment.training.batch_size
    batch = data.batch(dataset, experiment.seed, step, size, flip=experiment.data.flip)
    return batch if info.num_classes is not None else batch._replace(labels=None)
