"""Exponential integrators in log(alpha / sigma): DPM-Solver++, UniPC and DEIS.

Let lambda = log(alpha / sigma), and take x_0-hat as a function of lambda. Equation (1)
solves the probability-flow ODE (eta = 0), and the reverse SDE with eta times DDPM's
noise (Lu et al. 2022b, propositions 4.1 and A.1). It goes from t to s, with h =
lambda_s - lambda_t:

    (1)  x_s = sigma_s e^(-eta h) eps-hat_t + alpha_s x_0-hat_t
               + alpha_s I[x_0-hat - x_0-hat_t] + sigma_s sqrt(1 - e^(-2 eta h)) noise
    (2)  I[f] = integral over theta of H e^(-H (1 - theta)) f(lambda_t + theta h),
         from 0 to 1, H = (1 + eta) h

Without I this is DDIM's step. A method of order p replaces f by the polynomial through
x_0-hat at p times, and integrates the polynomial exactly. With theta_i = (lambda_i -
lambda_t) / h, Newton's divided differences f[0, 1], f[0, 1, 2], ... and the moments M_j
= I[theta^j],

    (3)  I = f[0, 1] M_1 + f[0, 1, 2] (M_2 - theta_1 M_1)
             + f[0, 1, 2, 3] (M_3 - (theta_1 + theta_2) M_2 + theta_1 theta_2 M_1)

With only two times, the published methods differ in their approximation of M_1.

In terms of eps-hat, the ODE is solved by the same integral, with the opposite sign of H
(Zhang & Chen 2023, equation 11, with the time log(sigma / alpha)):

    (4)  x_s = sigma_s eps-hat_t + alpha_s x_0-hat_t + sigma_s I[eps-hat - eps-hat_t],
         H = -h
"""

import itertools
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from jaxdiff.samplers.base import StepInfo
from jaxdiff.schedules.forward import root
from jaxdiff.typing import Array, Estimate, Level

_POINTS, _WEIGHTS = np.polynomial.legendre.leggauss(24)
_POINTS, _WEIGHTS = (_POINTS + 1) / 2, _WEIGHTS / 2


FAR = 1e15
"""Substitute for an infinite lambda. Infinities would make the derivatives NaN."""


def half_log_snr(level: Level) -> Array:
    """Returns lambda, half the log-SNR; -FAR if alpha is 0, FAR if sigma is 0."""
    signal, noise = level.alpha > 0, level.sigma > 0
    alpha, sigma = jnp.where(signal, level.alpha, 1.0), jnp.where(noise, level.sigma, 1)
    known = jnp.log(alpha) - jnp.log(sigma)
    return jnp.where(signal & noise, known, jnp.where(signal, FAR, -FAR))


def length(now: Array, next_level: Level, count: Array) -> Array:
    """Returns h from lambda `now`; 1 if a step of `count` 1 does not use h, []."""
    return jnp.where(count > 1, half_log_snr(next_level) - now, 1.0)


def first_order(estimate: Estimate, info: StepInfo, eta: Array | float) -> Array:
    """Returns equation (1) without I."""
    level, next_level, noise, *_ = info
    alpha_s = jnp.where(next_level.alpha > 0, next_level.alpha, 1.0)
    ratio = next_level.sigma * level.alpha / (level.sigma * alpha_s)  # e^-h
    # Without logarithms, because h may be infinite. An eta below 1 then has a slope
    # that is infinite, too.
    regular = (ratio > 0) | (eta >= 1)
    decay = jnp.where(regular, jnp.where(regular, ratio, 1.0) ** eta, 0.0**eta)
    fresh = next_level.sigma * root(1 - decay**2)
    kept = next_level.sigma * decay
    return next_level.alpha * estimate.x_0 + kept * estimate.eps + fresh * noise


def integral(
    values: Sequence[Array],
    theta: Sequence[Array],
    count: Array,
    moments: Sequence[Array],
) -> Array:
    """Returns equation (3), of the values' shape.

    Args:
        values: x_0-hat at up to 4 times, the first at the step's beginning.
        theta: position of each time in the step, [] each: 0 at its beginning, 1 at its
            end.
        count: number of times to use, an integer [] of at least 1; later times are
            ignored.
        moments: M_1, M_2, M_3, [] each.
    """
    m_1, m_2, m_3 = moments
    # Missing times are replaced by distinct numbers, to avoid 0 / 0.
    nodes = [jnp.where(i < count, node, -i) for i, node in enumerate(theta)]
    weights = [m_1]
    if len(nodes) > 2:
        weights.append(m_2 - nodes[1] * m_1)
    if len(nodes) > 3:
        a, b = nodes[1], nodes[2]
        weights.append(m_3 - (a + b) * m_2 + a * b * m_1)
    total = jnp.zeros_like(values[0])
    differences = list(values)
    for order, weight in zip(range(1, len(nodes)), weights, strict=False):
        differences = [
            (right - left) / (nodes[i + order] - nodes[i])
            for i, (left, right) in enumerate(itertools.pairwise(differences))
        ]
        total += jnp.where(order < count, weight * differences[0], 0.0)
    return total


def moments_of(rate: Array) -> tuple[Array, Array, Array]:
    """Returns M_1, M_2 and M_3 of equation (2) for H = rate.

    Gauss's quadrature is used, because closed formulas would suffer from cancellation.
    """
    theta = jnp.asarray(_POINTS, rate.dtype)
    weights = jnp.asarray(_WEIGHTS, rate.dtype) * rate * jnp.exp(-rate * (1 - theta))
    m_1, m_2, m_3 = ((weights * theta**j).sum() for j in (1, 2, 3))
    return m_1, m_2, m_3
