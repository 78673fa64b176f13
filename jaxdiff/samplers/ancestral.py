"""The ancestral sampler of DDPM (Ho et al. 2020, algorithm 2)."""

from dataclasses import dataclass, field
from typing import Any

import jax

from jaxdiff.reverse import FixedSmall, Variance, p_step
from jaxdiff.samplers.base import STATIC, Sampler
from jaxdiff.typing import Array, Estimate, Level


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Ancestral(Sampler):
    """The reverse chain, by all T steps of it unless a spacing leaves some out."""

    variance: Variance = field(default_factory=FixedSmall, metadata=STATIC)
    """The variance of the reverse step."""

    @property
    def deterministic(self) -> bool:
        """Whether the chain leaves the noise: no."""
        return False

    def step(
        self,
        estimate: Estimate,
        x_t: Array,
        level: Level,
        next_level: Level,
        noise: Array,
        memory: Any,
    ) -> tuple[Array, Any]:
        """A draw from p(x_s | x_t)."""
        x_s = p_step(estimate, x_t, level, next_level, noise, self.variance)
        return x_s, memory
