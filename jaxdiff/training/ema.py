"""Power-function averages of the parameters, and any length of them afterwards.

Karras et al. 2024, "Analyzing and Improving the Training Dynamics of Diffusion Models"
(EDM2), section 3 and appendix C. The average of the exponent gamma at step t weighs the
parameters of time tau by (gamma + 1) tau^gamma / t^(gamma + 1), tau in (0, t]. Its
length is relative to the run: the profile's standard deviation over t.
"""

import math
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from jaxdiff.errors import InputError
from jaxdiff.typing import Array

LONGEST = 12**-0.5
"""The relative length of the plain mean of all steps, gamma = 0."""


def gamma_of(length: float) -> float:
    """The exponent of the average of a relative length (EDM2, appendix C, algorithm 2).

    >>> round(gamma_of(0.05), 2), round(gamma_of(0.10), 2)
    (16.97, 6.94)

    Args:
        length: sigma_rel, the profile's standard deviation as a part of the run, in
            (0, 1 / sqrt(12)).

    Returns:
        gamma, above 0.

    Raises:
        InputError: the length is out of range.
    """
    if not is_length(length):
        raise InputError(
            "the relative length of an average must lie in (0, 0.288), the share of "
            f"the run that it spans; got {length:g}"
        )
    # (gamma + 2)^2 (gamma + 3) = (gamma + 1) / length^2, whose largest root falls from
    # infinity to 0 as the length rises.
    inverse = length**-2
    roots = np.roots([1, 7, 16 - inverse, 12 - inverse])
    return float(roots.real.max())


def is_length(length: float) -> bool:
    """Whether a power-function average that grows with time has this length."""
    return 0 < length < LONGEST


def length_of(gamma: float) -> float:
    """The relative length of the average of an exponent; `gamma_of`'s inverse.

    EDM2, section 3.1: sqrt(gamma + 1) / ((gamma + 2) sqrt(gamma + 3)).
    """
    return math.sqrt((gamma + 1) / (gamma + 3)) / (gamma + 2)


def power_weight(gamma: float, step: Array) -> Array:
    """What part of a power-function average the newest parameters make up.

    1 - beta for beta = (1 - 1 / t)^(gamma + 1) (EDM2, section 3.1). An average that
    moves by it towards the parameters after each step has, exactly, the profile's
    integral over (i - 1, i] as the weight of the parameters after step i. The weight
    and not beta, which is so near to 1 that float32 would lose most of the difference.

    Args:
        gamma: the exponent.
        step: t, the number of steps taken, this one too; int32 [], at least 1.

    Returns:
        The weight, float32 [], in (0, 1]; 1 at the first step.
    """
    step = step.astype(jnp.float32)
    return -jnp.expm1((gamma + 1) * jnp.log1p(-1 / step))


def post_hoc_weights(
    steps: Sequence[float],
    gammas: Sequence[float],
    target_step: float,
    target_gamma: float,
) -> np.ndarray:
    """The sum of stored averages that comes closest to another average.

    The least-squares fit of the target's profile by the stored ones (EDM2, appendix C,
    algorithm 3), in float64.

    Args:
        steps: the step of each stored average, at least 1.
        gammas: the exponent of each, above 0; two averages differ in one of both.
        target_step: the step of the average wanted.
        target_gamma: its exponent.

    Returns:
        A weight for each stored average, float64 [n]. Their sum is near 1: it is not
        forced to be.

    Raises:
        InputError: there is no stored average, or all are later than the target.
    """
    if not steps or len(steps) != len(gammas):
        raise InputError(
            "as many steps as exponents are needed, and at least one; "
            f"got {len(steps)} and {len(gammas)}"
        )
    if target_step < min(steps):
        raise InputError(
            f"the first stored average is of step {min(steps):g}: none can be made for "
            f"step {target_step:g}"
        )
    t, g = np.asarray(steps, np.float64), np.asarray(gammas, np.float64)
    products = _product(t[:, None], g[:, None], t, g)
    wanted = _product(t, g, np.full(1, target_step), np.full(1, target_gamma))
    # Profiles have very different norms; scaled to 1 the equations are far better
    # conditioned. And lstsq, since many snapshots of near lengths are almost dependent.
    norms = np.sqrt(np.diag(products))
    scaled = products / np.outer(norms, norms)
    solution = np.linalg.lstsq(scaled, wanted / norms, rcond=1e-14)[0]
    return solution / norms


def post_hoc_error(
    steps: Sequence[float],
    gammas: Sequence[float],
    target_step: float,
    target_gamma: float,
    weights: np.ndarray,
) -> float:
    """How far a sum of stored profiles is from the target's, as a part of its norm.

    The root of the integral of the squared difference, over that of the target's
    square; see `post_hoc_weights`.
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
    """The integral over time of the product of two profiles, in closed form.

    Of the ratio of the steps, at most 1, so that no power overflows.
    """
    ratio = np.minimum(step_a, step_b) / np.maximum(step_a, step_b)
    exponent = np.where(step_a < step_b, gamma_b, gamma_a)
    scale = (gamma_a + 1) * (gamma_b + 1) / (gamma_a + gamma_b + 1)
    return scale * ratio**exponent / np.maximum(step_a, step_b)
