"""State of training as one pytree, with moving averages of the parameters."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxdiff.training.ema import gamma_of, power_weight
from jaxdiff.typing import Array, Params


class TrainState(NamedTuple):
    """State of training: all that a step changes, and what it needs besides.

    Attributes:
        step: Number of steps taken (int32 []).
        params: Parameters of the network (float32).
        ema: Moving average of the parameters, which sampling uses.
        opt_state: State of the Optax optimizer.
        memory: Memory of the objective's time sampling; () if it has none.
        tracks: Further averages of the parameters, by power functions of the time, one
            per entry of `Training.ema_lengths`. Each is as large as the parameters.
        frozen: Parameters of a network that training leaves unchanged: that of an
            adapter, or a teacher; () otherwise. Checkpoints hold all but these.
    """

    step: Array
    params: Params
    ema: Params
    opt_state: Any
    memory: Any = ()
    tracks: tuple[Params, ...] = ()
    frozen: Params = ()

    @classmethod
    def create(
        cls,
        params: Params,
        optimizer: optax.GradientTransformation,
        memory: Any = (),
        num_tracks: int = 0,
        frozen: Params = (),
    ) -> "TrainState":
        """Returns the state at step 0; the averages start from the parameters."""
        # Copies share no buffer, so params and ema can both be donated.
        ema, *tracks = (jax.tree.map(jnp.copy, params) for _ in range(1 + num_tracks))
        step, opt_state = jnp.zeros((), jnp.int32), optimizer.init(params)
        return cls(step, params, ema, opt_state, memory, tuple(tracks), frozen)

    def apply_gradients(
        self,
        gradients: Params,
        optimizer: optax.GradientTransformation,
        ema_decay: float,
        ema_lengths: tuple[float, ...] = (),
        constrain: Callable[[Params], Params] | None = None,
    ) -> "TrainState":
        """Returns the state after one optimizer step with these gradients.

        Args:
            gradients: Gradients of the parameters.
            optimizer: Optax optimizer.
            ema_decay: Decay of `ema`, after a warm-up.
            ema_lengths: Relative length of each of the `tracks`, in (0, 0.288).
            constrain: Function from the updated parameters to those to keep, such as
                `EDM2.normalized`; None for none.
        """
        updates, opt_state = optimizer.update(gradients, self.opt_state, self.params)
        params = optax.apply_updates(self.params, updates)
        if constrain is not None:
            params = constrain(params)
        decay = warm_decay(ema_decay, self.step)
        ema = jax.tree.map(lambda e, p: decay * e + (1 - decay) * p, self.ema, params)
        step = self.step + 1

        def moved(track: Params, length: float) -> Params:
            weight = power_weight(gamma_of(length), step)
            return jax.tree.map(lambda e, p: e + weight * (p - e), track, params)

        tracks = tuple(
            moved(*pair) for pair in zip(self.tracks, ema_lengths, strict=True)
        )
        return TrainState(
            step, params, ema, opt_state, self.memory, tracks, self.frozen
        )


def warm_decay(decay: float, step: Array) -> Array:
    """Returns the average's decay at a step: min(decay, (1 + step) / (10 + step)).

    A constant 0.9999 would retain the random initial parameters for tens of thousands
    of steps. With the warm-up, the average spans a tenth of the run until it is long
    enough.
    """
    step = step.astype(jnp.float32)
    return jnp.minimum(decay, (1 + step) / (10 + step))
