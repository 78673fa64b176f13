"""Solvers of EDM for the probability-flow ODE (Karras et al. 2022, algorithms 1 and 2).

In y = x_t / alpha and s = sigma / alpha the ODE is dy / ds = eps-hat (equation 1 of the
paper). A step from s to s', one of N, begins with the algorithm's churn:

    (1)  s^ = s + gamma s,   gamma = min(churn / N, sqrt(2) - 1); 0 for s out of a range
    (2)  y^ = y + sqrt(s^^2 - s^2) noise
    (3)  Euler:  y' = y^ + (s' - s^) eps-hat(y^, s^)
    (4)  Heun:   y'' = y' + (s' - s^) / 2 (eps-hat(y', s') - eps-hat(y^, s^))

(3) is DDIM's step. The step onto the data uses (3) only, and so does a step from a
level without signal, where s is infinite.
"""

from dataclasses import dataclass, field
from typing import Annotated

import jax
import jax.numpy as jnp
from annotated_types import Ge

from jaxdiff.checks import above_0
from jaxdiff.samplers.base import STATIC, Sampler, StepInfo, corrected_if
from jaxdiff.samplers.ddim import euler_step
from jaxdiff.samplers.spacing import Karras, Spacing
from jaxdiff.schedules.forward import log_snr, root
from jaxdiff.typing import AnySchedule, Array, Denoiser, Estimate, Level

MOST_CHURN = 2**0.5 - 1


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Euler(Sampler):
    """Euler's rule with EDM's churn, equations (1) to (3); DDIM without churn."""

    spacing: Spacing = field(default_factory=Karras, metadata=STATIC)
    """Time grid: the levels that the sampler visits."""
    churn: Annotated[float, Ge(0)] = 0.0
    """Amount of noise added over all steps (S_churn); 0 for a deterministic sampler."""
    churn_min: Annotated[float, Ge(0)] = 0.0
    """Least sigma / alpha at which noise is added (S_min)."""
    churn_max: Annotated[float, Ge(0)] | None = None
    """Largest sigma / alpha at which noise is added (S_max); None for no limit. The
    noise never exceeds the schedule's noisiest level."""
    churn_noise: Annotated[float, Ge(0)] = 1.0
    """Standard deviation of the added noise (S_noise)."""

    @property
    def deterministic(self) -> bool:
        """True if churn is 0 or traced."""
        return not above_0(self.churn)

    def init(self, x: Array, num_steps: int) -> Array:
        """Returns gamma of the steps with churn."""
        return jnp.minimum(jnp.asarray(self.churn, x.dtype) / num_steps, MOST_CHURN)

    def denoise_and_step(
        self,
        denoiser: Denoiser,
        schedule: AnySchedule,
        x_t: Array,
        info: StepInfo,
        memory: Array,
    ) -> tuple[Array, Array]:
        """Returns x_s of equations (1) to (3), and gamma."""
        x_t, level = self._churned(schedule, x_t, info, memory)
        return euler_step(denoiser(x_t, level), info.next_level), memory

    def _churned(
        self, schedule: AnySchedule, x_t: Array, info: StepInfo, gamma: Array
    ) -> tuple[Array, Level]:
        """Applies equations (1) and (2) within the levels of the schedule."""
        level = info.level
        # Without signal s is infinite, and there is nothing to churn.
        alpha = jnp.where(level.alpha > 0, level.alpha, 1.0)
        s = level.sigma / alpha
        churned = (gamma > 0) & (s >= self.churn_min) & (level.alpha > 0)
        if self.churn_max is not None:
            churned &= s <= self.churn_max
        known = log_snr(level._replace(alpha=alpha))
        raised = schedule.level_of_log_snr(known - 2 * jnp.log1p(gamma))

        def chosen(new: Array, old: Array) -> Array:
            return jnp.where(churned, new.astype(x_t.dtype), old.astype(x_t.dtype))

        raised = Level(*map(chosen, raised, level))
        s_raised = raised.sigma / jnp.where(raised.alpha > 0, raised.alpha, 1.0)
        added = root(s_raised**2 - s**2) * self.churn_noise
        kept = jnp.where(churned, raised.alpha / alpha, 1.0)
        added = jnp.where(churned, raised.alpha * added, 0.0)
        return kept * x_t + added * info.noise, raised


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Heun(Euler):
    """Heun's second-order rule with EDM's churn, equations (1) to (4).

    A step evaluates the network twice, except for the last one.
    """

    def evaluations(self, num_steps: int) -> int:
        """Returns 2 N - 1, the NFE of N steps."""
        return 2 * num_steps - 1

    def denoise_and_step(
        self,
        denoiser: Denoiser,
        schedule: AnySchedule,
        x_t: Array,
        info: StepInfo,
        memory: Array,
    ) -> tuple[Array, Array]:
        """Returns x_s of equations (1) to (4), and gamma."""
        x_t, level = self._churned(schedule, x_t, info, memory)
        next_level = info.next_level
        first = denoiser(x_t, level)
        x_s = euler_step(first, next_level)

        usual = (next_level.sigma > 0) & (level.alpha > 0)
        given = denoiser, x_s, first, level, next_level
        return corrected_if(usual, heun_corrected, *given), memory


def heun_corrected(
    denoiser: Denoiser, x_s: Array, first: Estimate, level: Level, next_level: Level
) -> Array:
    """Returns x_s of equation (4), for levels [] or [batch]."""
    second = denoiser(x_s, next_level)
    (alpha, sigma), (alpha_s, sigma_s) = level.scales(x_s), next_level.scales(x_s)
    # alpha_s (s' - s), finite even if the next level has no signal.
    step = sigma_s - alpha_s * (sigma / alpha)
    return x_s + step / 2 * (second.eps - first.eps)
