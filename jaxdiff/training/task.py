"""Task of a training: what the one training loop asks of the thing it trains.

A task is frozen and compared by value, so that equal tasks share compiled programs. The
loop knows parameters, batches and metrics, and nothing of their meaning. A diffusion
model is the task `Diffusion`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
import optax

from jaxdiff import rng
from jaxdiff.conditioning.low_resolution import LowResolution
from jaxdiff.denoisers.network import taken
from jaxdiff.errors import InputError
from jaxdiff.losses.loss import check_batch, loss_fn
from jaxdiff.losses.objectives import Objective, Simple
from jaxdiff.training.adapter import LowRank
from jaxdiff.training.model import Model
from jaxdiff.training.optimizer import Optimizer
from jaxdiff.training.state import TrainState
from jaxdiff.typing import (
    PIXELS,
    Array,
    ArrayLike,
    Batch,
    Condition,
    Key,
    Params,
)

Tree = TypeVar("Tree")
_CONDITION = 5
"""Stream of an example's key for its condition; `losses.loss.draw` has the others."""


class Mean(Protocol):
    """Mean over the whole batch: over all devices, and all accumulated parts."""

    def __call__(self, fn: Callable[[Any, Batch], Tree], shared: Any) -> Tree:
        """Returns the mean of `fn(shared, part)` over equal parts of the batch.

        Args:
            fn: Function of `shared` and some examples, whose mean is taken.
            shared: Arrays that every device sees whole, such as parameters.
        """
        ...


@runtime_checkable
class Task(Protocol):
    """Thing to train, with its loss; frozen and hashable by value."""

    @property
    def freezes(self) -> bool:
        """True if the state has parameters that training leaves unchanged."""
        ...

    def init(self, seed: int) -> Params:
        """Returns the initial parameters, with those that stay unchanged."""
        ...

    def split(self, params: Params, seed: int) -> tuple[Params, Params]:
        """Returns the parameters to train, and those that stay unchanged or ()."""
        ...

    def memory(self) -> Any:
        """Returns the initial memory: what steps remember besides parameters, or ()."""
        ...

    def optimizer(
        self, options: Optimizer, num_steps: int
    ) -> optax.GradientTransformation:
        """Returns the optimizer of all parameters; groups may have one of their own."""
        ...

    def taken(self, batch: Batch) -> Batch:
        """Returns the parts of a batch that the loss reads."""
        ...

    def check(self, batch: Batch) -> None:
        """Raises an `InputError` for a batch that does not fit."""
        ...

    def gradient(
        self, state: TrainState, frozen: Params, key: Key, mean: Mean
    ) -> tuple[Params, dict[str, Array]]:
        """Returns the gradient of the whole batch, and its metrics.

        A loss that is a sum over examples takes one mean. One that needs the whole
        batch, or the norm of a gradient, takes the mean of a first part, and then that
        of a second part in which the first result is `shared`.

        Args:
            state: State before the step, without its frozen parameters.
            frozen: Parameters that stay unchanged, or ().
            key: Key of the step.
            mean: Mean over the whole batch.

        Returns:
            The gradient of `state.params`, and metrics with a scalar `loss` among them.
        """
        ...

    def remembered(self, memory: Any, metrics: dict[str, Array]) -> Any:
        """Returns the next memory; it may take metrics away that are no use in logs."""
        ...

    def constrained(self, params: Params) -> Params:
        """Returns the parameters to keep after an update."""
        ...

    def sampling(self, params: Params, frozen: Params) -> Params:
        """Returns the parameters that a trained model has, from averaged ones."""
        ...


def check_pixels(images: ArrayLike, shape: tuple[int, ...]) -> None:
    """Checks images [batch, height, width, channels] in [-1, 1].

    Raises:
        InputError: The images have another shape than `shape`, or another range.
    """
    low, high = images.min(), images.max()
    least, most = PIXELS
    if images.shape[1:] != shape or not least <= low <= high <= most:
        raise InputError(
            f"images must be {shape} in [{least:g}, {most:g}], got {images.shape[1:]} "
            f"in [{low:g}, {high:g}]"
        )


