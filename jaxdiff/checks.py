"""Checks of ranges and shapes, of options and of arrays."""

import warnings
from dataclasses import fields, is_dataclass
from typing import Any

import jax
import numpy as np

from jaxdiff.errors import InputError, shown


def concrete(array: Any) -> np.ndarray | None:
    """The values to check, or None under `jit`, where they are not known yet.

    The checks must be NumPy's: inside `jit` even `jnp.min` of a constant is traced.
    """
    return None if isinstance(array, jax.core.Tracer) else np.asarray(array)


def check_seed(seed: int) -> None:
    """Refuses a seed that is no unsigned 32-bit number."""
    if not 0 <= seed < 2**32:
        raise InputError(f"seed must lie in 0..2^32 - 1; got {seed}")


MOST_STEPS = 1_000_000
"""The most steps of a chain; the tables of a typing error's would fill the memory."""


def check_num_steps(num_steps: int, least: int = 1) -> None:
    """Refuses a chain of too few steps, or of too many."""
    if num_steps < least:
        raise InputError(f"num_steps must be at least {least}; got {shown(num_steps)}")
    if num_steps > MOST_STEPS:
        raise InputError(
            f"num_steps must be at most {MOST_STEPS}; got {shown(num_steps)}"
        )


def is_finite(value: float) -> bool:
    """Whether a number is finite in float32, in which it will be computed with."""
    return abs(value) <= float(np.finfo(np.float32).max)


def check_finite(options: Any, prefix: str = "") -> None:
    """Refuses what is no finite float32 in any field of nested options.

    Computing takes it for infinite; JSON has no such number.
    """
    for field in fields(options):
        value, name = getattr(options, field.name), f"{prefix}{field.name}"
        if is_dataclass(value):
            check_finite(value, f"{name}.")
        elif isinstance(value, float) and not is_finite(value):
            raise InputError(f"{name} must be a finite float32; got {value:g}")


VISIBLE_SIGNAL = 0.05
"""Share of the image's contrast left in the last level above which a schedule warns."""


def warn_visible_signal(left: float) -> None:
    """Warns where a schedule's last level keeps such a share of the signal."""
    if left > VISIBLE_SIGNAL:
        warnings.warn(
            f"the last step keeps {left:.3g} of the signal (alphas_bar = {left**2:.3g})"
            ": use more steps or larger betas, or sampling starts from noise the "
            "network was not trained on",
            stacklevel=4,
        )


def check_range(name: str, array: Any, size: int) -> None:
    """Refuses integers outside 0..size-1, where they are concrete."""
    values = concrete(array)
    if values is not None and values.size:
        worst = values.min() if values.min() < 0 else values.max()
        if not 0 <= worst < size:
            raise InputError(f"{name} must lie in 0..{size - 1}; got {worst}")


def above_0(value: Any) -> bool:
    """Whether a number is known to be above 0."""
    known = concrete(value)
    return known is not None and bool(known > 0)


def check_at_least_0(options: object, *names: str) -> None:
    """Refuses fields that are negative numbers, or not numbers."""
    for name in names:
        value = getattr(options, name)
        # What JAX puts there while it traces is not looked at.
        if isinstance(value, int | float) and not value >= 0:
            raise InputError(f"{name} must be at least 0; got {value:g}")
