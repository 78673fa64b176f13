"""Randomness: one PRNG key per example, folded from the example's global index.

The draws of an example depend on (key, its index) alone. They do not depend on the
batch, or on the number of devices or hosts that share the batch.
"""

import jax
import jax.numpy as jnp

from jaxdiff.errors import InputError
from jaxdiff.typing import Array, Key

KIND = "threefry2x32"
"""Kind of all keys. Others, such as rbg, draw a batch of numbers from its first key."""


def key(seed: int | Array) -> Key:
    """Returns the key of a seed; of `KIND`, for any `jax_default_prng_impl`."""
    return jax.random.key(seed, impl=KIND)


def example_keys(key: Key, indices: Array) -> Key:
    """Returns one key per example: `fold_in(key, i)` for each i of indices [batch].

    Args:
        key: typed key [], or one key per example [batch].
        indices: integers [batch].

    Raises:
        InputError: the key is not a typed key of these shapes, or not of `KIND`.
    """
    dtype = getattr(key, "dtype", None)
    typed = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
    if not typed or key.shape not in ((), indices.shape):
        raise InputError(
            f"key must be one typed key, jax.random.key(seed), got {key!r:.60}"
        )
    kind = str(jax.random.key_impl(key))
    if kind != KIND:
        raise InputError(
            f"key must be of the kind {KIND}, got {kind}. Make it with "
            f'jax.random.key(seed, impl="{KIND}").'
        )
    axis = 0 if key.ndim else None
    return jax.vmap(jax.random.fold_in, in_axes=(axis, 0))(key, indices)


def fold(keys: Key, data: int | Array) -> Key:
    """Folds one number into every key [batch]: an independent stream for each key."""
    return jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, data)


def normal(keys: Key, shape: tuple[int, ...]) -> Array:
    """Draws standard Gaussian float32 noise [batch, *shape], a row per key [batch]."""
    return jax.vmap(lambda key: jax.random.normal(key, shape, jnp.float32))(keys)


def step_noise(
    key: Key, indices: Array, steps_left: int | Array, shape: tuple[int, ...]
) -> Array:
    """Draws the noise of one sampling step: standard Gaussian float32 [batch, *shape].

    The noise of image i depends on (key, indices[i], steps_left) alone.

    Args:
        key: key of the whole sampling loop, or one key per image [batch].
        indices: places of the images in the whole request, integers [batch].
        steps_left: number of steps after this one, an integer [] in 0..N-1 of N steps;
            N for the noise that sampling starts from.
        shape: shape of one image.

    Raises:
        InputError: the key is not a typed key, [] or [batch].
    """
    return normal(fold(example_keys(key, indices), steps_left), shape)


def uniform(keys: Key) -> Array:
    """Draws uniform float32 numbers [batch] in [0, 1), one per key [batch]."""
    return jax.vmap(lambda key: jax.random.uniform(key, (), jnp.float32))(keys)
