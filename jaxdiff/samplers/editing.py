"""Blends: between classes, between noises, between images.

- Of classes: `blend_labels`, by the network's embeddings of the classes, or
  `guidance.mix_classes`, by what it says given each of them.
- Of noises: `slerp`. Gaussian noises lie on a sphere, and so must what is between.
- Of images: `interpolate`, which blends the noises that the probability-flow ODE gives
  them (Song et al. 2021, DDIM, section 5.3).
- `image_to_image`: the chain, begun in its middle from a noised image (Meng et al.
  2022).
"""

import jax
import jax.numpy as jnp

from jaxdiff import rng
from jaxdiff.errors import InputError
from jaxdiff.samplers.base import Sampler, sample
from jaxdiff.samplers.inversion import decode, encode
from jaxdiff.typing import AnySchedule, Array, ArrayLike, Denoiser, Key


def slerp(a: Array, b: Array, fraction: ArrayLike | float) -> Array:
    """Spherical interpolation, 0 for a and 1 for b (Shoemake 1985).

    Each pair turns in its own plane, by its own angle. Where the two point the same way
    it is a straight line.

    Args:
        a: float [batch, ...].
        b: of a's shape.
        fraction: [] or [batch].
    """
    axes = tuple(range(1, a.ndim))
    fraction = jnp.asarray(fraction, a.dtype)
    fraction = fraction.reshape(fraction.shape + (1,) * (a.ndim - fraction.ndim))

    def length(x: Array) -> Array:
        return jnp.sqrt((x**2).sum(axis=axes, keepdims=True))

    cosine = (a * b).sum(axis=axes, keepdims=True) / (length(a) * length(b))
    angle = jnp.arccos(jnp.clip(cosine, -1.0, 1.0))
    apart = jnp.sin(angle) > 1e-4
    sine = jnp.where(apart, jnp.sin(angle), 1.0)
    share_a = jnp.where(apart, jnp.sin((1 - fraction) * angle) / sine, 1 - fraction)
    share_b = jnp.where(apart, jnp.sin(fraction * angle) / sine, fraction)
    return share_a * a + share_b * b


def blend_labels(
    a: ArrayLike, b: ArrayLike, fraction: ArrayLike | float, num_classes: int
) -> Array:
    """Labels between two classes, to `bind` a network to: shares of the embeddings.

    Args:
        a: classes [batch].
        b: classes [batch].
        fraction: 0 for a, 1 for b; [] or [batch].
        num_classes: the number of classes.

    Returns:
        float32 [batch, num_classes], which sum to 1.
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
    """Images between two, through the noises that the ODE gives them.

    Args:
        denoiser: what estimates x_0 and eps.
        sampler: a deterministic one.
        schedule: the noise schedule.
        a: images, float [batch, ...].
        b: of a's shape.
        fraction: 0 for a, 1 for b; [] or [batch].
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
    """Other images like the given ones: noised part of the way, and denoised.

    Args:
        denoiser: what estimates x_0 and eps.
        sampler: whose grid to begin in the middle of.
        schedule: the noise schedule.
        key: image i depends on (key, indices[i]) and on what was given alone.
        images: float [batch, ...].
        strength: which share of the sampler's steps to take, above 0 and at most 1;
            small keeps the image, 1 forgets it.
        indices: integers [batch], as for `sample`.

    Raises:
        InputError: strength is out of range.
    """
    if not 0 < strength <= 1:
        raise InputError(f"strength must be above 0 and at most 1; got {strength:g}")
    grid = sampler.grid(schedule)
    whole = grid.alpha.shape[0] - 1
    steps = max(1, round(strength * whole))
    levels = jax.tree.map(lambda a: a[whole - steps :], grid)
    indices = jnp.arange(len(images)) if indices is None else indices
    noise = rng.step_noise(key, indices, steps, images.shape[1:]).astype(images.dtype)
    alpha, sigma = (a[0].astype(images.dtype) for a in levels[1:])
    return sample(
        denoiser, sampler, schedule, key, images.shape,
        indices=indices, x_T=alpha * images + sigma * noise, levels=levels,
    )  # fmt: skip
