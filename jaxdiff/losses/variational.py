"""Variational bound on the log-likelihood, term by term.

The bound compares the generating Markov chain p with the noising one, q (Ho et al.
2020, equations 5 and 13), in bits per dimension:

    (1)  bits = L_T + sum_{t = 1..T-1} L_t + L_0
    (2)  L_T = KL(q(x_T | x_0) || N(0, prior_scale^2))
    (3)  L_t = KL(q(x_s | x_t, x_0) || p(x_s | x_t)),   s the next level
    (4)  L_0 = -log p(x_0 | x_{t=0}): each grey level has the mass that the Gaussian
         N(x_0-hat, variance) puts on its bin, the outermost bins open to infinity

Images are 8-bit ones scaled to [-1, 1], with bins of width `BIN`. The terms are
functions of two levels, so that sampling may visit any levels.
"""

import math

import jax.numpy as jnp
from jax.scipy.special import log_ndtr

from jaxdiff.samplers.ancestral import Variance, p_mean_variance
from jaxdiff.schedules.forward import posterior
from jaxdiff.typing import AnySchedule, Array, Estimate, Level

BIN = 2 / 255
"""Distance of two grey levels of an image in [-1, 1]."""


def bound_term(
    estimate: Estimate,
    x_0: Array,
    x_t: Array,
    level: Level,
    next_level: Level,
    variance: Variance,
    floor: Array | float,
) -> Array:
    """Returns a term of the bound: equation (3), or (4) if the next level is the data.

    Args:
        estimate: estimate of the denoiser at x_t.
        x_0: data, float [batch, ...] in [-1, 1].
        x_t: data with the level's noise.
        level: level of x_t, [] or [batch].
        next_level: level of the step's result; sigma = 0 is the data.
        variance: variance of the reverse step.
        floor: variance to use if the posterior's is 0; see `forward.variance_floor`.

    Returns:
        Bits per dimension, [batch].
    """
    true_mean, true_variance = posterior(x_0, x_t, level, next_level)
    mean, var = p_mean_variance(estimate, x_t, level, next_level, variance, floor)
    onto_data = next_level.scales(x_0)[1] == 0
    ratio = jnp.where(onto_data, 1.0, true_variance / var)
    kl = (ratio - 1 - jnp.log(ratio) + (true_mean - mean) ** 2 / var) / 2
    decoder = -discretised_log_likelihood(x_0, mean, jnp.sqrt(var))
    return _bits_per_dim(jnp.where(onto_data, decoder, kl))


def prior_term(schedule: AnySchedule, x_0: Array) -> Array:
    """Returns L_T, equation (2): the information on the data in the noisiest level.

    Args:
        schedule: noise schedule.
        x_0: data, float [batch, ...].

    Returns:
        Bits per dimension, [batch].
    """
    alpha, sigma = schedule.level(schedule.times[-1]).scales(x_0)
    scale = schedule.prior_scale
    ratio = (sigma / scale) ** 2
    return _bits_per_dim((ratio - 1 - jnp.log(ratio) + (alpha / scale * x_0) ** 2) / 2)


def discretised_log_likelihood(x: Array, mean: Array, deviation: Array) -> Array:
    """Returns the log-probability of x's bin under N(mean, deviation^2), equation (4).

    It is accurate far into the tails, where a difference of two distribution functions
    would be 0.

    Args:
        x: 8-bit images scaled to [-1, 1], float [batch, ...].
        mean: mean, of x's shape.
        deviation: standard deviation above 0, broadcasting to x's shape.

    Returns:
        Nats, of x's shape.
    """
    upper = (x + BIN / 2 - mean) / deviation
    lower = (x - BIN / 2 - mean) / deviation
    far = 1e4  # distance, in deviations, beyond the other edge and the mean
    upper = jnp.where(x > 1 - BIN / 2, jnp.maximum(lower, 0) + far, upper)
    lower = jnp.where(x < -1 + BIN / 2, jnp.minimum(upper, 0) - far, lower)
    # Mirrored edges enclose the same mass. A lower tail is exact, but an upper one is
    # rounded to 1.
    flip = lower + upper > 0
    lower, upper = jnp.where(flip, -upper, lower), jnp.where(flip, -lower, upper)
    log_upper = log_ndtr(upper)
    # Below 0 even if the bin is too narrow for float32: the gradient must be finite.
    log_ratio = jnp.minimum(log_ndtr(lower) - log_upper, -1e-9)
    return log_upper + jnp.log(-jnp.expm1(log_ratio))


def _bits_per_dim(nats: Array) -> Array:
    """Returns the mean over all axes except the first, in bits."""
    return nats.mean(axis=tuple(range(1, nats.ndim))) / math.log(2)
