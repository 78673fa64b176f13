"""Multistep sampling of consistency models (Song et al. 2023, algorithm 1).

A consistency model maps x_t to the end f of its path in one evaluation. Each step maps,
then adds fresh noise of the next level:

    (1)  x_s = alpha_s f + sigma_s noise,   f = x_0-hat
    (2)  f = c_skip x_t + c_out x_0-hat   in latent consistency models
                                          (LCM; Luo et al. 2023, algorithm 3)
         c_skip = d^2 / (u^2 + d^2),   c_out = u / sqrt(u^2 + d^2),   u = scale t

c_skip and c_out make f the identity at t = 0 (Song et al. 2023, section 3).
"""

from dataclasses import dataclass, field
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from annotated_types import Ge, Gt

from jaxdiff.samplers.base import STATIC, NoiseScale, Sampler, StepInfo
from jaxdiff.samplers.spacing import Spacing, Trailing
from jaxdiff.typing import Array, Estimate, Level


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Consistency(Sampler):
    """Multistep sampler of consistency models, equation (1)."""

    spacing: Spacing = field(
        default_factory=lambda: Trailing(num_steps=2), metadata=STATIC
    )
    """Time grid: the levels that the sampler visits."""
    noise_scale: NoiseScale = 1.0
    """Factor of the noise (s_noise)."""

    @property
    def deterministic(self) -> bool:
        """False: every step except the last adds noise."""
        return False

    def end(self, estimate: Estimate, x_t: Array, level: Level) -> Array:
        """Returns the end f of the path of x_t."""
        return estimate.x_0

    def step(
        self, estimate: Estimate, x_t: Array, info: StepInfo, memory: Any
    ) -> tuple[Array, Any]:
        """Returns x_s of equation (1)."""
        f, noise = self.end(estimate, x_t, info.level), self.noise_scale * info.noise
        return info.next_level.alpha * f + info.next_level.sigma * noise, memory


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class LCM(Consistency):
    """Sampler of latent consistency models, equation (2)."""

    spacing: Spacing = field(
        default_factory=lambda: Trailing(num_steps=4), metadata=STATIC
    )
    """Time grid: the levels that the sampler visits."""
    time_scale: Annotated[float, Ge(0)] = 10.0
    """Factor of the network's time in c_skip and c_out."""
    data_deviation: Annotated[float, Gt(0)] = 0.5
    """Standard deviation d of the data in c_skip and c_out, above 0."""

    def end(self, estimate: Estimate, x_t: Array, level: Level) -> Array:
        """Returns f of equation (2)."""
        u = jnp.abs(level.t.astype(x_t.dtype)) * self.time_scale
        total = u**2 + self.data_deviation**2
        return self.data_deviation**2 / total * x_t + u / total**0.5 * estimate.x_0
