"""Power-function averages of the parameters, and post-hoc averages of any length.

Karras et al. 2024, "Analyzing and Improving the Training Dynamics of Diffusion Models"
(EDM2), section 3 and appendix C. The average with exponent gamma at step t weighs the
parameters of time tau by (gamma + 1) tau^gamma / t^(gamma + 1), tau in (0, t]. The
length of an average is relative to the run: the standard deviation of this profile over
t.
"""

import math
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from jaxdiff.errors import InputError
from jaxdiff.typing import Array

LONGEST = 12**-0.5
"""Relative length of the plain mean of all steps, gamma = 0."""


def gamma_of(length: float) -> float:
    """Returns the exponent for a relative length (EDM2, appendix C, algorithm 2).

    >>> round(gamma_of(0.05), 2), round(gamma_of(0.10), 2)
    (16.97, 6.94)

    Args:
        length: Relative length sigma_rel: the profile's standard deviation as a share
            of the run, in (0, 1 / sqrt(12)).

    Returns:
        Exponent gamma, above 0.

    Raises:
        InputError: If the length is out of range.
    """
    if not is_length(length):
        raise InputError(
            "the relative length of an average must lie in (0, 0.288), got "
            f"{length:g}. Give the share of the run that the average spans."
        )
    # The largest root of (gamma + 2)^2 (gamma + 3) = (gamma + 1) / length^2 falls from
    # infinity to 0 as the length rises.
    inverse = length**-2
    roots = np.roots([1, 7, 16 - inverse, 12 - inverse])
    return float(roots.real.max())


def is_length(length: float) -> bool:
    """Returns True if a growing power-function average of this length exists."""
    return 0 < length < LONGEST


def length_of(gamma: float) -> float:
    """Returns the relative length for an exponent; the inverse of `gamma_of`.

    EDM2, section 3.1: sqrt(gamma + 1) / ((gamma + 2) sqrt(gamma + 3)).
    """
    return math.sqrt((gamma + 1) / (gamma + 3)) / (gamma + 2)


def power_weight(gamma: float, step: Array) -> Array:
    """Returns the weight of the newest parameters in a power-function average.

    The weight is 1 - beta for beta = (1 - 1 / t)^(gamma + 1) (EDM2, section 3.1). After
    each step, the average moves towards the parameters by this weight. The parameters
    after step i then have, exactly, the profile's integral over (i - 1, i] as their
    weight. beta itself is so near to 1 that float32 would lose most of the difference.

    Args:
        gamma: Exponent of the average.
        step: Number of steps taken with this one, t, at least 1 (int32 []).

    Returns:
        Weight in (0, 1]; 1 at the first step (float32 []).
    """
    step = step.astype(jnp.float32)
    return -jnp.expm1((gamma + 1) * jnp.log1p(-1 / step))


def post_hoc_weights(
    steps: Sequence[float],
    gammas: Sequence[float],
    target_step: float,
    target_gamma: float,
) -> np.ndarray:
    """Returns the weights of the sum of stored averages that is closest to a target.

    The sum is the least-squares fit of the target's profile by the stored profiles
    (EDM2, appendix C, algorithm 3), in float64. As in EDM2's published code, the
    weights are then divided by their sum, because the target's weights sum to 1.

    Args:
        steps: Step of each stored average, at least 1.
        gammas: Exponent of each stored average, above 0; no two averages have equal
            steps and exponents.
        target_step: Step of the target average.
        target_gamma: Exponent of the target average.

    Returns:
        Weight of each stored average (float64 [n]); the weights sum to 1.

    Raises:
        InputError: If there is no stored average, or all are later than the target.
    """
    if not steps or len(steps) != len(gammas):
        raise InputError(
            "steps and gammas must have one length of at least 1, "
            f"got {len(steps)} and {len(gammas)}"
        )
    if target_step < min(steps):
        raise InputError(
            f"step of an average must be at least {min(steps):g}, the first stored "
            f"step, got {target_step:g}. Choose a later step."
        )
    t, g = np.asarray(steps, np.float64), np.asarray(gammas, np.float64)
    products = _product(t[:, None], g[:, None], t, g)
    wanted = _product(t, g, np.full(1, target_step), np.full(1, target_gamma))
    # Profiles have very different norms: scaling them to 1 conditions the equations far
    # better. lstsq handles many snapshots of close lengths, which are almost dependent.
    norms = np.sqrt(np.diag(products))
    scaled = products / np.outer(norms, norms)
    solution = np.linalg.lstsq(scaled, wanted / norms, rcond=1e-14)[0]
    weights = solution / norms
    return weights / weights.sum()


def post_hoc_error(
    steps: Sequence[float],
    gammas: Sequence[float],
    target_step: float,
    target_gamma: float,
    weights: np.ndarray,
) -> float:
    """Returns the distance of a sum of stored profiles from the target's profile.

    The distance is a share of the target's norm: the root of a ratio, the integral of
    the squared difference over the integral of the squared target. See
    `post_hoc_weights`.
    """
    t, g = np.asarray(steps, np.float64), np.asarray(gammas, np.float64)
    end, gamma = np.full(1, target_step), np.full(1, target_gamma)
    square = weights @ _product(t[:, None], g[:, None], t, g) @ weights
    mixed = weights @ _product(t, g, end, gamma)
    whole = _product(end, gamma, end, gamma).item()
    return math.sqrt(max(0.0, (square - 2 * mixed + whole) / whole))


def _product(
    step_a: np.ndarray, gamma_a: np.ndarray, step_b: np.ndarray, gamma_b: np.ndarray
) -> np.ndarray:
    """Returns the integral over time of the product of two profiles, in closed form.

    The formula uses the ratio of the steps, at most 1, so that no power overflows.
    """
    ratio = np.minimum(step_a, step_b) / np.maximum(step_a, step_b)
    exponent = np.where(step_a < step_b, gamma_b, gamma_a)
    scale = (gamma_a + 1) * (gamma_b + 1) / (gamma_a + gamma_b + 1)
    return scale * ratio**exponent / np.maximum(step_a, step_b)
