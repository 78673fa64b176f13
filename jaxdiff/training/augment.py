"""Random changes of images in training that leave their content as it is."""

import jax
import jax.numpy as jnp

from jaxdiff.typing import Array


def shifted(images: Array, keys: Array) -> Array:
    """Shifts images randomly by up to 1/16 of their size; the edge pixels are repeated.

    Args:
        images: [batch, height, width, channels].
        keys: one PRNG key per image, [batch].
    """
    most = max(1, max(images.shape[1:3]) // 16)
    pads = ((0, 0), (most, most), (most, most), (0, 0))
    padded = jnp.pad(images, pads, mode="edge")

    def cut(image: Array, key: Array) -> Array:
        y, x = jax.random.randint(key, (2,), 0, 2 * most + 1)
        return jax.lax.dynamic_slice(image, (y, x, 0), images.shape[1:])

    return jax.vmap(cut)(padded, keys)
