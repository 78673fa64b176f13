"""Samplers with a second evaluation inside the step: DPM2, 2S ancestral, DPM++ SDE.

The methods and their names are those of Katherine Crowson's k-diffusion. In y = x_t /
alpha and s = sigma / alpha, a step from s to s' ends with noise. It aims at a lower
level, s_down, from where the noise leads up to s':

    (1)  s_up = eta s' sqrt(1 - (s' / s)^2), at most s';   s_down^2 = s'^2 - s_up^2

The second evaluation is at the geometric mean s_m of the step's ends:

    (2)  DPM2          s_m = sqrt(s s_down), y_m = x_0-hat + s_m eps-hat
                       y'  = y + (s_down - s) eps-hat(y_m) + s_up noise
    (3)  DPM++ 2S      s_m and y_m as in (2)
                       y'  = r y + (1 - r) x_0-hat(y_m) + s_up noise,   r = s_down / s
    (4)  DPM++ SDE     s_m = sqrt(s s'), y_m is DDIM's step to s_m with noise by (1)
                       y'  as in (3), with the noise of both parts of the step

The first two are the midpoint rule in log s for the ODE of eps-hat (Lu et al. 2022,
algorithm 1) and of x_0-hat (Lu et al. 2022b, algorithm 1). In (4) the noise of the
whole step has the correlation with that of its first part that a Brownian motion in s
has. A step onto the data, or from or to a level without signal, is DDIM's.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
from annotated_types import Ge

from jaxdiff.checks import above_0
from jaxdiff.samplers.base import (
    STATIC,
    NoiseScale,
    Sampler,
    StepInfo,
    corrected_if,
)
from jaxdiff.samplers.ddim import euler_step, noise_split
from jaxdiff.samplers.spacing import Karras, Spacing
from jaxdiff.schedules.forward import log_snr, root
from jaxdiff.typing import AnySchedule, Array, Denoiser, Estimate, Level


@dataclass(frozen=True, kw_only=True)
class SingleStep(Sampler):
    """Base of the samplers with two evaluations per step, except for the last one."""

    spacing: Spacing = field(
        default_factory=lambda: Karras(num_steps=20), metadata=STATIC
    )
    """Time grid: the levels that the sampler visits."""
    eta: Annotated[float, Ge(0)] = 1.0
    """Amount of noise: 0 for none, 1 for DDPM's noise."""
    noise_scale: NoiseScale = 1.0
    """Factor of the noise (s_noise); 1 keeps the data's moments."""

    CORRECT: ClassVar[Callable[..., Array]]
    """Second part of the step; it lives as long as the module, see `corrected_if`."""

    @property
    def deterministic(self) -> bool:
        """True if eta is 0 or traced."""
        return not above_0(self.eta)

    def evaluations(self, num_steps: int) -> int:
        """Returns 2 N - 1, the NFE of N steps."""
        return 2 * num_steps - 1

    def denoise_and_step(
        self,
        denoiser: Denoiser,
        schedule: AnySchedule,
        x_t: Array,
        info: StepInfo,
        memory: Any,
    ) -> tuple[Array, Any]:
        """Returns x_s of the class's equation, and the memory."""
        level, next_level = info.level, info.next_level
        noise = self.noise_scale * info.noise
        first = denoiser(x_t, level)
        down, fresh = _ancestral(level, next_level, self.eta)
        x_s = euler_step(first, down)
        usual = (level.alpha > 0) & (next_level.alpha > 0)
        usual &= (level.sigma > 0) & (down.sigma > 0)
        eta = jnp.asarray(self.eta)
        step = _Step(x_t, first, level, next_level, down, schedule, eta, noise)
        x_s = corrected_if(usual, type(self).CORRECT, denoiser, x_s, step)
        return x_s + fresh * self._whole(info, noise), memory

    def _whole(self, info: StepInfo, noise: Array) -> Array:
        """Returns the noise of the whole step."""
        return noise


