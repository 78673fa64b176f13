"""Editing: blends of classes, of noises and of images.

- Classes: `blend_labels` blends the network's embeddings of the classes.
  `guidance.mix_classes` blends the estimates given each class.
- Noises: `slerp`. Gaussian noises lie near a sphere, and so must their blends.
- Images: `interpolate` blends the noises that the probability-flow ODE assigns to the
  images (Song et al. 2021, DDIM, section 5.3).
- `image_to_image` starts the sampling loop in its middle, from a noised image (Meng et
  al. 2022).
"""

import jax
import jax.numpy as jnp

from jaxdiff import rng
from jaxdiff.checks import at_least_float32
from jaxdiff.conditions import slerp as slerp
from jaxdiff.errors import InputError
from jaxdiff.samplers.base import Sampler, check_parts, sample
from jaxdiff.samplers.inversion import decode, encode
from jaxdiff.typing import AnySchedule, Array, ArrayLike, Denoiser, Key, Level


def blend_labels(
    a: ArrayLike, b: ArrayLike, fraction: ArrayLike | float, num_classes: int
) -> Array:
    """Returns labels between two classes for `bind`: shares of their embeddings.

    Args:
        a: first classes [batch].
        b: second classes [batch].
        fraction: position between a (0) and b (1), [] or [batch].
        num_classes: number of classes.

    Returns:
        Shares float32 [batch, num_classes]; each row sums to 1.
    """
    share = jnp.asarray(fraction, jnp.float32)[..., None]
    share = jnp.broadcast_to(share, (*jnp.shape(a), 1))
    first, second = (jax.nn.one_hot(labels, num_classes) for labels in (a, b))
    return (1 - share) * first + share * second


def interpolate(
    denoiser: Denoiser,
    sampler: Sampler,
    schedule: AnySchedule,
    a: Array,
    b: Array,
    fraction: ArrayLike | float,
) -> Array:
    """Returns images between two, by the noises that the ODE assigns to them.

    Args:
        denoiser: denoiser, which estimates x_0 and eps.
        sampler: deterministic sampler.
        schedule: noise schedule.
        a: first images, float [batch, ...].
        b: second images, of a's shape.
        fraction: position between a (0) and b (1), [] or [batch].

    Raises:
        InputError: the sampler adds noise, or its grid has one level only.
    """
    start, end = (encode(denoiser, sampler, schedule, x) for x in (a, b))
    return decode(denoiser, sampler, schedule, slerp(start, end, fraction))


def image_to_image(
    denoiser: Denoiser,
    sampler: Sampler,
    schedule: AnySchedule,
    key: Key,
    images: Array,
    strength: float,
    *,
    indices: Array | None = None,
) -> Array:
    """Returns images similar to the given ones: partly noised, then denoised.

    Args:
        denoiser: denoiser, which estimates x_0 and eps.
        sampler: sampler, of whose grid the last part is used.
        schedule: noise schedule.
        key: typed key. Image i depends on (key, indices[i]) and the other arguments
            alone.
        images: images, float [batch, ...].
        strength: share of the sampler's steps to take, in (0, 1]. A small strength
            keeps the image, strength 1 ignores it.
        indices: places of the images in the whole request, integers [batch], as in
            `sample`.

    Raises:
        InputError: strength is out of range, or the images are not floating point.
    """
    check_parts(denoiser, sampler, schedule)
    x_T, levels = noised(sampler, schedule, key, images, strength, indices)
    return sample(
        denoiser, sampler, schedule, key, images.shape,
        indices=indices, x_T=x_T, levels=levels,
    )  # fmt: skip


def noised(
    sampler: Sampler,
    schedule: AnySchedule,
    key: Key,
    images: Array,
    strength: float,
    indices: Array | None = None,
) -> tuple[Array, Level]:
    """Returns noised images and the levels that lead from them to the data.

    The arguments are those of `image_to_image`.

    Raises:
        InputError: strength is out of range, or the images are not floating point.
    """
    images = at_least_float32("images", images)
    if not 0 < strength <= 1:
        raise InputError(f"strength must be above 0 and at most 1, got {strength:g}")
    grid = sampler.grid(schedule)
    whole = grid.alpha.shape[0] - 1
    steps = max(1, round(strength * whole))
    levels = jax.tree.map(lambda a: a[whole - steps :], grid)
    indices = jnp.arange(len(images)) if indices is None else indices
    noise = rng.step_noise(key, indices, steps, images.shape[1:]).astype(images.dtype)
    alpha, sigma = (a[0].astype(images.dtype) for a in levels[1:])
    return alpha * images + sigma * noise, levels
