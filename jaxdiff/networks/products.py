"""Linear layers and 3x3 convolutions in bfloat16 for the CPU, as matrix products.

XLA multiplies matrices with the CPU's instructions for bfloat16 only if the result is
float32 and the sum runs over the last axis of the first matrix. It converts everything
else to float32 first. The functions here ask for such products and round their results.

A convolution of x with the kernel g is the sum of three products, one for each row of
the kernel:

    (1)  y[r] = sum over i of  z[r + i, i],   z[., i] = X g[i]

X holds three neighbours of a pixel side by side: it is x padded with zeros, shifted to
the left, not at all and to the right. One product computes z for all i. With the
gradients dy[r - i] side by side in Y, the gradient by the kernel is

    (2)  dg^T = Y^T X

The gradient by x is (1) of dy with the kernel rotated by 180 degrees.
"""

from typing import Any

import jax
import jax.numpy as jnp

from jaxdiff.networks import modules
from jaxdiff.networks.primitives import Product, differentiate, product
from jaxdiff.networks.winograd import chunks
from jaxdiff.parallel import processor
from jaxdiff.typing import Array

PIXELS = 2048
"""Number of pixels at a time, so that X and z stay in the cache."""
UNIT = 16
"""Number of rows of a register for matrices."""


def dot_general(x: Array, kernel: Array, dimensions: Any, **options: Any) -> Array:
    """Multiplies as `jax.lax.dot_general`, with its arguments, for `nn.Dense`.

    Linear layers multiply two matrices. XLA computes the kernel gradient of more
    dimensions from a transposed copy on the CPU, and computes the layer's input again
    for it, which takes as long as the rest. In bfloat16, the CPU has its own programs.
    The values are the same, except for rounding.
    """
    inner = (((x.ndim - 1,), (0,)), ((), ()))
    options = {name: value for name, value in options.items() if value is not None}
    if x.dtype == kernel.dtype and dimensions == inner and not options:
        return _of_rows(x, kernel)
    return jax.lax.dot_general(x, kernel, dimensions, **options)


@jax.jit
def _of_rows(x: Array, kernel: Array) -> Array:
    """Returns the product over the last axis of x; equal layers are traced once."""
    rows = linear.bind(x.reshape(-1, x.shape[-1]), kernel)
    return rows.reshape(*x.shape[:-1], -1)


class Dense(modules.Dense):
    """Linear layer of Flax that multiplies by `dot_general`."""

    dot_general: Any = dot_general


def _multiply(a: Array, b: Array) -> Array:
    return jnp.dot(a, b, preferred_element_type=jnp.float32)


def _multiply_transposed(a: Array, b: Array) -> Array:
    """Returns a^T b of a [rows, m] and b [rows, n], in float32."""
    if a.shape[1] > b.shape[1]:  # the smaller matrix is transposed
        return _multiply_transposed(b, a).T
    # XLA would take the transposition of an unpadded matrix into the product.
    padded = jnp.pad(a.T, ((0, UNIT), (0, 0)))
    return _multiply(padded, b)[: a.shape[1]]


def _plain_gradient(x: Array, dy: Array) -> Array:
    return x.T @ dy


def _if_faster(own: Product, plain: Product) -> Product:
    """Returns a program that is `own` in bfloat16 on a CPU that multiplies it."""

    def chosen(a: Array, b: Array) -> Array:
        own_gains = a.dtype == jnp.bfloat16 and processor.multiplies_bfloat16()
        return (own if own_gains else plain)(a, b)

    return chosen


def multiply(x: Array, kernel: Array) -> Array:
    """Returns the product of [rows, in] and [in, out], by the CPU's instructions."""
    return _multiply(x, kernel).astype(x.dtype)


def multiply_transposed(x: Array, dy: Array) -> Array:
    """Returns the gradient of `multiply` by the kernel [in, out]."""
    return _multiply_transposed(x, dy).astype(x.dtype)


linear = product("linear", jnp.dot, _if_faster(multiply, jnp.dot))
linear_gradient = product(
    "linear_gradient", _plain_gradient, _if_faster(multiply_transposed, _plain_gradient)
)
differentiate(
    linear,
    lambda dy, x, kernel: linear.bind(dy, kernel.T),
    lambda dy, x, kernel: linear_gradient.bind(x, dy),
)
differentiate(
    linear_gradient,
    lambda dk, x, dy: linear.bind(dy, dk.T),
    lambda dk, x, dy: linear.bind(x, dk),
)


def convolve(x: Array, kernel: Array) -> Array:
    """Convolves images [batch, height, width, in], padded, equation (1)."""
    channels, features = kernel.shape[2:]
    matrix = kernel.transpose(1, 2, 0, 3).reshape(3 * channels, 3 * features)

    def of(x: Array) -> Array:
        count, height, width, _ = x.shape
        z = _multiply(_neighbours(x).reshape(-1, 3 * channels), matrix)
        z = z.reshape(count, height + 2, width, 3, features)
        rows = [z[:, i : height + i, :, i] for i in range(3)]
        return (rows[0] + rows[1] + rows[2]).astype(x.dtype)

    return jax.lax.map(of, chunks(x, PIXELS)).reshape(*x.shape[:3], features)


def kernel_gradient(x: Array, dy: Array) -> Array:
    """Returns the gradient of a convolution by its kernel, equation (2)."""
    channels, features = x.shape[-1], dy.shape[-1]

    def add(total: Array, chunk: tuple[Array, Array]) -> tuple[Array, None]:
        x, dy = chunk
        y = [jnp.pad(dy, ((0, 0), (0, 0), (i, 2 - i), (0, 0))) for i in range(3)]
        rows = jnp.stack(y).reshape(3 * features, -1)
        return total + _multiply(rows, _neighbours(x).reshape(-1, 3 * channels)), None

    # The transposition before the loop keeps XLA from taking it into the product.
    parts = (chunks(x, PIXELS), chunks(dy, PIXELS).transpose(0, 4, 1, 2, 3))
    zeros = jnp.zeros((3 * features, 3 * channels), jnp.float32)
    total, _ = jax.lax.scan(add, zeros, parts)
    kernel = total.reshape(3, features, 3, channels).transpose(0, 2, 3, 1)
    return kernel.astype(x.dtype)


def _neighbours(x: Array) -> Array:
    """Returns X [batch, height + 2, width, 3 in]."""
    width = x.shape[2]
    padded = jnp.pad(x, ((0, 0), (0, 0), (1, 1), (0, 0)))
    shifted = [padded[:, :, i : width + i] for i in range(3)]
    return jnp.pad(jnp.concatenate(shifted, -1), ((0, 0), (1, 1), (0, 0), (0, 0)))
