"""The ancestral sampler of DDPM (Ho et al. 2020, algorithm 2)."""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp

from jaxdiff.reverse import FixedSmall, Variance, p_step
from jaxdiff.samplers.base import Sampler
from jaxdiff.typing import AnySchedule, Array, Estimate, Level


@jax.tree_util.register_static
@dataclass(frozen=True, kw_only=True)
class Ancestral(Sampler):
    """All T steps of the reverse chain."""

    variance: Variance = field(default_factory=FixedSmall)
    """The variance of the reverse step."""

    def grid(self, schedule: AnySchedule) -> Level:
        """The T levels of the schedule's chain, and the data."""
        times = schedule.times[::-1]
        first, rest = schedule.level(times[:1]), schedule.next_level(times)
        return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), first, rest)

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
