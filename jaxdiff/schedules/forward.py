"""Forward process: one noising step, its closed form, and its posterior.

Between two levels s and t, s the less noisy one (Kingma et al. 2021, appendix A; for s
= t - 1 these are Ho et al. 2020, equations 2, 4, 6 and 7):

    (1)  q(x_t | x_s) = N(alpha_ts x_s, beta_ts)
         alpha_ts = alpha_t / alpha_s,   beta_ts = sigma_t^2 - alpha_ts^2 sigma_s^2
    (2)  q(x_t | x_0) = N(alpha_t x_0, sigma_t^2)
    (3)  q(x_s | x_t, x_0) = N(mean, variance)
         mean = (alpha_ts sigma_s^2 x_t + alpha_s beta_ts x_0) / sigma_t^2
         variance = beta_ts sigma_s^2 / sigma_t^2
"""

from typing import NamedTuple

import jax.numpy as jnp

from jaxdiff.checks import check_built
from jaxdiff.errors import InputError
from jaxdiff.schedules.discrete import Schedule
from jaxdiff.typing import AnySchedule, Array, Level, Timesteps


class Posterior(NamedTuple):
    """Gaussian q(x_{t-1} | x_t, x_0).

    The mean has x_t's shape; the variance and its logarithm broadcast to that shape.
    """

    mean: Array
    variance: Array
    log_variance: Array


def q_step(
    schedule: Schedule, x_prev: Array, t: Timesteps | int, noise: Array
) -> Array:
    """Adds the noise of one step, x_{t-1} to x_t (Ho et al. 2020, equation 2).

    Args:
        schedule: discrete noise schedule.
        x_prev: x_{t-1}, float [batch, ...]; the data if t = 0.
        t: time of the result, an integer [] or [batch] in 0..T-1.
        noise: standard Gaussian noise of x_prev's shape.

    Returns:
        x_t = sqrt(alpha_t) x_{t-1} + sqrt(beta_t) noise.

    Raises:
        InputError: shapes or types do not match, t is out of range, or the schedule is
            not built.
    """
    check_built(schedule, "alphas", "betas")
    t = schedule.level(t).t
    _check(x_prev, t, x_prev=x_prev, noise=noise)
    step = Level(t, jnp.sqrt(schedule.alphas[t]), jnp.sqrt(schedule.betas[t]))
    alpha, sigma = step.scales(x_prev)
    return alpha * x_prev + sigma * noise


def q_sample(
    schedule: AnySchedule, x_0: Array, t: Timesteps | int | float, noise: Array
) -> Array:
    """Adds the noise of t + 1 steps, x_0 to x_t (Ho et al. 2020, equation 4).

    Args:
        schedule: noise schedule, discrete or continuous.
        x_0: data, float [batch, ...].
        t: integers [] or [batch] in 0..T-1; floats in 0..1 for a continuous schedule.
        noise: standard Gaussian noise of x_0's shape.

    Returns:
        x_t = alpha_t x_0 + sigma_t noise; for a discrete schedule sqrt(alphas_bar_t)
        x_0 + sqrt(1 - alphas_bar_t) noise.

    Raises:
        InputError: shapes or types do not match, t is out of range, or the schedule is
            not built.
    """
    check_built(schedule)
    level = schedule.level(t)
    _check(x_0, level.t, x_0=x_0, noise=noise)
    alpha, sigma = level.scales(x_0)
    return alpha * x_0 + sigma * noise


def q_posterior(
    schedule: AnySchedule, x_0: Array, x_t: Array, t: Timesteps | int | float
) -> Posterior:
    """Returns q(x_{t-1} | x_t, x_0) (Ho et al. 2020, equations 6 and 7).

    Args:
        schedule: noise schedule.
        x_0: data, float [batch, ...].
        x_t: noisy images of x_0's shape.
        t: integers [] or [batch] in 0..T-1; floats in 0..1 for a continuous schedule.

    Returns:
        The mean, the variance and the log-variance. In the step onto the data (t = 0)
        the variance is 0, and the log-variance is the logarithm of `variance_floor`.

    Raises:
        InputError: shapes or types do not match, t is out of range, or the schedule is
            not built.
    """
    check_built(schedule, "next_level", "times", "num_steps")
    level, next_level = schedule.level(t), schedule.next_level(t)
    _check(x_0, level.t, x_0=x_0, x_t=x_t)
    mean, variance = posterior(x_0, x_t, level, next_level)
    at_0 = next_level.scales(x_0)[1] == 0
    floor = variance_floor(schedule)
    return Posterior(mean, variance, jnp.log(jnp.where(at_0, floor, variance)))


def variance_floor(schedule: AnySchedule) -> Array:
    """Returns the substitute for the posterior's variance in the last step, [].

    The posterior's variance is 0 there. The substitute is the variance of the step
    before (Nichol & Dhariwal 2021, section 3.1), or beta_0 if T = 1.
    """
    t = schedule.times[min(1, schedule.num_steps - 1)]
    level, next_level = schedule.level(t), schedule.next_level(t)
    _, variance = posterior(level.sigma, level.sigma, level, next_level)
    _, beta = transition(level.sigma, level, next_level)
    return jnp.where(variance > 0, variance, beta)


def posterior(
    x_0: Array, x_t: Array, level: Level, next_level: Level
) -> tuple[Array, Array]:
    """Returns the mean and variance of q(x_s | x_t, x_0), equation (3)."""
    alpha_ts, beta_ts = transition(x_t, level, next_level)
    _, sigma_t = level.scales(x_t)
    alpha_s, sigma_s = next_level.scales(x_t)
    share = (sigma_s / sigma_t) ** 2
    mean = alpha_ts * share * x_t + alpha_s * beta_ts / sigma_t**2 * x_0
    return mean, beta_ts * share


def transition(x: Array, level: Level, next_level: Level) -> tuple[Array, Array]:
    """Returns alpha_ts and beta_ts of equation (1), shaped to multiply x."""
    alpha_t, sigma_t = level.scales(x)
    alpha_s, sigma_s = next_level.scales(x)
    # A step up to a level without signal, of the ODE backwards, has no such q.
    alpha_ts = jnp.where(alpha_s > 0, alpha_t / jnp.where(alpha_s > 0, alpha_s, 1.0), 0)
    return alpha_ts, sigma_t**2 - (alpha_ts * sigma_s) ** 2


def root(x: Array) -> Array:
    """Returns sqrt(x), and 0 with derivative 0 if x is 0 or a rounding error below."""
    positive = x > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1.0)), 0.0)


def snr(level: Level) -> Array:
    """Returns the signal-to-noise ratio alpha^2 / sigma^2 of a level, of its shape."""
    return (level.alpha / level.sigma) ** 2


def log_snr(level: Level) -> Array:
    """Returns the natural logarithm of `snr`."""
    return 2 * (jnp.log(level.alpha) - jnp.log(level.sigma))


def _check(x: Array, t: Array, **arrays: Array) -> None:
    for name, array in arrays.items():
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise InputError(
                f"{name} must be floating point, got {array.dtype}. Scale images to "
                "[-1, 1]."
            )
        if array.shape != x.shape:
            raise InputError(
                f"{' and '.join(arrays)} must have one shape, got {x.shape} and "
                f"{array.shape}"
            )
    if t.ndim > 1 or (t.ndim == 1 and t.shape[0] != x.shape[0]):
        raise InputError(
            f"t must be one number, or one per example ({x.shape[:1]}), got shape "
            f"{t.shape}"
        )
