"""Arguments of an objective: noisy examples, and the network as a function."""

from typing import NamedTuple, Protocol

from jaxdiff.typing import Array, Condition, Denoiser, Key, Level


class Apply(Protocol):
    """Network with the parameters and the dropout keys of a training step.

    Calls with the same keys drop the same units: two noise levels of one example share
    their dropout.
    """

    def __call__(self, x_t: Array, level: Level, condition: Condition, /) -> Array:
        """Returns the network's output at x_t [batch, ...] and its level [batch]."""
        ...


class Noised(NamedTuple):
    """Batch with noise: x_t = alpha x_0 + sigma eps at `level`.

    Attributes:
        x_0: data, float [batch, ...].
        eps: noise, of x_0's shape.
        x_t: noisy data, of x_0's shape.
        level: level of x_t, [batch].
        next_level: level one step nearer the data, [batch].
        condition: what the network is given besides.
        free: the condition of any class, and of no text.
        u: fractions of the range that the objective's times drew, [batch].
        keys: one key per example for further draws; None if nothing is drawn.
        step: number of training steps done, an integer [].
        teacher: frozen model that training learns from, bound to the condition; None
            for an objective without one.
    """

    x_0: Array
    eps: Array
    x_t: Array
    level: Level
    next_level: Level
    condition: Condition = Condition()
    free: Condition = Condition()
    u: Array | None = None
    keys: Key | None = None
    step: Array | int = 0
    teacher: Denoiser | None = None
