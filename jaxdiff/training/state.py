"""The state of training, one pytree, and the moving averages of the parameters."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxdiff.training.ema import gamma_of, power_weight
from jaxdiff.typing import Array, Params


class TrainState(NamedTuple):
    """Everything that a step changes, and all that a checkpoint holds.

    Attributes:
        step: how many steps were taken, int32 [].
        params: the network's parameters, float32.
        ema: their moving average, which sampling uses.
        opt_state: the Optax optimiser's state.
        memory: what the objective's times remember; () where they remember nothing.
        tracks: further averages of the parameters, by power functions of the time, one
            for each of `Training.ema_lengths`. Each is as large as the parameters.
    """

    step: Array
    params: Params
    ema: Params
    opt_state: Any
    memory: Any = ()
    tracks: tuple[Params, ...] = ()

    @classmethod
    def create(
        cls,
        params: Params,
        optimizer: optax.GradientTransformation,
        memory: Any = (),
        num_tracks: int = 0,
    ) -> "TrainState":
        """The state at step 0; the averages start from the parameters."""
        # Copies, so that params and ema can be donated: they share no buffer.
        ema, *tracks = (jax.tree.map(jnp.copy, params) for _ in range(1 + num_tracks))
        step, opt_state = jnp.zeros((), jnp.int32), optimizer.init(params)
        return cls(step, params, ema, opt_state, memory, tuple(tracks))

    def apply_gradients(
        self,
        gradients: Params,
        optimizer: optax.GradientTransformation,
        ema_decay: float,
        ema_lengths: tuple[float, ...] = (),
    ) -> "TrainState":
        """The state after one optimiser step with these gradients.

        Args:
            gradients: of the parameters.
            optimizer: the Optax optimiser.
            ema_decay: decay of `ema`, warmed up.
            ema_lengths: the relative length of each of the `tracks`, in (0, 0.288).
        """
        updates, opt_state = optimizer.update(gradients, self.opt_state, self.params)
        params = optax.apply_updates(self.params, updates)
        decay = warm_decay(ema_decay, self.step)
        ema = jax.tree.map(lambda e, p: decay * e + (1 - decay) * p, self.ema, params)
        step = self.step + 1

        def moved(track: Params, length: float) -> Params:
            weight = power_weight(gamma_of(length), step)
            return jax.tree.map(lambda e, p: e + weight * (p - e), track, params)

        tracks = tuple(
            moved(*pair) for pair in zip(self.tracks, ema_lengths, strict=True)
        )
        return TrainState(step, params, ema, opt_state, self.memory, tracks)


def warm_decay(decay: float, step: Array) -> Array:
    """The average's decay at a step: min(decay, (1 + step) / (10 + step)).

    A constant 0.9999 would keep the random initial parameters for tens of thousands of
    steps; warmed up, the average spans a tenth of the run until it is long enough.
    """
    step = step.astype(jnp.float32)
    return jnp.minimum(decay, (1 + step) / (10 + step))
