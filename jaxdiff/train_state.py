"""The state of training, one pytree, and the moving average of the parameters."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxdiff.typing import Array, Params


class TrainState(NamedTuple):
    """Everything that a step changes, and all that a checkpoint holds.

    Attributes:
        step: how many steps were taken, int32 [].
        params: the network's parameters, float32.
        ema: their moving average, which sampling uses.
        opt_state: the Optax optimiser's state.
        memory: what the objective's times remember; () where they remember nothing.
    """

    step: Array
    params: Params
    ema: Params
    opt_state: Any
    memory: Any = ()

    @classmethod
    def create(
        cls, params: Params, optimizer: optax.GradientTransformation, memory: Any = ()
    ) -> "TrainState":
        """The state at step 0; the average starts from the parameters."""
        # A copy, so that params and ema can be donated: they share no buffer.
        ema = jax.tree.map(jnp.copy, params)
        opt_state = optimizer.init(params)
        return cls(jnp.zeros((), jnp.int32), params, ema, opt_state, memory)

    def apply_gradients(
        self,
        gradients: Params,
        optimizer: optax.GradientTransformation,
        ema_decay: float,
    ) -> "TrainState":
        """The state after one optimiser step with these gradients."""
        updates, opt_state = optimizer.update(gradients, self.opt_state, self.params)
        params = optax.apply_updates(self.params, updates)
        decay = warm_decay(ema_decay, self.step)
        ema = jax.tree.map(lambda e, p: decay * e + (1 - decay) * p, self.ema, params)
        return TrainState(self.step + 1, params, ema, opt_state, self.memory)


def warm_decay(decay: float, step: Array) -> Array:
    """The average's decay at a step: min(decay, (1 + step) / (10 + step)).

    A constant 0.9999 would keep the random initial parameters for tens of thousands of
    steps; warmed up, the average spans a tenth of the run until it is long enough.
    """
    step = step.astype(jnp.float32)
    return jnp.minimum(decay, (1 + step) / (10 + step))
