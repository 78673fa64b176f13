"""Which program a convolution is, by the kind of device that it runs on."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxdiff.networks import winograd
from jaxdiff.typing import Array

PIXELS, CHANNELS = 256, 16
"""The fewest of a feature map, and of either side of a kernel, that gain by it."""


def convolve(
    x: Array, kernel: Array, strides: Sequence[int], padding: Any, **options: Any
) -> Array:
    """A convolution, for `nn.Conv`: `jax.lax.conv_general_dilated` and its arguments.

    On the CPU, XLA's own takes up to ten times as long for the gradient by the kernel
    as for the rest; there, 3x3 convolutions in float32 go another way, to the same
    values but for rounding. Which one it is is decided when the program is compiled for
    its device.
    """

    def plain(x: Array, kernel: Array) -> Array:
        return jax.lax.conv_general_dilated(x, kernel, strides, padding, **options)

    _, height, width, _ = x.shape
    gains = (
        x.dtype == kernel.dtype == jnp.float32
        and kernel.shape[:2] == (3, 3)
        and tuple(strides) == (1, 1)
        and height % 2 == width % 2 == 0
        and height * width >= PIXELS
        and min(kernel.shape[2:]) >= CHANNELS
    )
    if not gains:
        return plain(x, kernel)
    return jax.lax.platform_dependent(x, kernel, cpu=winograd.convolve, default=plain)
