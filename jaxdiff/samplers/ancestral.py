"""Ancestral sampler of DDPM: one step of the reverse process, x_t to x_{t-1}.

    (1)  p(x_s | x_t) = N(mean, variance), with the mean of q(x_s | x_t, x_0) at the
         denoiser's x_0                              (Ho et al. 2020, equation 11)
    (2)  fixed small:  variance = beta_ts sigma_s^2 / sigma_t^2, exact for data that
         are a single point                          (Ho et al. 2020, section 3.2)
    (3)  fixed large:  variance = beta_ts, exact for data N(0, 1) and
         alpha^2 + sigma^2 = 1
    (4)  learned range:  log variance = f log beta_ts + (1 - f) log of (2), f from the
         network                                     (Nichol & Dhariwal 2021, eq. 15)

The last step, onto the data, adds no noise.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeAlias

import jax
import jax.numpy as jnp

from jaxdiff import rng
from jaxdiff.checks import check_built, check_object
from jaxdiff.errors import InputError
from jaxdiff.samplers.base import STATIC, Sampler, StepInfo
from jaxdiff.schedules.forward import posterior, root, transition
from jaxdiff.typing import AnySchedule, Array, Denoiser, Estimate, Key, Level, Timesteps

Levels: TypeAlias = tuple[Level, Level]
"""Levels of x_t and of x_s."""


@dataclass(frozen=True)
class FixedSmall:
    """Variance of the posterior, DDPM's beta-tilde; equation (2)."""

    def variance(
        self, estimate: Estimate, x_t: Array, levels: Levels, floor: Array | float = 0.0
    ) -> Array:
        """Returns the reverse step's variance, shaped to multiply x_t.

        It is `floor` in the step onto the data.
        """
        _, variance = posterior(estimate.x_0, x_t, *levels)
        return jnp.where(levels[1].scales(x_t)[1] > 0, variance, floor)


@dataclass(frozen=True)
class FixedLarge:
    """Variance of the forward step, DDPM's beta; equation (3).

    In the step onto the data it is beta_0; see `FixedLargeFloored`.
    """

    def variance(
        self, estimate: Estimate, x_t: Array, levels: Levels, floor: Array | float = 0.0
    ) -> Array:
        """Returns the reverse step's variance, shaped to multiply x_t."""
        return transition(x_t, *levels)[1]


@dataclass(frozen=True)
class FixedLargeFloored(FixedLarge):
    """`FixedLarge`, except in a likelihood's last step, where it is the lower variance.

    Improved DDPM's code evaluates its bound so: in the step onto the data it takes the
    posterior's variance of step 1 instead of beta_0. The bound differs by about 0.1
    bits per dimension. Samples are equal, because a sampler adds no noise there.
    """

    def variance(
        self, estimate: Estimate, x_t: Array, levels: Levels, floor: Array | float = 0.0
    ) -> Array:
        """Returns the reverse step's variance, shaped to multiply x_t.

        It is `floor` in the step onto the data.
        """
        large = super().variance(estimate, x_t, levels)
        return jnp.where(levels[1].scales(x_t)[1] > 0, large, floor)


@dataclass(frozen=True)
class LearnedRange:
    """Variance between the fixed ones, learned by the network; equation (4)."""

    def variance(
        self, estimate: Estimate, x_t: Array, levels: Levels, floor: Array | float = 0.0
    ) -> Array:
        """Returns the reverse step's variance, of x_t's shape.

        Raises:
            InputError: the denoiser did not learn a variance.
        """
        fraction = estimate.variance_fraction
        if fraction is None:
            raise InputError(
                "denoiser must have a learned variance for LearnedRange, got none. "
                "Train with prediction.learn_variance, or choose a fixed variance."
            )
        small = FixedSmall().variance(estimate, x_t, levels, floor)
        large = FixedLarge().variance(estimate, x_t, levels)
        # The step onto the data has no range if floor is 0; sampling adds no noise.
        log_small = jnp.log(jnp.where(small > 0, small, large))
        return jnp.exp(fraction * jnp.log(large) + (1 - fraction) * log_small)


@dataclass(frozen=True)
class MarginalNoise:
    """Variance of all noise in x_t, 1 - alphas_bar_t in DDPM: a common mistake.

    Some texts write sigma_t = sqrt(1 - alphas_bar_t) for the standard deviation of the
    reverse step. It is the deviation of the noise that all forward steps together put
    into x_t. A reverse step may only restore the noise of one forward step. With this
    variance, sampling does not converge. For Gaussian data of unit variance and the
    linear schedule of 1000 steps, the samples have variance 82.6 instead of 1 (0.991
    with `FixedSmall`). Do not use it to draw samples.
    """

    def variance(
        self, estimate: Estimate, x_t: Array, levels: Levels, floor: Array | float = 0.0
    ) -> Array:
        """Returns sigma_t^2, shaped to multiply x_t."""
        return levels[0].scales(x_t)[1] ** 2


