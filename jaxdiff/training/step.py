"""One or several training steps as pure functions."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import optax
from optax.microbatching import AccumulationType, microbatch

from jaxdiff import rng
from jaxdiff.denoisers.predictions import Prediction
from jaxdiff.errors import InputError
from jaxdiff.losses.objectives import Objective
from jaxdiff.parallel import MeanOf, Step, alone
from jaxdiff.training.adapter import LowRank
from jaxdiff.training.state import TrainState
from jaxdiff.training.task import Diffusion, Task
from jaxdiff.typing import AnySchedule, Array, Batch, Network

Tree = TypeVar("Tree")


def train_step(
    state: TrainState,
    batch: Batch,
    mean_of: MeanOf = alone,
    *,
    network: Network,
    schedule: AnySchedule,
    prediction: Prediction,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    ema_decay: float,
    ema_lengths: tuple[float, ...] = (),
    seed: int,
    accumulate: int = 1,
    guard: bool = True,
    adapter: LowRank | None = None,
) -> tuple[TrainState, dict[str, Array]]:
    """Returns the next state and the metrics: a pure function of state and batch.

    Args:
        state: Train state.
        batch: Examples, or one device's share of them.
        mean_of: Function that averages over the devices; see `parallel`.
        network: Network to train. If it has a method `normalized` from parameters to
            parameters, each update ends with it.
        schedule: Noise schedule.
        prediction: Quantity that the network predicts.
        objective: Loss to minimize.
        optimizer: Optax optimizer.
        ema_decay: Decay of the parameters' moving average.
        ema_lengths: Relative lengths of the state's `tracks`, one for each.
        seed: Seed of the run; with the state's step it makes the step's key.
        accumulate: Number of parts in which the examples are processed, one after the
            other, to save memory. It must divide the number of examples; the gradient
            is the mean over the whole batch.
        guard: If True, a loss or gradient that is not finite leaves the state
            unchanged, except its step.
        adapter: Adapter whose factors the state's `params` are; it changes the state's
            `frozen` parameters of the network. None if `params` are the network's.

    Returns:
        The next state, and the metrics of `loss_fn` with two more. `grad_norm` is the
        gradient's global norm before clipping. `finite` is True if this norm and the
        loss are finite.
    """
    model: Any = _Parts(network, schedule, prediction)
    return task_step(
        state, batch, mean_of, task=Diffusion(model, objective, adapter),
        optimizer=optimizer, ema_decay=ema_decay, ema_lengths=ema_lengths, seed=seed,
        accumulate=accumulate, guard=guard,
    )  # fmt: skip


class _Parts(NamedTuple):
    """Parts of a model that a step uses."""

    network: Network
    schedule: AnySchedule
    prediction: Prediction


def task_step(
    state: TrainState,
    batch: Batch,
    mean_of: MeanOf = alone,
    *,
    task: Task,
    optimizer: optax.GradientTransformation,
    ema_decay: float,
    ema_lengths: tuple[float, ...] = (),
    seed: int,
    accumulate: int = 1,
    guard: bool = True,
) -> tuple[TrainState, dict[str, Array]]:
    """Returns the next state and the metrics of any task; see `train_step`."""
    key = jax.random.fold_in(rng.key(seed), state.step)
    # A branch below would copy the frozen parameters.
    frozen, state = state.frozen, state._replace(frozen=())

    def mean(fn: Callable[[Any, Batch], Tree], shared: Any) -> Tree:
        def of_share(shared: Any, share: Batch) -> Tree:
            return averaged(partial(fn, shared), share, accumulate)

        found: Tree = mean_of(of_share, shared, batch)
        return found

    gradients, metrics = task.gradient(state, frozen, key, mean)
    metrics["grad_norm"] = optax.tree.norm(gradients)
    finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"])
    metrics["finite"] = finite
    memory = task.remembered(state.memory, metrics)
    kept = state._replace(step=state.step + 1)

    def update() -> TrainState:
        stepped = state.apply_gradients(
            gradients, optimizer, ema_decay, ema_lengths, task.constrained
        )
        return stepped._replace(memory=memory)

    stepped = jax.lax.cond(finite, update, lambda: kept) if guard else update()
    return stepped._replace(frozen=frozen), metrics


def averaged(fn: Callable[[Any], Tree], batch: Any, parts: int) -> Tree:
    """Returns the mean of `fn` over equal parts of a batch, one after the other.

    Part i holds the examples i, i + parts, ...: no example moves to another device.
    """
    rows = len(jax.tree.leaves(batch)[0])
    if rows % parts:
        raise InputError(f"accumulate must divide the {rows} examples, got {parts}")
    size = None if parts == 1 else rows // parts
    return microbatch(fn, 0, size, AccumulationType.MEAN)(batch)


def scan_steps(step: Step) -> Step:
    """Returns several steps as one, by a scan over their batches.

    This helps small models on fast devices, if starting a step takes longer than the
    step.

    Args:
        step: Function `(state, batch, mean_of) -> (state, metrics)`.

    Returns:
        The same function with a second axis in the batch, [examples, steps, ...], and a
        first axis in the metrics, [steps, ...].
    """

    def steps(state: Any, batch: Any, mean_of: MeanOf) -> tuple[Any, Any]:
        count = jax.tree.leaves(batch)[0].shape[1]
        if count == 1:  # a loop of one step would only hinder the compiler
            only = jax.tree.map(lambda a: a[:, 0], batch)
            state, metrics = step(state, only, mean_of)
            return state, jax.tree.map(lambda a: a[None], metrics)
        batches = jax.tree.map(lambda a: a.swapaxes(0, 1), batch)
        return jax.lax.scan(lambda s, b: step(s, b, mean_of), state, batches)

    return steps
