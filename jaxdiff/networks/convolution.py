"""Convolution for each kind of device."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxdiff.networks import winograd
from jaxdiff.typing import Array

PIXELS, CHANNELS = 256, 16
"""Smallest number of pixels of a feature map, and of channels on either side of a
kernel, at which Winograd's algorithm is used."""
MOST_CHANNELS = 512
"""Largest number of channels at which it is used. For one image of 16x16 pixels with
1280 channels, whose kernel is large, it takes 5 times as long as XLA's convolution.
Stable Diffusion's U-Net would take 2 GB more memory."""


def convolve(
    x: Array, kernel: Array, strides: Sequence[int], padding: Any, **options: Any
) -> Array:
    """Convolves as `jax.lax.conv_general_dilated`, with its arguments, for `nn.Conv`.

    On the CPU, XLA's kernel gradient takes up to ten times as long as the rest. 3x3
    convolutions in float32 therefore use Winograd's algorithm there. The values are the
    same, except for rounding. The choice is made when the program is compiled for its
    device.
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
        and max(kernel.shape[2:]) <= MOST_CHANNELS
    )
    if not gains:
        return plain(x, kernel)
    return jax.lax.platform_dependent(x, kernel, cpu=winograd.convolve, default=plain)
