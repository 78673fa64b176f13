"""The probability-flow ODE in both directions: an image to its noise, and back.

The ODE maps x at the least noisy level to x at the noisiest one, and the map has an
inverse. What is taken for the data is y = x / alpha at the least noisy level (as for
`ode_log_density`): there is then no step onto the data, which would denoise.
"""

import jax
import jax.numpy as jnp

from jaxdiff.errors import InputError
from jaxdiff.samplers.base import Sampler, sample
from jaxdiff.typing import AnySchedule, Array, Denoiser, Level


def encode(
    denoiser: Denoiser, sampler: Sampler, schedule: AnySchedule, x_0: Array
) -> Array:
    """The noise that the probability-flow ODE turns into given images.

    Args:
        denoiser: what estimates x_0 and eps; as smooth as may be, so not clipped.
        sampler: a deterministic one; its grid is walked from the data to the noise.
        schedule: the noise schedule.
        x_0: images, float [batch, ...].

    Returns:
        x at the grid's noisiest level, of x_0's shape.

    Raises:
        InputError: the sampler adds noise, or its grid has one level only.
    """
    levels = jax.tree.map(lambda a: a[::-1], _without_data(sampler, schedule))
    x = levels.alpha[0].astype(x_0.dtype) * x_0
    return _run(denoiser, sampler, schedule, x, levels)


def decode(
    denoiser: Denoiser, sampler: Sampler, schedule: AnySchedule, x_T: Array
) -> Array:
    """The images into which the probability-flow ODE turns noise; undoes `encode`.

    The arguments are as for `encode`, and x_T is what it gives back.
    """
    levels = _without_data(sampler, schedule)
    x = _run(denoiser, sampler, schedule, x_T, levels)
    return x / levels.alpha[-1].astype(x.dtype)


def _run(
    denoiser: Denoiser, sampler: Sampler, schedule: AnySchedule, x: Array, levels: Level
) -> Array:
    """The chain along the levels; the key is not used by a deterministic sampler."""
    key = jax.random.key(0)
    return sample(denoiser, sampler, schedule, key, x.shape, x_T=x, levels=levels)


def _without_data(sampler: Sampler, schedule: AnySchedule) -> Level:
    """The sampler's grid without the data at its end."""
    if not sampler.deterministic:
        raise InputError(
            f"the probability-flow ODE has no noise; {type(sampler).__name__} adds "
            "some: choose a deterministic sampler, or set its eta or churn to 0"
        )
    grid = sampler.grid(schedule)
    kept = len(grid.alpha) - 1 if getattr(sampler.spacing, "to_data", True) else None
    levels: Level = jax.tree.map(lambda a: jnp.asarray(a)[:kept], grid)
    if len(levels.alpha) < 2:
        raise InputError("the sampler's grid has one level only: take more steps")
    return levels
