"""DDIM: the marginals of DDPM with any amount of noise (Song et al. 2021).

    (1)  x_s = alpha_s x_0-hat + sqrt(sigma_s^2 - c^2) eps-hat + c noise   (equation 12)
         c = eta sqrt(variance of q(x_s | x_t, x_0))                      (equation 16)

With eta 0 the step is deterministic. It is Euler's rule for the probability-flow ODE,
both in (x_t / alpha, sigma / alpha) and along a straight path. With eta 1 it is the
ancestral step of DDPM with the small variance. c is at most sigma_s, for any eta.
"""

from dataclasses import dataclass, field
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from annotated_types import Ge

from jaxdiff.checks import above_0
from jaxdiff.samplers.base import STATIC, NoiseScale, Sampler, StepInfo
from jaxdiff.samplers.spacing import Spacing, Trailing
from jaxdiff.schedules.forward import posterior, root
from jaxdiff.typing import Array, Estimate, Level


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class DDIM(Sampler):
    """DDIM (Song et al. 2021), equation (1)."""

    spacing: Spacing = field(default_factory=Trailing, metadata=STATIC)
    """Time grid: the levels that the sampler visits."""
    eta: Annotated[float, Ge(0)] = 0.0
    """Amount of noise: 0 for none, 1 for DDPM's noise."""

    @property
    def deterministic(self) -> bool:
        """True if eta is 0 or traced."""
        return not above_0(self.eta)

    def step(
        self, estimate: Estimate, x_t: Array, info: StepInfo, memory: Any
    ) -> tuple[Array, Any]:
        """Returns x_s of equation (1)."""
        return ddim_step(estimate, x_t, info, self.eta), memory


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class EulerAncestral(DDIM):
    """Euler's rule to a lower noise level, then noise back up to the next one.

    Name and default are those of Crowson's k-diffusion. In the levels of any schedule
    this is DDIM's step, with the same `eta`.
    """

    eta: Annotated[float, Ge(0)] = 1.0
    """Amount of noise: 0 for none, 1 for DDPM's noise."""
    noise_scale: NoiseScale = 1.0
    """Factor of the noise (s_noise); 1 keeps the data's moments."""

    def step(
        self, estimate: Estimate, x_t: Array, info: StepInfo, memory: Any
    ) -> tuple[Array, Any]:
        """Returns x_s of equation (1), with scaled noise."""
        info = info._replace(noise=self.noise_scale * info.noise)
        return ddim_step(estimate, x_t, info, self.eta), memory


def euler_step(estimate: Estimate, next_level: Level) -> Array:
    """Returns x_s of equation (1) without noise, from x_0 and eps."""
    alpha_s, sigma_s = next_level.scales(estimate.x_0)
    return alpha_s * estimate.x_0 + sigma_s * estimate.eps


def ddim_step(
    estimate: Estimate, x_t: Array, info: StepInfo, eta: Array | float
) -> Array:
    """Returns x_s of equation (1)."""
    level, next_level, noise, *_ = info
    alpha_s, _ = next_level.scales(x_t)
    kept, fresh = noise_split(x_t, level, next_level, eta)
    return alpha_s * estimate.x_0 + kept * estimate.eps + fresh * noise


def noise_split(
    x_t: Array, level: Level, next_level: Level, eta: Array | float
) -> tuple[Array, Array]:
    """Returns the factors of eps-hat and of the noise in equation (1).

    They are shaped to multiply x_t.
    """
    _, sigma_s = next_level.scales(x_t)
    _, variance = posterior(x_t, x_t, level, next_level)
    # This variance does not exist for steps up, from data to noise.
    fresh = jnp.minimum(eta * root(variance), sigma_s)
    # All noise is fresh for a large eta, and for eta 1 from a level without signal.
    kept = jnp.where(fresh < sigma_s, root(sigma_s**2 - fresh**2), 0.0)
    return kept, fresh
