"""Arguments of an objective: noisy examples, and the network as a function."""

from typing import NamedTuple, Protocol

from jaxdiff.typing import Array, Condition, Level


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
    """

    x_0: Array
    eps: Array
    x_t: Array
    level: Level
    next_level: Level
    condition: Condition = Condition()
