"""Probability-flow ODE in both directions: from an image to its noise, and back.

The ODE maps x at the least noisy level to x at the noisiest one, and the map has an
inverse. The data are taken to be y = x / alpha at the least noisy level (as for
`ode_log_density`). There is then no step onto the data, which would denoise.
"""

import jax
import jax.numpy as jnp

from jaxdiff import rng
from jaxdiff.checks import at_least_float32
from jaxdiff.errors import InputError
from jaxdiff.samplers.base import Sampler, check_parts, sample
from jaxdiff.typing import AnySchedule, Array, Denoiser, Level


def encode(
    denoiser: Denoiser, sampler: Sampler, schedule: AnySchedule, x_0: Array
) -> Array:
    """Returns the noise that the probability-flow ODE turns into the given images.

    Args:
        denoiser: denoiser, which estimates x_0 and eps. It should be smooth, hence not
            clipped.
        sampler: deterministic sampler; its grid is followed from the data to the noise.
        schedule: noise schedule.
        x_0: images, float [batch, ...].

    Returns:
        x at the grid's noisiest level, of x_0's shape.

    Raises:
        InputError: the sampler adds noise, its grid has one level only, or x_0 is not
            floating point.
    """
    x_0 = at_least_float32("x_0", x_0)
    levels = jax.tree.map(lambda a: a[::-1], _without_data(denoiser, sampler, schedule))
    x = levels.alpha[0].astype(x_0.dtype) * x_0
    return _run(denoiser, sampler, schedule, x, levels)


def decode(
    denoiser: Denoiser, sampler: Sampler, schedule: AnySchedule, x_T: Array
) -> Array:
    """Returns the images that the probability-flow ODE makes of noise.

    It is the inverse of `encode`, with the same arguments. x_T is the result of
    `encode`.
    """
    levels = _without_data(denoiser, sampler, schedule)
    x = _run(denoiser, sampler, schedule, x_T, levels)
    return x / levels.alpha[-1].astype(x.dtype)


def _run(
    denoiser: Denoiser, sampler: Sampler, schedule: AnySchedule, x: Array, levels: Level
) -> Array:
    """Runs the loop along the levels; a deterministic sampler ignores the key."""
    key = rng.key(0)
    return sample(denoiser, sampler, schedule, key, x.shape, x_T=x, levels=levels)


def _without_data(denoiser: Denoiser, sampler: Sampler, schedule: AnySchedule) -> Level:
    """Returns the sampler's grid without the data at its end."""
    check_parts(denoiser, sampler, schedule)
    if not sampler.deterministic:
        raise InputError(
            "sampler must be deterministic for the probability-flow ODE, got "
            f"{type(sampler).__name__} with noise. Choose a deterministic sampler, or "
            "set its eta or churn to 0."
        )
    grid = sampler.grid(schedule)
    kept = len(grid.alpha) - 1 if getattr(sampler.spacing, "to_data", True) else None
    levels: Level = jax.tree.map(lambda a: jnp.asarray(a)[:kept], grid)
    if len(levels.alpha) < 2:
        raise InputError(
            "the sampler's grid must have at least 2 levels, got 1. Take more steps."
        )
    return levels
