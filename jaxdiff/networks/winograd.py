"""3x3 convolutions for the CPU, by Winograd's minimal filtering.

F(2x2, 3x3) of Lavin and Gray 2016 ("Fast algorithms for convolutional neural networks",
section 4.1) cuts the output into tiles Y of 2x2 pixels. Each depends on a tile d of 4x4
pixels of the input. For the kernel g

    (1)  Y = A^T [(G g G^T) * (B^T d B)] A

where * multiplies number by number: 16 products instead of 36. Summed over the
channels, each of the 16 is a matrix product [tiles, in] x [in, out]. If dY is the
gradient of a loss by Y, (1) gives the gradient by g

    (2)  dg = G^T [(B^T d B) * (A dY A^T)] G,   summed over the tiles,

again as 16 matrix products. The gradient by the input is (1) of dY with the kernel
rotated by 180 degrees.

A product covers some hundred tiles at a time, so that their transforms stay in the
cache.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.typing import Array

TILES = 256
"""Number of tiles at a time: the rows of a matrix product."""
G = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]], np.float32)


def convolve(x: Array, kernel: Array) -> Array:
    """Convolves images with a 3x3 kernel, padded to the same size.

    Args:
        x: images float32 [batch, height, width, in], both sizes even.
        kernel: kernel float32 [3, 3, in, out].

    Returns:
        float32 [batch, height, width, out].
    """
    spectrum = jnp.einsum("ai,bj,ijco->baco", G, G, kernel)
    spectrum = spectrum.reshape(16, *kernel.shape[2:])

    def of(x: Array) -> Array:
        products = jnp.einsum("ptc,pco->pto", _input_tiles(x), spectrum)
        shape = (4, 4, *x.shape[:1], x.shape[1] // 2, x.shape[2] // 2, -1)
        rows = jnp.stack(_output(products.reshape(shape)), 4)
        return jnp.stack(_output(rows), 2)

    y = jax.lax.map(of, chunks(x, 4 * TILES))
    return y.reshape(*x.shape[:3], -1)


def kernel_gradient(x: Array, dy: Array) -> Array:
    """Returns the gradient of `convolve` by its kernel, equation (2)."""

    def add(total: Array, chunk: tuple[Array, Array]) -> tuple[Array, None]:
        x, dy = chunk
        rows = jnp.stack(_spread(_pairs(dy, 1)))
        tiles = jnp.stack(_spread(_pairs(rows, 3))).reshape(16, -1, dy.shape[-1])
        return total + jnp.einsum("ptc,pto->pco", _input_tiles(x), tiles), None

    zeros = jnp.zeros((16, x.shape[-1], dy.shape[-1]), x.dtype)
    total, _ = jax.lax.scan(add, zeros, (chunks(x, 4 * TILES), chunks(dy, 4 * TILES)))
    spectrum = total.reshape(4, 4, *total.shape[1:])
    return jnp.einsum("ai,bj,baco->ijco", G, G, spectrum)


def chunks(x: Array, pixels: int) -> Array:
    """Splits a batch into [chunks, images of a chunk, height, width, channels].

    Args:
        x: images [batch, height, width, channels].
        pixels: number of pixels of a chunk, if an image has no more and it divides
            the batch.
    """
    batch, height, width, _ = x.shape
    size = math.gcd(batch, max(1, pixels // (height * width)))
    return x.reshape(batch // size, size, *x.shape[1:])


def _input_tiles(x: Array) -> Array:
    """Returns B^T d B [16, tiles, channels]."""

    def slices(x: Array, axis: int) -> list[Array]:
        end = x.shape[axis] - 2
        return [jax.lax.slice_in_dim(x, i, end + i - 1, 2, axis) for i in range(4)]

    def transformed(d: Sequence[Array]) -> list[Array]:
        return [d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]]

    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    rows = jnp.stack(transformed(slices(padded, 1)))
    tiles = jnp.stack(transformed(slices(rows, 3)))
    return tiles.reshape(16, -1, x.shape[-1])


def _output(m: Array) -> list[Array]:
    """Returns A^T m: four to two."""
    return [m[0] + m[1] + m[2], m[1] - m[2] - m[3]]


def _spread(y: Sequence[Array]) -> list[Array]:
    """Returns A y: two to four."""
    return [y[0], y[0] + y[1], y[0] - y[1], -y[1]]


def _pairs(x: Array, axis: int) -> list[Array]:
    """Returns every second row, or column, from the first and from the second."""
    return [jax.lax.slice_in_dim(x, i, None, 2, axis) for i in range(2)]