@dataclass(frozen=True)
class Diffusion:
    """Training of a diffusion model, or of an adapter of it.

    Attributes:
        model: Model to train.
        objective: Loss to minimize.
        adapter: Adapter to train in place of the network's parameters; None trains
            these.
        condition: Condition that each step makes of its images; None for none.
    """

    model: Model
    objective: Objective = field(default_factory=Simple)
    adapter: LowRank | None = None
    condition: LowResolution | None = None

    @property
    def freezes(self) -> bool:
        """True for an adapter, whose network stays unchanged, and with a teacher."""
        return self.adapter is not None or self.objective.has_teacher

    def init(self, seed: int) -> Params:
        """Returns the network's initial parameters."""
        return self.model.init(seed)

    def split(self, params: Params, seed: int) -> tuple[Params, Params]:
        """Returns network and (), adapter and network, or student and teacher."""
        if self.adapter is None:  # a copy, because a step reuses the student's memory
            return params, jax.tree.map(jnp.copy, params) if self.freezes else ()
        return self.adapter.init(params, rng.key(seed)), params

    def memory(self) -> Any:
        """Returns the initial memory of the objective's times."""
        return self.objective.times.init()

    def optimizer(
        self, options: Optimizer, num_steps: int
    ) -> optax.GradientTransformation:
        """Returns one optimizer of all parameters."""
        return options.build(num_steps)

    def taken(self, batch: Batch) -> Batch:
        """Returns the batch with the parts of its condition that the network takes."""
        condition = taken(Condition.of(batch.condition), self.model.network)
        return batch._replace(condition=condition)

    def check(self, batch: Batch) -> None:
        """Raises an `InputError` for a batch or an objective that does not fit."""
        self.objective.check_network(self.model.network)
        batch = self._conditioned(batch, rng.key(0))
        check_batch(batch, self.model.network, self.model.data_range)

    def loss(
        self,
        params: Params,
        frozen: Params,
        batch: Batch,
        key: Key,
        memory: Any,
        step: Array | int = 0,
    ) -> tuple[Array, dict[str, Any]]:
        """Returns the loss of some examples, and its metrics; see `loss_fn`."""
        model = self.model
        whole = self.adapter.applied(frozen, params) if self.adapter else params
        batch = self._conditioned(batch, key)
        return loss_fn(
            whole, model.network, model.schedule, batch, key, model.prediction,
            self.objective, memory, step=step,
            teacher=frozen if self.objective.has_teacher else None,
        )  # fmt: skip

    def _conditioned(self, batch: Batch, key: Key) -> Batch:
        """Returns the batch with the condition that the step makes of its images."""
        if self.condition is None:
            return batch
        keys = rng.fold(rng.example_keys(key, jnp.asarray(batch.indices)), _CONDITION)
        return self.taken(self.condition.with_condition(batch, keys))

    def gradient(
        self, state: TrainState, frozen: Params, key: Key, mean: Mean
    ) -> tuple[Params, dict[str, Array]]:
        """Returns the gradient of the mean loss, and the metrics of `loss_fn`."""

        def gradient_of(shared: Any, part: Batch) -> Any:
            params, frozen, memory, key, step = shared
            grad = jax.grad(self.loss, has_aux=True)
            return grad(params, frozen, part, key, memory, step)

        shared = (state.params, frozen, state.memory, key, state.step)
        return mean(gradient_of, shared)

    def remembered(self, memory: Any, metrics: dict[str, Array]) -> Any:
        """Returns the next memory of the objective's times."""
        return self.objective.times.update(memory, metrics.pop("seen"))

    def constrained(self, params: Params) -> Params:
        """Returns the network's `normalized` parameters, if it has that method."""
        constrain = getattr(self.model.network, "normalized", None)
        return params if constrain is None else constrain(params)

    def sampling(self, params: Params, frozen: Params) -> Params:
        """Returns the network's parameters, with those of an adapter."""
        if self.adapter is None:
            return params
        return jax.jit(self.adapter.applied)(frozen, params)
