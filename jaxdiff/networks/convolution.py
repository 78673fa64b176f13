"""Convolution for each kind of device."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxdiff.networks import products, winograd
from jaxdiff.networks.primitives import differentiate, product
from jaxdiff.parallel import processor
from jaxdiff.typing import Array

PIXELS, CHANNELS = 256, 16
"""Smallest number of pixels of a feature map, and of channels on either side of a
kernel, at which Winograd's algorithm is used."""
MOST_CHANNELS = 512
"""Largest number of channels at which it is used. For one image of 16x16 pixels with
1280 channels, whose kernel is large, it takes 5 times as long as XLA's convolution.
Stable Diffusion's U-Net would take 2 GB more memory."""
CHANNELS_OF_PRODUCTS = 64
"""Smallest number of channels at which a convolution in bfloat16 is made of matrix
products."""
WIDE_PIXELS, WIDE_CHANNELS = 1024, (32, 64)
"""With AVX-512: smallest number of pixels, and smallest and largest number of channels
on the narrower side, at which a kernel gradient in float32 is made of matrix products.
Fewer channels are XLA's, and more are Winograd's."""
NUMBERS = ("NHWC", "HWIO", "NHWC")


def convolve(
    x: Array, kernel: Array, strides: Sequence[int], padding: Any, **options: Any
) -> Array:
    """Convolves as `jax.lax.conv_general_dilated`, with its arguments, for `nn.Conv`.

    3x3 convolutions that keep the size have their own programs on the CPU. XLA's kernel
    gradient takes up to ten times as long as the rest there, and its convolutions in
    bfloat16 convert to float32. In float32 they use Winograd's algorithm, in bfloat16
    matrix products, each where that is faster. With AVX-512, XLA's own convolutions in
    float32 are faster, but not its kernel gradients. The values are the same, except
    for rounding. The choice is made when the program is compiled for its device.
    """
    same = padding == "SAME" or [tuple(side) for side in padding] == [(1, 1), (1, 1)]
    known = same and x.dtype == kernel.dtype and kernel.shape[:2] == (3, 3)
    if known and tuple(strides) == (1, 1) and _is_plain(options):
        return convolution.bind(x, kernel)
    return jax.lax.conv_general_dilated(x, kernel, strides, padding, **options)


def _is_plain(options: dict[str, Any]) -> bool:
    """Returns True if the options neither dilate nor group, and images are NHWC."""
    options = dict(options)
    numbers = options.pop("dimension_numbers", None)
    if isinstance(numbers, jax.lax.ConvDimensionNumbers):
        spec = jax.lax.conv_dimension_numbers((1,) * 4, (1,) * 4, NUMBERS)
        known = numbers == spec
    else:
        known = numbers == NUMBERS
    ones = (None, 1, (1, 1), [1, 1])
    return known and all(value in ones for value in options.values())


def plain(x: Array, kernel: Array) -> Array:
    """Convolves images with a 3x3 kernel, padded to the same size, by XLA.

    Args:
        x: images [batch, height, width, in].
        kernel: kernel [3, 3, in, out].

    Returns:
        [batch, height, width, out].
    """
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=NUMBERS
    )


def plain_kernel_gradient(x: Array, dy: Array) -> Array:
    """Returns the gradient by the kernel of `plain`, from the gradient by its result.

    Args:
        x: images [batch, height, width, in].
        dy: gradient by the result [batch, height, width, out].

    Returns:
        [3, 3, in, out].
    """
    shape = (3, 3, x.shape[-1], dy.shape[-1])
    kernel = jax.ShapeDtypeStruct(shape, x.dtype)
    return jax.linear_transpose(lambda kernel: plain(x, kernel), kernel)(dy)[0]


def _on_cpu(x: Array, kernel: Array) -> Array:
    own = _fastest(x, kernel.shape[2:], for_kernel=False)
    return plain(x, kernel) if own is None else own.convolve(x, kernel)


def _kernel_gradient_on_cpu(x: Array, dy: Array) -> Array:
    own = _fastest(x, (x.shape[-1], dy.shape[-1]), for_kernel=True)
    return plain_kernel_gradient(x, dy) if own is None else own.kernel_gradient(x, dy)


def _fastest(x: Array, channels: Sequence[int], *, for_kernel: bool) -> Any:
    """Returns the module with the fastest program on this CPU; None for XLA's.

    Args:
        x: images [batch, height, width, in].
        channels: number of channels on both sides of the kernel.
        for_kernel: if True, the program is the kernel gradient.
    """
    height, width = x.shape[1:3]
    pixels, fewest, least = height * width, min(channels), CHANNELS
    if x.dtype == jnp.bfloat16:
        many = fewest >= CHANNELS_OF_PRODUCTS
        return products if many and processor.multiplies_bfloat16() else None
    if x.dtype != jnp.float32:
        return None
    if processor.has_wide_vectors():
        if not for_kernel:
            return None
        first, last = WIDE_CHANNELS
        if pixels >= WIDE_PIXELS and first <= fewest <= last:
            return products
        least = last
    is_even = height % 2 == width % 2 == 0
    fits = least <= fewest and max(channels) <= MOST_CHANNELS
    return winograd if is_even and fits and pixels >= PIXELS else None


def rotated(kernel: Array) -> Array:
    """Returns the kernel of the gradient by the images [3, 3, out, in]."""
    return kernel[::-1, ::-1].swapaxes(2, 3)


convolution = product("convolution_3x3", plain, _on_cpu)
kernel_gradient = product(
    "kernel_gradient_3x3", plain_kernel_gradient, _kernel_gradient_on_cpu
)
differentiate(
    convolution,
    lambda dy, x, kernel: convolution.bind(dy, rotated(kernel)),
    lambda dy, x, kernel: kernel_gradient.bind(x, dy),
)
differentiate(
    kernel_gradient,
    lambda dk, x, dy: convolution.bind(dy, rotated(dk)),
    lambda dk, x, dy: convolution.bind(x, dk),
)
