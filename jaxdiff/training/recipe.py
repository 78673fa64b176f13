"""Recipe of training: all that a step needs besides the state and the batch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import jax
import optax

from jaxdiff.parallel import MeanOf, Parallel, alone
from jaxdiff.storage.read_state import leaf_name
from jaxdiff.training.optimizer import Optimizer
from jaxdiff.training.state import TrainState
from jaxdiff.training.step import scan_steps, task_step
from jaxdiff.training.task import Task
from jaxdiff.typing import Array, Batch, Params


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Task with its options of training; equal recipes share compiled programs.

    Attributes:
        task: What to train, and its loss.
        optimizer: Options of the optimizer, or an Optax optimizer, which is equal to
            itself alone.
        num_steps: Number of steps in total, on which the learning-rate schedule may
            depend.
        ema_decay: Decay of the parameters' moving average, in [0, 1).
        ema_lengths: Relative lengths of further averages, in (0, 0.288).
        seed: Seed of all randomness of training.
        accumulate: Number of parts in which a device processes its share of a batch.
        guard: If True, skips the update of a step whose loss or gradient is not finite.
    """

    task: Task
    optimizer: Optimizer | optax.GradientTransformation = field(
        default_factory=Optimizer
    )
    num_steps: int
    ema_decay: float = 0.9999
    ema_lengths: tuple[float, ...] = ()
    seed: int = 0
    accumulate: int = 1
    guard: bool = True

    def _optimizer(self) -> optax.GradientTransformation:
        if isinstance(self.optimizer, Optimizer):
            return self.task.optimizer(self.optimizer, self.num_steps)
        return self.optimizer

    def init(self, start: Mapping[str, Array] | None = None) -> TrainState:
        """Returns the state at step 0.

        Args:
            start: Parameters by name, such as "dense/kernel", that replace the initial
                ones.
        """
        params = self.task.init(self.seed)
        if start:
            params = _with_start(params, start, cast=not self.task.freezes)
        return self.state_of(params)

    def state_of(self, params: Params) -> TrainState:
        """Returns the state at step 0 with these parameters, frozen ones included."""
        trained, frozen = self.task.split(params, self.seed)
        return TrainState.create(
            trained, self._optimizer(), self.task.memory(), len(self.ema_lengths),
            frozen,
        )  # fmt: skip

    def step(
        self, state: TrainState, batch: Batch, mean_of: MeanOf = alone
    ) -> tuple[TrainState, dict[str, Array]]:
        """Returns the next state and the metrics; see `train_step`."""
        return task_step(
            state, batch, mean_of, task=self.task, optimizer=self._optimizer(),
            ema_decay=self.ema_decay, ema_lengths=self.ema_lengths, seed=self.seed,
            accumulate=self.accumulate, guard=self.guard,
        )  # fmt: skip


def _with_start(params: Params, start: Mapping[str, Array], cast: bool) -> Params:
    """Returns parameters with those of `start`; `cast` keeps the types of the former.

    Frozen parameters keep the type in which they were loaded, to save memory.
    """

    def leaf_of(path: Any, leaf: Array) -> Array:
        found = start.get(leaf_name(path), leaf)
        return found.astype(leaf.dtype) if cast else found

    return jax.tree.map_with_path(leaf_of, params)


@lru_cache(maxsize=32)
def state_shapes(recipe: Recipe) -> TrainState:
    """Returns the shapes and types of the recipe's state."""
    shapes: TrainState = jax.eval_shape(recipe.init)
    return shapes


@lru_cache(maxsize=32)
def compiled_init(recipe: Recipe, parallel: Parallel) -> Callable[[Any], TrainState]:
    """Returns `recipe.init`, compiled to put the state on the devices."""
    shardings = parallel.shardings(state_shapes(recipe))
    return jax.jit(recipe.init, out_shardings=shardings)


@lru_cache(maxsize=32)
def compiled_steps(
    recipe: Recipe, parallel: Parallel
) -> Callable[[Any, Any], tuple[Any, dict[str, Array]]]:
    """Returns a function of a state, which is donated, and the batches of some steps.

    The batches' axis of steps follows their axis of examples; see `scan_steps`.
    """
    return parallel.step(scan_steps(recipe.step))
