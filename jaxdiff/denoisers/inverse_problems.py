"""Inverse problems: images with a known part, or a known blurred version.

The measurement is y = A x_0 + noise of deviation sigma_y, with a linear operator A:
`masked`, `downsample`, `blur`, or any linear function of your own.

`given_measurement` is a function from denoiser to denoiser with a closed form.
Tweedie's second-order formula gives the covariance of x_0 given x_t (Efron 2011; Rozet
et al. 2024, section 3):

    (1)  C = Cov[x_0 | x_t] = sigma^2 / alpha  d x_0-hat / d x_t
    (2)  E[x_0 | x_t, y] = x_0-hat + C A^T (A C A^T + sigma_y^2)^-1 (y - A x_0-hat)

(2) assumes that p(x_0 | x_t) is Gaussian. This holds for Gaussian data. The samples
then have the mean and covariance of p(x_0 | y). `samplers.inverse_problems` has cheaper
methods, which are biased even for Gaussian data.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from jaxdiff.denoisers.network import as_pytree
from jaxdiff.denoisers.predictions import eps_of
from jaxdiff.errors import InputError
from jaxdiff.typing import Array, ArrayLike, Denoiser, Estimate, Level

Operator = Callable[[Array], Array]


def masked(mask: ArrayLike) -> Operator:
    """Makes the operator of inpainting: it keeps the pixels with mask 1.

    Args:
        mask: 1 for measured pixels, 0 for the others; broadcasts to the images.
    """
    return Partial(_masked, jnp.asarray(mask))


def downsample(factor: int) -> Operator:
    """Makes the operator of super-resolution: means over factor x factor pixels.

    Raises:
        InputError: factor is below 1, or (in use) does not divide the image's size.
    """
    if factor < 1:
        raise InputError(f"factor must be at least 1, got {factor}")
    return Partial(_downsampled, _Static(factor))


def blur(kernel: ArrayLike) -> Operator:
    """Makes the operator of deblurring: a convolution of every channel.

    The image continues beyond its edges periodically.

    Args:
        kernel: kernel [k, k], k odd.

    Raises:
        InputError: the kernel is not a square of odd size.
    """
    kernel = jnp.asarray(kernel)
    if kernel.ndim != 2 or kernel.shape[0] != kernel.shape[1] or len(kernel) % 2 == 0:
        raise InputError(f"kernel must be [k, k] with k odd, got shape {kernel.shape}")
    return Partial(_blurred, kernel)


def gaussian_blur(width: float, size: int) -> Operator:
    """Makes `blur` with a Gaussian kernel.

    Args:
        width: standard deviation in pixels, above 0.
        size: height and width of the kernel in pixels, odd.

    Raises:
        InputError: width is not above 0, or size is not odd.
    """
    if not width > 0:
        raise InputError(f"width must be above 0, got {width:g}")
    line = np.exp(-((np.arange(size) - (size - 1) / 2) ** 2) / (2 * width**2))
    kernel = np.outer(line, line)
    return blur(kernel / kernel.sum())


def given_measurement(
    denoiser: Denoiser,
    operator: Operator,
    measurement: Array,
    noise: float | Array = 0.0,
    *,
    iterations: int = 10,
) -> Denoiser:
    """Makes the denoiser of images given a measurement, equation (2).

    It is exact for Gaussian data. An evaluation costs one evaluation of the denoiser
    and `iterations` + 1 of its derivative. At a level without signal C is unknown, and
    the estimate stays unchanged.

    Args:
        denoiser: denoiser of images without a measurement, not clipped (clip the
            result).
        operator: A, a linear function of images [batch, ...].
        measurement: y, of the shape that A returns, [batch, ...].
        noise: sigma_y, at least 0.
        iterations: number of conjugate-gradient iterations that solve (2). One
            iteration per number of a measurement solves it exactly.

    Raises:
        InputError: iterations is below 1.
    """
    if iterations < 1:
        raise InputError(f"iterations must be at least 1, got {iterations}")
    return Partial(
        _given_measurement, as_pytree(denoiser), as_pytree(operator), measurement,
        noise, _Static(iterations),
    )  # fmt: skip


def with_known_part(denoiser: Denoiser, image: ArrayLike, mask: ArrayLike) -> Denoiser:
    """Makes the denoiser of images that are known where the mask is 0.

    Its x_0 is the image there, and its eps agrees. So a deterministic sampler that
    starts from alpha image + sigma noise keeps that noise in the known part. This is
    replacement (Song et al. 2021, score-based SDEs, appendix I.2) with one noise for
    all levels, as in the diffusers library. It costs nothing, and is biased even for
    Gaussian data, unlike `given_measurement`.

    Args:
        denoiser: denoiser of images.
        image: images, float [batch, ...].
        mask: 1 where the image is unknown, 0 where it is kept, or a share in between;
            broadcasts to the images.
    """
    return Partial(
        _with_known_part, as_pytree(denoiser), jnp.asarray(image), jnp.asarray(mask)
    )


@jax.tree_util.register_static
@dataclass(frozen=True)
class _Static:
    """Integer that is a constant of compiled functions."""

    value: int


def _with_known_part(
    denoiser: Denoiser, image: Array, mask: Array, x_t: Array, level: Level
) -> Estimate:
    estimate = denoiser(x_t, level)
    image, mask = like(image, x_t), like(mask, x_t)
    x_0 = image + mask * (estimate.x_0 - image)
    eps = eps_of(x_0, x_t, level)
    return estimate._replace(x_0=x_0, eps=jnp.where(mask == 1, estimate.eps, eps))


def _given_measurement(
    denoiser: Denoiser,
    operator: Operator,
    measurement: Array,
    noise: Array,
    iterations: _Static,
    x_t: Array,
    level: Level,
) -> Estimate:
    def image(x_t: Array) -> tuple[Array, Estimate]:
        estimate = denoiser(x_t, level)
        return estimate.x_0, estimate

    x_0, back, estimate = jax.vjp(image, x_t, has_aux=True)
    alpha, sigma = level.scales(x_t)
    some_alpha = jnp.where(alpha > 0, alpha, 1.0)
    transposed = jax.linear_transpose(operator, x_0)

    def spread(v: Array) -> Array:
        """Returns C A^T v."""
        return sigma**2 / some_alpha * back(transposed(v)[0])[0]

    solved = _conjugate_gradients(
        lambda v: operator(spread(v)) + noise**2 * v,
        measurement - operator(x_0),
        iterations.value,
    )
    change = jnp.where(alpha > 0, spread(solved), 0.0)
    return estimate._replace(
        x_0=x_0 + change, eps=estimate.eps - alpha / sigma * change
    )


def _conjugate_gradients(
    matrix: Callable[[Array], Array], b: Array, iterations: int
) -> Array:
    """Solves matrix(x) = b separately for each example of a batch, from x = 0.

    `jax.scipy.sparse.linalg.cg` would treat the batch as one system: an image would
    depend on the others.
    """

    def dot(a: Array, b: Array) -> Array:
        return (a * b).sum(axis=tuple(range(1, a.ndim)), keepdims=True)

    def ratio(a: Array, b: Array) -> Array:
        return jnp.where(b > 0, a / jnp.where(b > 0, b, 1.0), 0.0)

    def iterate(_: int, state: tuple[Array, ...]) -> tuple[Array, ...]:
        x, residual, direction, size = state
        image = matrix(direction)
        step = ratio(size, dot(direction, image))
        residual = residual - step * image
        new_size = dot(residual, residual)
        onward = residual + ratio(new_size, size) * direction
        return x + step * direction, residual, onward, new_size

    start = (jnp.zeros_like(b), b, b, dot(b, b))
    return jax.lax.fori_loop(0, iterations, iterate, start)[0]


def like(array: ArrayLike, x: Array) -> Array:
    """Returns the array in x's dtype, with leading axes of size 1 up to x's rank."""
    array = jnp.asarray(array, x.dtype)
    return array.reshape((1,) * (x.ndim - array.ndim) + array.shape)


def _masked(mask: Array, x: Array) -> Array:
    return like(mask, x) * x


def _downsampled(factor: _Static, x: Array) -> Array:
    size, (batch, height, width, channels) = factor.value, x.shape
    if height % size or width % size:
        raise InputError(
            f"factor must divide the image's {height} x {width} pixels, got {size}"
        )
    blocks = x.reshape(batch, height // size, size, width // size, size, channels)
    return blocks.mean(axis=(2, 4))


def _blurred(kernel: Array, x: Array) -> Array:
    reach = len(kernel) // 2
    total = jnp.zeros_like(x)
    for i, row in enumerate(kernel.astype(x.dtype)):
        for j, share in enumerate(row):
            total += share * jnp.roll(x, (i - reach, j - reach), axis=(1, 2))
    return total
