"""Functions from denoiser to denoiser."""

import jax.numpy as jnp
from jax.tree_util import Partial

from jaxdiff.denoiser import as_pytree
from jaxdiff.errors import InputError
from jaxdiff.prediction import eps_of
from jaxdiff.typing import Array, Denoiser, Estimate, Level


def clip_x_0(denoiser: Denoiser, low: float = -1.0, high: float = 1.0) -> Denoiser:
    """The denoiser with its x_0 clipped to [low, high] and its eps made to agree.

    Raises:
        InputError: low is not less than high.
    """
    if not low < high:
        raise InputError(f"low must be less than high; got {low:g} and {high:g}")
    return Partial(_clipped, as_pytree(denoiser), low, high)


def _clipped(
    denoiser: Denoiser, low: Array, high: Array, x_t: Array, level: Level
) -> Estimate:
    estimate = denoiser(x_t, level)
    x_0 = jnp.clip(estimate.x_0, low, high)
    return estimate._replace(x_0=x_0, eps=eps_of(x_0, x_t, level))
