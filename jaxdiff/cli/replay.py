"""The command `replay`: one step of a run again, in detail."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff import data, plots, rng
from jaxdiff.cli.progress import bar
from jaxdiff.cli.train import devices_again
from jaxdiff.data import to_uint8
from jaxdiff.errors import InputError, printable
from jaxdiff.losses.loss import draw
from jaxdiff.parallel import cpu_devices
from jaxdiff.runs.folder import (
    CHECKPOINTS,
    MODELS,
    NONFINITE,
    check_record,
    check_workdir,
    read_config,
)
from jaxdiff.runs.stages import Stage, segments, stages_before
from jaxdiff.runs.trainer import Trainer
from jaxdiff.storage.checkpoints import Checkpoints
from jaxdiff.storage.files import ensure_writable, read_json, replacing
from jaxdiff.storage.read_state import by_name
from jaxdiff.training.experiment import Experiment
from jaxdiff.training.state import TrainState
from jaxdiff.training.task import Diffusion
from jaxdiff.typing import Batch

SHOWN = 10
"""Number of examples and gradients printed; the non-finite ones come first."""


@dataclass(frozen=True, kw_only=True)
class ReplayOptions:
    """Options of the command `replay`."""

    workdir: Path
    """Run folder of the step to repeat."""
    step: int | None = None
    """Step to repeat, counted from 1 as in metrics.jsonl.
    None takes the step whose loss was not finite."""
    out: Path | None = None
    """Folder for replay-STEP.npz and replay-STEP.png. None takes the run folder."""


def replay(options: ReplayOptions, data_of_run: data.Data | None = None) -> None:
    """Repeats a step from the checkpoint before it, and prints its details.

    On the same devices, the steps up to it are bitwise identical to the run's. If
    `steps_per_dispatch` is above 1, they agree up to rounding. The files of the run
    stay as they are.

    Args:
        options: options of the command.
        data_of_run: data of the run, if they have moved.

    Raises:
        InputError: there is no such run or step, or the data has changed.
    """
    cpu_devices.use(devices_again(options.workdir))
    if jax.process_count() > 1:
        raise InputError("replay must run in one process. Start it without a launcher.")
    workdir, step = options.workdir, options.step
    experiment, _ = read_config(workdir)
    if not isinstance(experiment, Experiment):
        raise InputError(
            f"'{workdir}' must be the run of a diffusion model, whose images each have "
            f"a time and a loss to list, got one of {MODELS[type(experiment)]}. Repeat "
            "its steps with jaxdiff reproduce."
        )
    if step is None:
        if not (workdir / NONFINITE).exists():
            raise InputError(
                f"'{workdir}' has no {NONFINITE}. Give the step to replay with --step."
            )
        step = read_json(workdir / NONFINITE).get("step")
    if type(step) is not int or not 1 <= step <= experiment.training.num_steps:
        raise InputError(
            f"step must lie in 1..{experiment.training.num_steps}, got {step!r}"
        )
    out = options.out or workdir
    ensure_writable(out, "--out")
    if data_of_run is not None:
        experiment = replace(experiment, data=data_of_run)
    trainer = Trainer.of(experiment)
    check_workdir(workdir, experiment, trainer.info)
    with Checkpoints(workdir / CHECKPOINTS) as checkpoints:

        def read_stages(newest: int | None) -> list[Stage]:
            record = {} if newest is None else checkpoints.record(newest)
            return stages_before(record, experiment)

        def read(start: int | None) -> tuple[int, TrainState]:
            if start is not None:
                record = checkpoints.record(start)
                check_record(record, workdir, experiment, trainer.info)
            return start or 0, trainer.initial_state(checkpoints, start)

        stages = checkpoints.read_newest(read_stages)
        latest = partial(checkpoints.latest, below=step)
        start, state = checkpoints.read_newest(read, latest)
        state = experiment.parallel.localize(state)
    with bar(step - start, "replay", "step") as done:
        for part, begin, until in segments(stages, experiment, start, step):
            trainer = Trainer.of(part, trainer.dataset)
            for at, batches in trainer.feed(begin, min(until, step - 1)):
                state, _ = trainer.advance(state, batches)
                done(at - start)
        before = jax.device_get(experiment.parallel.globalize(state))
        ((_, batches),) = trainer.feed(step - 1, step)
        _, metrics = trainer.advance(state, batches)
        done(step - start)
    loss, norm = (float(metrics[name][0]) for name in ("loss", "grad_norm"))
    print(
        f"step {step} of seed {experiment.seed}, from the checkpoint of step "
        f"{start}: loss {loss:g}, gradient norm {norm:g}"
    )

    size = experiment.training.batch_size
    batch = trainer.batch(step - 1, np.arange(size))
    places = trainer.dataset.examples(experiment.seed, step - 1, size)
    losses, times, gradient = _one_by_one(trainer, before, batch)
    # Order by loss: non-finite ones first, then from the largest.
    order = np.argsort(np.where(np.isfinite(losses), -losses, -np.inf), kind="stable")
    print(f"  {'in the data':>12} {'class':>6} {'time':>8} {'loss':>12}")
    for i in order[:SHOWN]:
        label = "-" if batch.labels is None else batch.labels[i]
        print(f"  {places[i]:>12} {label:>6} {times[i]:>8g} {losses[i]:>12.6g}")
    norms = {name: float(np.linalg.norm(g)) for name, g in gradient.items()}
    bad = [name for name, value in norms.items() if not np.isfinite(value)]
    if bad:
        more = f" and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
        print(f"  gradients not finite: {', '.join(bad[:SHOWN])}{more}")
    else:
        largest = sorted(norms, key=norms.__getitem__, reverse=True)[:3]
        parts = [f"{name} {norms[name]:.3g}" for name in largest]
        print(f"  the largest gradients: {', '.join(parts)}")

    path = out / f"replay-{step}.npz"
    arrays: dict[str, Any] = {
        "images": batch.images, "examples": places, "times": times, "losses": losses
    }  # fmt: skip
    if batch.labels is not None:
        arrays["labels"] = batch.labels
    with replacing(path) as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
    picture = path.with_suffix(".png")
    images = batch.images[order][:64]
    if trainer.parts is not None:
        images = trainer.parts.decode(images)
    shown = np.nan_to_num(images, nan=1.0)
    plots.save_grid(picture, to_uint8(shown), columns=8)
    print(
        printable(
            f"the batch is in {path}; its images, by decreasing loss, are in {picture}"
        )
    )


def _one_by_one(
    trainer: Trainer, state: TrainState, batch: Batch
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Returns each example's loss and time, and the batch's gradient by names.

    Runs on one device, one example at a time, so that it fits in memory if a step did.
    """
    task = trainer.task
    assert isinstance(task, Diffusion), "a diffusion model"
    key = jax.random.fold_in(rng.key(trainer.experiment.seed), state.step)
    schedule, objective = task.model.schedule, task.objective

    @jax.jit
    def run(state: TrainState, batch: Batch) -> Any:
        def one(total: Any, example: Batch) -> Any:
            single = jax.tree.map(lambda a: a[None], example)

            (loss, _), gradient = jax.value_and_grad(task.loss, has_aux=True)(
                state.params, state.frozen, single, key, state.memory, state.step
            )
            t = draw(single, key, schedule, objective, state.memory).t[0]
            return jax.tree.map(jnp.add, total, gradient), (loss, t)

        zeros = jax.tree.map(jnp.zeros_like, state.params)
        total, (losses, times) = jax.lax.scan(one, zeros, batch)
        return losses, times, jax.tree.map(lambda a: a / len(losses), total)

    batch = jax.tree.map(jnp.asarray, batch)
    losses, times, gradient = jax.device_get(run(state, batch))
    return losses, times, by_name(gradient)
