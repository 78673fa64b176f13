"""One step of training, and several, as pure functions."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import optax
from optax.microbatching import AccumulationType, microbatch

from jaxdiff.denoisers.predictions import Prediction
from jaxdiff.errors import InputError
from jaxdiff.losses.loss import loss_fn
from jaxdiff.losses.objectives import Objective
from jaxdiff.parallel import MeanOf, Step, alone
from jaxdiff.training.state import TrainState
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
) -> tuple[TrainState, dict[str, Array]]:
    """One step of training: a pure function of the state and the batch.

    Args:
        state: the train state.
        batch: the examples, or one device's share of them.
        mean_of: averages a function of the batch over the devices; see `parallel`.
        network: the network.
        schedule: the noise schedule.
        prediction: what the network predicts.
        objective: what to make small.
        optimizer: the Optax optimiser.
        ema_decay: decay of the parameters' moving average.
        ema_lengths: the relative lengths of the state's `tracks`, one for each.
        seed: the run's seed; with the state's step it makes the step's key.
        accumulate: in how many parts the examples are taken, one after the other, to
            save memory; it divides their number. The gradient is the whole batch's.
        guard: where the loss or the gradient is not finite, leave all of the state as
            it is but the number of the step.

    Returns:
        The next state, and the metrics of `loss_fn` with `grad_norm`, the gradient's
        global norm before clipping, and `finite`, whether it and the loss are.
    """
    key = jax.random.fold_in(jax.random.key(seed), state.step)
    gradient_fn = jax.grad(loss_fn, has_aux=True)

    def gradient_of(shared: Any, share: Batch) -> Any:
        params, memory, key = shared

        def of(part: Batch) -> Any:
            return gradient_fn(
                params, network, schedule, part, key, prediction, objective, memory
            )

        return averaged(of, share, accumulate)

    shared = (state.params, state.memory, key)
    gradients, metrics = mean_of(gradient_of, shared, batch)
    metrics["grad_norm"] = optax.tree.norm(gradients)
    finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"])
    metrics["finite"] = finite
    memory = objective.times.update(state.memory, metrics.pop("seen"))
    kept = state._replace(step=state.step + 1)

    def update() -> TrainState:
        stepped = state.apply_gradients(gradients, optimizer, ema_decay, ema_lengths)
        return stepped._replace(memory=memory)

    stepped = jax.lax.cond(finite, update, lambda: kept) if guard else update()
    return stepped, metrics


def averaged(fn: Callable[[Any], Tree], batch: Any, parts: int) -> Tree:
    """The mean of `fn` over equal parts of a batch, taken one after the other.

    Part i holds the examples i, i + parts, ...: none moves to another device.
    """
    rows = len(jax.tree.leaves(batch)[0])
    if rows % parts:
        raise InputError(f"accumulate must divide the {rows} examples; got {parts}")
    size = None if parts == 1 else rows // parts
    return microbatch(fn, 0, size, AccumulationType.MEAN)(batch)


def scan_steps(step: Step) -> Step:
    """Several steps as one, by a scan over their batches.

    For small models on fast devices, where starting a step takes longer than the step.

    Args:
        step: `(state, batch, mean_of) -> (state, metrics)`.

    Returns:
        The same with a second axis in the batch, [examples, steps, ...], and a first
        one in the metrics, [steps, ...].
    """

    def steps(state: Any, batch: Any, mean_of: MeanOf) -> tuple[Any, Any]:
        count = jax.tree.leaves(batch)[0].shape[1]
        if count == 1:  # a loop of one would only hinder the compiler
            only = jax.tree.map(lambda a: a[:, 0], batch)
            state, metrics = step(state, only, mean_of)
            return state, jax.tree.map(lambda a: a[None], metrics)
        batches = jax.tree.map(lambda a: a.swapaxes(0, 1), batch)
        return jax.lax.scan(lambda s, b: step(s, b, mean_of), state, batches)

    return steps
