"""Exponential integrators in log(alpha / sigma): the maths of DPM-Solver++ and UniPC.

With lambda = log(alpha / sigma) and x_0-hat as a function of it, the probability-flow
ODE (eta = 0), and the reverse SDE that adds eta as much noise as DDPM, are solved by
(Lu et al. 2022b, propositions 4.1 and A.1), from t to s, h = lambda_s - lambda_t:

    (1)  x_s = sigma_s e^(-eta h) eps-hat_t + alpha_s x_0-hat_t
               + alpha_s I[x_0-hat - x_0-hat_t] + sigma_s sqrt(1 - e^(-2 eta h)) noise
    (2)  I[f] = integral over theta of H e^(-H (1 - theta)) f(lambda_t + theta h),
         from 0 to 1, H = (1 + eta) h

Without I this is DDIM's step. A method of order p puts for f the polynomial through
x_0-hat at p times, of which the integral is exact: with theta_i = (lambda_i -
lambda_t) / h, Newton's divided differences f[0, 1], f[0, 1, 2], ... and the moments
M_j = I[theta^j],

    (3)  I = f[0, 1] M_1 + f[0, 1, 2] (M_2 - theta_1 M_1)
             + f[0, 1, 2, 3] (M_3 - (theta_1 + theta_2) M_2 + theta_1 theta_2 M_1)

With two times only, the published methods differ by what they put for M_1.
"""

import itertools
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from jaxdiff.samplers.base import StepInfo
from jaxdiff.typing import Array, Estimate, Level

_POINTS, _WEIGHTS = np.polynomial.legendre.leggauss(24)
_POINTS, _WEIGHTS = (_POINTS + 1) / 2, _WEIGHTS / 2


def half_log_snr(level: Level) -> Array:
    """Half the log signal-to-noise ratio, lambda; infinite where a scale is 0."""
    return jnp.log(level.alpha) - jnp.log(level.sigma)


def first_order(estimate: Estimate, info: StepInfo, eta: Array | float) -> Array:
    """Equation (1) without I."""
    level, next_level, noise, _ = info
    ratio = next_level.sigma * level.alpha / (level.sigma * next_level.alpha)  # e^-h
    decay = ratio**eta  # without logarithms, for h may be infinite
    fresh = next_level.sigma * jnp.sqrt(jnp.maximum(1 - decay**2, 0.0))
    kept = next_level.sigma * decay
    return next_level.alpha * estimate.x_0 + kept * estimate.eps + fresh * noise


def integral(
    values: Sequence[Array],
    theta: Sequence[Array],
    count: Array,
    rate: Array,
    slope: Array | None,
) -> Array:
    """Equation (3), of x_0-hat's shape.

    Args:
        values: x_0-hat at up to 4 times, the first at the step's beginning.
        theta: where in the step those times are, [] each: 0 at its beginning, 1 at its
            end.
        count: how many of them there are, an integer [] of at least 1; those after it
            are not looked at.
        rate: H.
        slope: what stands for M_1 where there are two times; None for M_1.
    """
    m_1, m_2, m_3 = _moments(rate)
    # In the place of times that are not there yet, any that are apart.
    nodes = [jnp.where(i < count, node, -i) for i, node in enumerate(theta)]
    weights = [m_1 if slope is None else jnp.where(count == 2, slope, m_1)]
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


def _moments(rate: Array) -> tuple[Array, Array, Array]:
    """M_1, M_2 and M_3 for H = rate, by Gauss's quadrature: formulas would cancel."""
    theta = jnp.asarray(_POINTS, rate.dtype)
    weights = jnp.asarray(_WEIGHTS, rate.dtype) * rate * jnp.exp(-rate * (1 - theta))
    m_1, m_2, m_3 = ((weights * theta**j).sum() for j in (1, 2, 3))
    return m_1, m_2, m_3
