"""The ancestral sampler of DDPM: one step of the reverse process, x_t to x_{t-1}.

    (1)  p(x_s | x_t) = N(mean, variance), the mean that of q(x_s | x_t, x_0) at the
         denoiser's x_0                              (Ho et al. 2020, equation 11)
    (2)  fixed small:  variance = beta_ts sigma_s^2 / sigma_t^2, exact where the data is
         a single point                              (Ho et al. 2020, section 3.2)
    (3)  fixed large:  variance = beta_ts, exact where the data is N(0, 1) and
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
from jaxdiff.errors import InputError
from jaxdiff.samplers.base import STATIC, Sampler, StepInfo
from jaxdiff.schedules.forward import posterior, transition
from jaxdiff.typing import AnySchedule, Array, Denoiser, Estimate, Key, Level, Timesteps

Levels: TypeAlias = tuple[Level, Level]
"""Levels of x_t and of x_s."""


@dataclass(frozen=True)
class FixedSmall:
    """The posterior's variance, DDPM's beta-tilde; equation (2)."""

    def variance(
        self, estimate: Estimate, x_t: Array, levels: Levels, floor: Array | float = 0.0
    ) -> Array:
        """The reverse step's variance, ready to multiply x_t; `floor` onto the data."""
        _, variance = posterior(estimate.x_0, x_t, *levels)
        return jnp.where(levels[1].scales(x_t)[1] > 0, variance, floor)


@dataclass(frozen=True)
class FixedLarge:
    """The forward step's variance, DDPM's beta; equation (3)."""

    def variance(
        self, estimate: Estimate, x_t: Array, levels: Levels, floor: Array | float = 0.0
    ) -> Array:
        """The reverse step's variance, ready to multiply x_t."""
        return transition(x_t, *levels)[1]


@dataclass(frozen=True)
class LearnedRange:
    """Between the fixed variances, where the network says; equation (4)."""

    def variance(
        self, estimate: Estimate, x_t: Array, levels: Levels, floor: Array | float = 0.0
    ) -> Array:
        """The reverse step's variance, of x_t's shape.

        Raises:
            InputError: the denoiser did not learn a variance.
        """
        fraction = estimate.variance_fraction
        if fraction is None:
            raise InputError(
                "LearnedRange needs a denoiser that learned a variance: train with "
                "prediction.learn_variance, or choose a fixed variance"
            )
        small = FixedSmall().variance(estimate, x_t, levels, floor)
        large = FixedLarge().variance(estimate, x_t, levels)
        # Onto the data, without a floor, there is no range: a step there adds no noise.
        log_small = jnp.log(jnp.where(small > 0, small, large))
        return jnp.exp(fraction * jnp.log(large) + (1 - fraction) * log_small)


@dataclass(frozen=True)
class MarginalNoise:
    """A trap, kept to show it: x_t's own noise variance, 1 - alphas_bar_t in DDPM.

    Some texts write sigma_t = sqrt(1 - alphas_bar_t) in the place of the reverse step's
    deviation. It is the deviation of the noise that all the forward steps put into x_t
    together. A reverse step may only put back what one forward step added; with this
    much, the chain does not converge: for Gaussian data of unit variance and the linear
    schedule of 1000 steps it ends with a variance of 82.6 instead of 1 (and
    with `FixedSmall` of 0.991). Never use it to draw samples.
    """

    def variance(
        self, estimate: Estimate, x_t: Array, levels: Levels, floor: Array | float = 0.0
    ) -> Array:
        """sigma_t^2, ready to multiply x_t."""
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
    """Mean and variance of p(x_s | x_t), equation (1), for any two levels.

    Args:
        estimate: the denoiser's, at x_t.
        x_t: float [batch, ...].
        level: of x_t.
        next_level: of x_s.
        variance: which variance.
        floor: the lower fixed variance in the step onto the data, where the posterior's
            is 0; see `forward.variance_floor`. Only a likelihood needs it: a sampler
            adds no noise there.
    """
    mean, _ = posterior(estimate.x_0, x_t, level, next_level)
    return mean, variance.variance(estimate, x_t, (level, next_level), floor)


def p_step(estimate: Estimate, x_t: Array, info: StepInfo, variance: Variance) -> Array:
    """A draw from p(x_s | x_t) with given noise; none is added in the last step."""
    level, next_level, noise, _ = info
    mean, var = p_mean_variance(estimate, x_t, level, next_level, variance)
    _, sigma_s = next_level.scales(x_t)
    return mean + jnp.where(sigma_s > 0, jnp.sqrt(var), 0.0) * noise


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class DDPM(Sampler):
    """The reverse chain, by all T steps of it unless a spacing leaves some out."""

    FLAG: ClassVar[str] = "ancestral"

    variance: Variance = field(default_factory=FixedSmall, metadata=STATIC)
    """The variance of the reverse step."""

    @property
    def deterministic(self) -> bool:
        """Whether the chain leaves the noise: no."""
        return False

    def step(
        self, estimate: Estimate, x_t: Array, info: StepInfo, memory: Any
    ) -> tuple[Array, Any]:
        """A draw from p(x_s | x_t)."""
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
    """One ancestral step, x_t to x_{t-1} (Ho et al. 2020, algorithm 2).

    Called for t = T-1, ..., 0 with one key it is `sample` with `DDPM`, spelt out.
    To clip the x_0 it goes by, give it `clip_x0(denoiser)`.

    Args:
        denoiser: what estimates x_0.
        schedule: the noise schedule.
        x_t: float [batch, ...].
        t: one integer in 0..T-1 for the whole batch; for a continuous schedule one of
            its `times`.
        key: the chain's key. The noise of an image depends on (key, its index, t).
        variance: `FixedSmall()` (the default), `FixedLarge()` or `LearnedRange()`.
        indices: integers [batch], the images' places in the whole request; 0, 1, ... by
            default.
        noise: standard Gaussian of x_t's shape, instead of drawing it from the key.

    Returns:
        x_{t-1}, of x_t's shape; at t = 0 the image.
    """
    level, next_level = schedule.level(t), schedule.next_level(t)
    if level.t.ndim:
        raise InputError(f"t must be one time; got shape {level.t.shape}")
    if not jnp.issubdtype(x_t.dtype, jnp.floating):
        raise InputError(f"x_t must be floating point; got {x_t.dtype}")
    steps_left = jnp.abs(schedule.times - jnp.asarray(t)).argmin()
    if noise is None:
        indices = jnp.arange(x_t.shape[0]) if indices is None else indices
        if indices.shape != x_t.shape[:1]:
            raise InputError(
                f"indices must have shape {x_t.shape[:1]}; got {indices.shape}"
            )
        noise = rng.step_noise(key, indices, steps_left, x_t.shape[1:])
    elif noise.shape != x_t.shape:
        raise InputError(f"noise must have shape {x_t.shape}; got {noise.shape}")
    info = StepInfo(level, next_level, noise, steps_left)
    return p_step(denoiser(x_t, level), x_t, info, variance or FixedSmall())
