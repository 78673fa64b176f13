"""The part of a network that training changes: all parameters, or those of an adapter.

    (1)  W' = W + scale * down up,   scale = alpha / rank

Low-rank adaptation (LoRA, Hu et al. 2021, section 4.1) leaves the parameters W as they
are, and trains the factors of (1). A frozen copy of W stands beside the train state.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, TypeAlias

import jax.numpy as jnp
from annotated_types import Ge, Gt

from jaxdiff.adapters.lora import ATTENTION, LoRA, LoRALayer, init_lora, merged
from jaxdiff.checks import Checked
from jaxdiff.typing import Key, Params


@dataclass(frozen=True, kw_only=True)
class NoAdapter:
    """Training changes all parameters."""

    FLAG: ClassVar[str] = "none"


@dataclass(frozen=True, kw_only=True)
class LowRank(Checked):
    """Training changes a low-rank addition to some parameters, and no other."""

    FLAG: ClassVar[str] = "lora"

    rank: Annotated[int, Ge(1)] = 8
    """Number of columns of the first factor, and of rows of the second."""
    alpha: Annotated[float, Gt(0)] | None = None
    """Number that, divided by the rank, scales the addition; None for the rank."""
    targets: tuple[str, ...] = ATTENTION
    """Patterns of the layers that get an addition: regular expressions for the end of
    a layer's name."""

    def init(self, params: Params, key: Key) -> Params:
        """Returns the initial factors, by the name of their layer.

        Args:
            params: Parameters of the network.
            key: PRNG key.

        Raises:
            InputError: If no layer has such a name.
        """
        found = init_lora(params, self.rank, key=key, targets=self.targets)
        return {
            name: {"down": layer.down, "up": layer.up}
            for name, layer in found.layers.items()
        }

    def lora(self, factors: Params) -> LoRA:
        """Returns the adapter with these factors."""
        alpha = self.rank if self.alpha is None else self.alpha
        scale = jnp.float32(alpha / self.rank)
        layers = {
            name: LoRALayer(one["down"], one["up"], scale)
            for name, one in factors.items()
        }
        return LoRA(layers)

    def applied(self, params: Params, factors: Params) -> Params:
        """Returns the parameters with the addition, equation (1)."""
        return merged(params, self.lora(factors))


Adapter: TypeAlias = NoAdapter | LowRank
"""Part of the network that training changes."""
