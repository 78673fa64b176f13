"""Training without a run folder, for notebooks and for your own networks."""

import importlib.util
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain, islice
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdiff.checks import check_untraced
from jaxdiff.errors import InputError, NonFiniteError
from jaxdiff.losses.loss import check_combination
from jaxdiff.losses.objectives import Objective, Simple
from jaxdiff.parallel import Parallel, Pmap
from jaxdiff.progress_bar import bar
from jaxdiff.training.model import Model
from jaxdiff.training.optimizer import Optimizer
from jaxdiff.training.recipe import Recipe, compiled_init, compiled_steps
from jaxdiff.training.state import TrainState
from jaxdiff.training.task import Diffusion
from jaxdiff.typing import Batch

_OUTSIDE = (
    "Call fit outside jit, grad and vmap; compile or differentiate train_step instead"
)


def fit(
    model: Model,
    batches: Iterable[Any],
    num_steps: int,
    *,
    objective: Objective | None = None,
    optimizer: Optimizer | optax.GradientTransformation | None = None,
    ema_decay: float = 0.999,
    seed: int = 0,
    parallel: Parallel | None = None,
    state: TrainState | None = None,
    on_step: Callable[[int, dict[str, Any]], None] | None = None,
    progress: bool = True,
) -> TrainState:
    """Trains a model and returns its final state; sampling uses `state.ema`.

    This function writes nothing. `jaxdiff.train` also writes logs and checkpoints.

    Args:
        model: Model to train.
        batches: One item per step: a `Batch`, a pair (images, labels), or images alone.
            Images are float [batch, height, width, channels] in [-1, 1], labels are
            integers [batch]. `Dataset.batches` yields them without end, shuffled.
        num_steps: Number of steps.
        objective: Loss to minimize; `Simple()` by default.
        optimizer: Options, or an Optax optimizer. The default is Adam with a learning
            rate of 1e-3 and 100 steps of warm-up.
        ema_decay: Decay of the parameters' moving average after a warm-up, in [0, 1).
        seed: Seed of the initial parameters, the times, the noise and the dropout.
        parallel: Layout of the devices; by default all devices, if they divide a batch.
        state: State to continue from, which stays intact; a new one by default.
        on_step: Function called with each step's number and metrics; it makes the host
            wait for the devices.
        progress: If True, shows a progress bar, or lines outside a terminal, if tqdm
            is installed.

    Raises:
        InputError: If an argument is invalid or traced by JAX, or `batches` has fewer
            than `num_steps` items.
        NonFiniteError: If a loss or a gradient is not finite.
    """
    if num_steps < 1:
        raise InputError(f"num_steps must be at least 1, got {num_steps}")
    task = Diffusion(model, objective or Simple())
    recipe = Recipe(
        task=task,
        optimizer=optimizer or Optimizer(learning_rate=1e-3, warmup_steps=100),
        num_steps=num_steps,
        ema_decay=ema_decay,
        seed=seed,
    )
    # Inside jit, every new array is traced.
    given = (jnp.zeros(()), model.schedule, state, ema_decay, seed)
    check_untraced("arguments of fit", given, _OUTSIDE)
    check_combination(model.schedule, model.prediction, task.objective)
    found = (_batch(item, task) for item in islice(batches, num_steps))
    first = next(found, None)
    check_untraced("batches", first, _OUTSIDE)
    if first is None:
        raise InputError("batches must yield one item per step, got none")
    if state is None and task.objective.has_teacher:
        raise InputError(
            "state must have the teacher's parameters, in its field frozen, for this "
            "objective, got None. Give a state of Recipe.state_of."
        )
    if parallel is None:
        count = Pmap().usable(len(jax.devices()), len(first.images))
        parallel = Pmap(num_devices=count)
    step = compiled_steps(recipe, parallel)
    if state is None:
        state = compiled_init(recipe, parallel)({})
    else:  # a copy, because a step reuses the memory of its state
        state = jax.device_put(jax.tree.map(jnp.copy, state), parallel.shardings(state))
    begin = number = int(state.step)
    state, waiting = parallel.localize(state), None
    with _bar(num_steps, progress) as update:
        for number, batch in enumerate(chain([first], found), begin + 1):
            task.check(batch)
            one_step = jax.tree.map(lambda a: np.asarray(a)[:, None], batch)
            state, metrics = step(state, one_step)
            # The previous step has ended by now, so its metrics cause no wait.
            _look(waiting, on_step)
            waiting = number, metrics
            update()
        _look(waiting, on_step)
    if number - begin < num_steps:
        raise InputError(
            f"batches must yield {num_steps} items, one per step, got "
            f"{number - begin}. Use Dataset.batches, or itertools.cycle."
        )
    return parallel.globalize(state)


@contextmanager
def _bar(total: int, progress: bool) -> Iterator[Callable[[], Any]]:
    """Yields the update of a progress bar, if it is requested and tqdm is installed."""
    if not progress or importlib.util.find_spec("tqdm") is None:
        yield lambda: None
        return
    with bar(total, "fit", "step") as shown:

        def update() -> None:
            if shown.n:
                shown.update()
            else:  # compiled meanwhile
                shown.n = 1
                shown.unpause()

        yield update


def _batch(item: Any, task: Diffusion) -> Batch:
    """Returns an item as a `Batch`, with the condition that the network takes."""
    if not isinstance(item, Batch):
        images, labels = item if isinstance(item, tuple | list) else (item, None)
        item = Batch(images, labels, np.arange(len(images), dtype=np.int32))
    return task.taken(item)


def _look(
    step: tuple[int, Any] | None, on_step: Callable[[int, dict[str, Any]], None] | None
) -> None:
    """Raises an error if a step was not finite, and passes the metrics on."""
    if step is None:
        return
    number, metrics = step[0], {k: v[0] for k, v in jax.device_get(step[1]).items()}
    if not metrics.pop("finite"):
        raise NonFiniteError(
            f"the loss of step {number} is {metrics['loss']:g}. Use a lower learning "
            "rate.",
            number,
        )
    if on_step is not None:
        on_step(number, metrics)
