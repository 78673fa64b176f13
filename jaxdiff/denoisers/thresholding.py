"""Thresholding: functions from denoiser to denoiser that keep x_0 in its range.

The results are pytrees, and compose with guidance in any order.
"""

import jax.numpy as jnp
from jax.tree_util import Partial

from jaxdiff.checks import concrete
from jaxdiff.denoisers.network import as_pytree
from jaxdiff.denoisers.predictions import eps_of
from jaxdiff.errors import InputError
from jaxdiff.typing import Array, Denoiser, Estimate, Level


def clip_x0(
    denoiser: Denoiser,
    low: float | Array = -1.0,
    high: float | Array = 1.0,
    *,
    keep_eps: bool = False,
) -> Denoiser:
    """Clips the denoiser's x_0 to [low, high], and makes its eps agree.

    Args:
        denoiser: model.
        low: lower limit of x_0.
        high: upper limit of x_0.
        keep_eps: if True, eps stays as predicted. DDIM then continues with an eps that
            does not match its x_0, as the diffusers library does by default.

    Raises:
        InputError: low is not less than high.
    """
    limits = concrete(low), concrete(high)
    if None not in limits and not low < high:
        raise InputError(f"low must be less than high, got {low:g} and {high:g}")
    clipped = _clipped_with_eps if keep_eps else _clipped
    return Partial(clipped, as_pytree(denoiser), low, high)


def dynamic_threshold(
    denoiser: Denoiser,
    quantile: float | Array = 0.995,
    maximum: float | Array = float("inf"),
    *,
    keep_eps: bool = False,
) -> Denoiser:
    """Clips each image's x_0 to a range of its own (Saharia et al. 2022, section 2.3).

    The range is [-s, s], where s is a quantile of |x_0|, but at least 1. The clipped
    x_0 is then divided by s.

    Args:
        denoiser: model.
        quantile: quantile of |x_0| in 0..1.
        maximum: upper limit of s, at least 1; a limit of 1 gives `clip_x0`.
        keep_eps: if True, eps stays as predicted; see `clip_x0`.

    Raises:
        InputError: quantile or maximum is out of range.
    """
    if concrete(quantile) is not None and not 0 <= quantile <= 1:
        raise InputError(f"quantile must lie in 0..1, got {quantile:g}")
    if concrete(maximum) is not None and not maximum >= 1:
        raise InputError(f"maximum must be at least 1, got {maximum:g}")
    thresholded = _thresholded_with_eps if keep_eps else _thresholded
    return Partial(thresholded, as_pytree(denoiser), quantile, maximum)


def _clipped(
    denoiser: Denoiser, low: Array, high: Array, x_t: Array, level: Level
) -> Estimate:
    estimate = _clipped_with_eps(denoiser, low, high, x_t, level)
    return estimate._replace(eps=eps_of(estimate.x_0, x_t, level))


def _clipped_with_eps(
    denoiser: Denoiser, low: Array, high: Array, x_t: Array, level: Level
) -> Estimate:
    estimate = denoiser(x_t, level)
    return estimate._replace(x_0=jnp.clip(estimate.x_0, low, high))


def _thresholded(
    denoiser: Denoiser, quantile: Array, maximum: Array, x_t: Array, level: Level
) -> Estimate:
    estimate = _thresholded_with_eps(denoiser, quantile, maximum, x_t, level)
    return estimate._replace(eps=eps_of(estimate.x_0, x_t, level))


def _thresholded_with_eps(
    denoiser: Denoiser, quantile: Array, maximum: Array, x_t: Array, level: Level
) -> Estimate:
    estimate = denoiser(x_t, level)
    sizes = jnp.abs(estimate.x_0).reshape(len(x_t), -1)
    s = jnp.clip(jnp.quantile(sizes, quantile, axis=1), 1.0, maximum)
    s = s.reshape(-1, *(1,) * (x_t.ndim - 1))
    return estimate._replace(x_0=jnp.clip(estimate.x_0, -s, s) / s)