def middle(schedule: AnySchedule, level: Level, next_level: Level) -> Level:
    """Returns the level at the geometric mean of sigma / alpha.

    Beyond the schedule's least noisy level, its time is that level's.
    """
    mean = (log_snr(level) + log_snr(next_level)) / 2
    found = schedule.level_of_log_snr(mean)
    s, size = jnp.exp(-mean / 2), jnp.hypot(found.alpha, found.sigma)
    alpha = size / jnp.hypot(1.0, s)
    return Level(found.t, alpha.astype(mean.dtype), (s * alpha).astype(mean.dtype))


def _ancestral(
    level: Level, next_level: Level, eta: Array | float
) -> tuple[Level, Array]:
    """Returns the level of s_down, and the factor of the noise, equation (1)."""
    kept, fresh = noise_split(level.sigma, level, next_level, eta)
    return next_level._replace(sigma=kept), fresh


class _Step(NamedTuple):
    """Step of these samplers before its second evaluation."""

    x_t: Array
    first: Estimate
    level: Level
    next_level: Level
    down: Level
    schedule: AnySchedule
    eta: Array
    noise: Array

    def towards(self, x_0: Array) -> Array:
        """Returns x_s of equation (3) with this estimate, without the noise."""
        ratio = self.down.sigma / self.level.sigma
        return self.down.alpha * x_0 + ratio * (self.x_t - self.level.alpha * x_0)


def _dpm2(denoiser: Denoiser, x_s: Array, step: _Step) -> Array:
    """Returns equation (2) without the noise."""
    level, down, first = step.level, step.down, step.first
    half = middle(step.schedule, level, down)
    second = denoiser(euler_step(first, half), half)
    length = down.sigma - down.alpha * (level.sigma / level.alpha)
    return x_s + length * (second.eps - first.eps)


def _dpm_solver_2s(denoiser: Denoiser, x_s: Array, step: _Step) -> Array:
    """Returns equation (3) without the noise."""
    half = middle(step.schedule, step.level, step.down)
    return step.towards(denoiser(euler_step(step.first, half), half).x_0)


def _dpm_solver_sde(denoiser: Denoiser, x_s: Array, step: _Step) -> Array:
    """Returns equation (4) without the noise of the whole step."""
    half = middle(step.schedule, step.level, step.next_level)
    below, fresh = _ancestral(step.level, half, step.eta)
    x_half = euler_step(step.first, below) + fresh * step.noise
    return step.towards(denoiser(x_half, half).x_0)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class DPM2(SingleStep):
    """Midpoint rule for eps-hat in log s, equation (2), without noise by default."""

    CORRECT: ClassVar = staticmethod(_dpm2)

    eta: Annotated[float, Ge(0)] = 0.0
    """Amount of noise: 0 for none, 1 for DDPM's noise."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class DPM2Ancestral(DPM2):
    """DPM2 to a lower noise level, then noise back up to the next one."""

    eta: Annotated[float, Ge(0)] = 1.0
    """Amount of noise: 0 for none, 1 for DDPM's noise."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class DPMSolver2S(SingleStep):
    """DPM-Solver++ 2S, ancestral, equation (3): the midpoint rule for x_0-hat."""

    FLAG: ClassVar[str] = "dpm-solver-2s"
    CORRECT: ClassVar = staticmethod(_dpm_solver_2s)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class DPMSolverSDE(SingleStep):
    """DPM-Solver++ SDE, equation (4): noise also before the second evaluation."""

    CORRECT: ClassVar = staticmethod(_dpm_solver_sde)

    @property
    def draws(self) -> Literal[1, 2]:
        """Number of independent noises per step: one for each half."""
        return 2

    def _whole(self, info: StepInfo, noise: Array) -> Array:
        """Returns the noise of the whole step."""
        assert info.more_noise is not None, "the sampling loop draws two noises"
        level, next_level = info.level, info.next_level
        usual = (level.alpha > 0) & (next_level.alpha > 0) & (next_level.sigma > 0)
        s, s_next = (
            at.sigma / jnp.where(usual, at.alpha, 1.0) for at in (level, next_level)
        )
        # (s - s_m) / (s - s_next) with s_m the geometric mean.
        share = jnp.where(usual, 1 / (1 + root(s_next / s)), 1.0)
        return root(share) * noise + root(1 - share) * (
            self.noise_scale * info.more_noise
        )