Variance: TypeAlias = FixedSmall | FixedLarge | LearnedRange | MarginalNoise


def p_mean_variance(
    estimate: Estimate,
    x_t: Array,
    level: Level,
    next_level: Level,
    variance: Variance,
    floor: Array | float = 0.0,
) -> tuple[Array, Array]:
    """Returns mean and variance of p(x_s | x_t), equation (1), for any two levels.

    Args:
        estimate: estimate of the denoiser at x_t.
        x_t: noisy images, float [batch, ...].
        level: level of x_t.
        next_level: level of x_s.
        variance: variance of the reverse step.
        floor: lower fixed variance in the step onto the data, where the posterior's
            variance is 0; see `forward.variance_floor`. Only a likelihood needs it,
            because a sampler adds no noise there.
    """
    mean, _ = posterior(estimate.x_0, x_t, level, next_level)
    return mean, variance.variance(estimate, x_t, (level, next_level), floor)


def p_step(estimate: Estimate, x_t: Array, info: StepInfo, variance: Variance) -> Array:
    """Draws from p(x_s | x_t) with the given noise; the last step adds none."""
    level, next_level, noise, *_ = info
    mean, var = p_mean_variance(estimate, x_t, level, next_level, variance)
    _, sigma_s = next_level.scales(x_t)
    return mean + jnp.where(sigma_s > 0, root(var), 0.0) * noise


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class DDPM(Sampler):
    """Reverse process of DDPM, in all T steps or the times of a spacing."""

    FLAG: ClassVar[str] = "ancestral"

    variance: Variance = field(default_factory=FixedSmall, metadata=STATIC)
    """Variance of the reverse step."""

    @property
    def deterministic(self) -> bool:
        """False: the step adds noise."""
        return False

    def step(
        self, estimate: Estimate, x_t: Array, info: StepInfo, memory: Any
    ) -> tuple[Array, Any]:
        """Draws x_s from p(x_s | x_t)."""
        return p_step(estimate, x_t, info, self.variance), memory


def p_sample_step(
    denoiser: Denoiser,
    schedule: AnySchedule,
    x_t: Array,
    t: Timesteps | int | float,
    key: Key,
    *,
    variance: Variance | None = None,
    indices: Array | None = None,
    noise: Array | None = None,
) -> Array:
    """Takes one ancestral step, x_t to x_{t-1} (Ho et al. 2020, algorithm 2).

    Calls for t = T-1, ..., 0 with one key give the result of `sample` with `DDPM`. Pass
    `clip_x0(denoiser)` to clip the x_0 of the step.

    Args:
        denoiser: denoiser, which estimates x_0.
        schedule: noise schedule.
        x_t: noisy images, float [batch, ...].
        t: time of the whole batch, an integer in 0..T-1; for a continuous schedule, one
            of the schedule's `times`.
        key: key of the sampling loop. The noise of an image depends on (key, its index,
            t).
        variance: variance of the step: `FixedSmall()` (the default), `FixedLarge()` or
            `LearnedRange()`.
        indices: places of the images in the whole request, integers [batch]; 0, 1, ...
            by default.
        noise: standard Gaussian noise of x_t's shape, instead of noise from the key.

    Returns:
        x_{t-1}, of x_t's shape; the image at t = 0.

    Raises:
        InputError: an argument has a wrong shape or type, or t is out of range.
    """
    check_built(schedule, "next_level", "times")
    level, next_level = schedule.level(t), schedule.next_level(t)
    if level.t.ndim:
        raise InputError(f"t must be one time, got shape {level.t.shape}")
    if not jnp.issubdtype(x_t.dtype, jnp.floating):
        raise InputError(f"x_t must be floating point, got {x_t.dtype}")
    steps_left = jnp.abs(schedule.times - jnp.asarray(t)).argmin()
    if noise is None:
        indices = jnp.arange(x_t.shape[0]) if indices is None else indices
        if indices.shape != x_t.shape[:1]:
            raise InputError(
                f"indices must have shape {x_t.shape[:1]}, got {indices.shape}"
            )
        noise = rng.step_noise(key, indices, steps_left, x_t.shape[1:])
    elif noise.shape != x_t.shape:
        raise InputError(f"noise must have shape {x_t.shape}, got {noise.shape}")
    check_object("variance", variance)
    info = StepInfo(level, next_level, noise, steps_left)
    return p_step(denoiser(x_t, level), x_t, info, variance or FixedSmall())
