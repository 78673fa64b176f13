"""Randomness: one key per example, folded from its global index.

What is drawn for an example depends on (key, its index) alone: not on the batch it is
in, nor on how many devices or hosts share that batch.
"""

import jax
import jax.numpy as jnp

from jaxdiff.errors import InputError
from jaxdiff.typing import Array, Key


def example_keys(key: Key, indices: Array) -> Key:
    """One key an example: `fold_in(key, i)` for each i of indices [batch].

    Raises:
        InputError: the key is not one typed key.
    """
    dtype = getattr(key, "dtype", None)
    if dtype is None or not jnp.issubdtype(dtype, jax.dtypes.prng_key) or key.ndim:
        raise InputError(
            f"key must be one typed key, jax.random.key(seed); got {key!r:.60}"
        )
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, indices)


def fold(keys: Key, data: int | Array) -> Key:
    """Folds one number into every key [batch]: an independent stream of each."""
    return jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, data)


def normal(keys: Key, shape: tuple[int, ...]) -> Array:
    """Standard Gaussian float32 noise [batch, *shape], a row from each key [batch]."""
    return jax.vmap(lambda key: jax.random.normal(key, shape, jnp.float32))(keys)


def step_noise(
    key: Key, indices: Array, steps_left: int | Array, shape: tuple[int, ...]
) -> Array:
    """Draws the noise of one sampling step: standard Gaussian float32 [batch, *shape].

    The noise of image i depends on (key, indices[i], steps_left) alone.

    Args:
        key: the key of the whole sampling loop.
        indices: integers [batch], the images' places in the whole request.
        steps_left: number of steps after this one, [], 0 to N - 1 of N steps; N for the
            noise that sampling starts from.
        shape: shape of one image.

    Raises:
        InputError: the key is not one typed key.
    """
    return normal(fold(example_keys(key, indices), steps_left), shape)


def uniform(keys: Key) -> Array:
    """Uniform float32 numbers [batch] in [0, 1), one from each key [batch]."""
    return jax.vmap(lambda key: jax.random.uniform(key, (), jnp.float32))(keys)
