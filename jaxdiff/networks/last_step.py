"""Two networks as one: the second takes the place of the first in the last step."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxdiff.typing import Array, Condition, Key, Timesteps


@dataclass(frozen=True)
class LastStep:
    """Network that is `last` at time 0, and `first` at all other times.

    The networks that enlarge images in Karlo are such a pair. Parameters are those of
    both networks, under "first" and "last". Both take the same condition.

    Attributes:
        first: network of all steps but the last.
        last: network of a batch whose times are all 0.
    """

    first: Any
    last: Any

    @property
    def takes(self) -> tuple[str, ...]:
        """Names of the parts of a condition that the networks take."""
        return tuple(self.first.takes)

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the parts of a condition without which they cannot be evaluated."""
        return tuple(self.first.needs)

    def example_condition(self, image_shape: tuple[int, ...]) -> Condition:
        """Returns a condition of one example, for images of this shape."""
        found: Condition = self.first.example_condition(image_shape)
        return found

    def init(self, key: Key, *inputs: Any) -> dict[str, Any]:
        """Returns initial parameters of both networks; see `apply` for the inputs."""
        pair = {"first": self.first, "last": self.last}
        return {"params": {k: v.init(key, *inputs)["params"] for k, v in pair.items()}}

    def apply(
        self,
        variables: Any,
        x: Array,
        t: Timesteps,
        condition: Condition | None = None,
        keys: Key | None = None,
    ) -> Array:
        """Returns the output of one of the networks; see `typing.Network`."""
        params = variables["params"]

        def last(x: Array) -> Array:
            found: Array = self.last.apply(
                {"params": params["last"]}, x, t, condition, keys
            )
            return found

        def first(x: Array) -> Array:
            found: Array = self.first.apply(
                {"params": params["first"]}, x, t, condition, keys
            )
            return found

        return jax.lax.cond(jnp.all(t == 0), last, first, x)
