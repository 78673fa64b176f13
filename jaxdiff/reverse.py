"""The reverse process: one ancestral step from x_t to x_{t-1}.

    (1)  p(x_s | x_t) = N(mean, variance), the mean that of q(x_s | x_t, x_0) at the
         denoiser's x_0                              (Ho et al. 2020, equation 11)
    (2)  fixed small:  variance = beta_ts sigma_s^2 / sigma_t^2, exact where the data is
         a single point                              (Ho et al. 2020, section 3.2)
    (3)  fixed large:  variance = beta_ts, exact where the data is N(0, 1)

The last step, onto the data, adds no noise.
"""

from dataclasses import dataclass
from typing import TypeAlias

import jax.numpy as jnp

from jaxdiff import keys as keys_lib
from jaxdiff.errors import InputError
from jaxdiff.forward import posterior, transition
from jaxdiff.schedule import Schedule
from jaxdiff.typing import Array, Denoiser, Estimate, Key, Level, Timesteps


@dataclass(frozen=True)
class FixedSmall:
    """The posterior's variance, equation (2): beta-tilde of DDPM."""

    def variance(
        self, estimate: Estimate, x_t: Array, level: Level, next_level: Level
    ) -> Array:
        """The reverse step's variance, ready to multiply x_t."""
        return posterior(estimate.x_0, x_t, level, next_level)[1]


@dataclass(frozen=True)
class FixedLarge:
    """The forward step's variance, equation (3): beta of DDPM."""

    def variance(
        self, estimate: Estimate, x_t: Array, level: Level, next_level: Level
    ) -> Array:
        """The reverse step's variance, ready to multiply x_t."""
        return transition(x_t, level, next_level)[1]


Variance: TypeAlias = FixedSmall | FixedLarge


def p_mean_variance(
    estimate: Estimate, x_t: Array, level: Level, next_level: Level, variance: Variance
) -> tuple[Array, Array]:
    """Mean and variance of p(x_s | x_t), equation (1), for any two levels."""
    mean, _ = posterior(estimate.x_0, x_t, level, next_level)
    return mean, variance.variance(estimate, x_t, level, next_level)


def p_step(
    estimate: Estimate,
    x_t: Array,
    level: Level,
    next_level: Level,
    noise: Array,
    variance: Variance,
) -> Array:
    """A draw from p(x_s | x_t) with given noise; none is added in the last step."""
    mean, var = p_mean_variance(estimate, x_t, level, next_level, variance)
    _, sigma_s = next_level.scales(x_t)
    return mean + jnp.where(sigma_s > 0, jnp.sqrt(var), 0.0) * noise


def p_sample_step(
    denoiser: Denoiser,
    schedule: Schedule,
    x_t: Array,
    t: Timesteps | int,
    key: Key,
    *,
    variance: Variance | None = None,
    indices: Array | None = None,
    noise: Array | None = None,
) -> Array:
    """One ancestral step, x_t to x_{t-1} (Ho et al. 2020, algorithm 2).

    Called for t = T-1, ..., 0 with one key it is `sample` with `Ancestral`, spelt out.
    To clip the x_0 it goes by, give it `clip_x_0(denoiser)`.

    Args:
        denoiser: what estimates x_0.
        schedule: the noise schedule.
        x_t: float [batch, ...].
        t: one integer in 0..T-1 for the whole batch.
        key: the chain's key. The noise of an image depends on (key, its index, t).
        variance: `FixedSmall()` (the default) or `FixedLarge()`.
        indices: integers [batch], the images' places in the whole request; 0, 1, ... by
            default.
        noise: standard Gaussian of x_t's shape, instead of drawing it from the key.

    Returns:
        x_{t-1}, of x_t's shape; at t = 0 the image.
    """
    level, next_level = schedule.level(t), schedule.next_level(t)
    if level.t.ndim:
        raise InputError(f"t must be one integer; got shape {level.t.shape}")
    if not jnp.issubdtype(x_t.dtype, jnp.floating):
        raise InputError(f"x_t must be floating point; got {x_t.dtype}")
    if noise is None:
        indices = jnp.arange(x_t.shape[0]) if indices is None else indices
        if indices.shape != x_t.shape[:1]:
            raise InputError(
                f"indices must have shape {x_t.shape[:1]}; got {indices.shape}"
            )
        keys = keys_lib.fold(keys_lib.example_keys(key, indices), level.t)
        noise = keys_lib.normal(keys, x_t.shape[1:])
    elif noise.shape != x_t.shape:
        raise InputError(f"noise must have shape {x_t.shape}; got {noise.shape}")
    estimate = denoiser(x_t, level)
    return p_step(estimate, x_t, level, next_level, noise, variance or FixedSmall())
