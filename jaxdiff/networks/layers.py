"""The parts of the U-Net (Ho et al. 2020, appendix B)."""

import math
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdiff import keys as keys_lib
from jaxdiff.networks.convolution import convolve
from jaxdiff.typing import Array, Images, Key, Timesteps

_init = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")
_zeros = nn.initializers.zeros


def timestep_embedding(t: Timesteps, features: int, max_period: float = 1e4) -> Array:
    """Sinusoids of the time, [sin | cos] (Vaswani et al. 2017, section 3.5).

    Args:
        t: times [batch], integer or float; embedded in float32.
        features: the length of the embedding, even and at least 4.
        max_period: the longest period over 2 pi.

    Returns:
        float32 [batch, features].
    """
    half = features // 2
    exponents = jnp.arange(half, dtype=jnp.float32) / (half - 1)
    frequencies = jnp.exp(-math.log(max_period) * exponents)
    angles = t.astype(jnp.float32)[:, None] * frequencies[None, :]
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def dropout(x: Array, rate: float, keys: Key | None) -> Array:
    """Drops each number with probability `rate`, an example by its own key.

    Args:
        x: [batch, ...].
        rate: in [0, 1).
        keys: one key per example, or None to leave x as it is.
    """
    if keys is None or rate == 0:
        return x
    kept = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate, x.shape[1:]))(keys)
    return jnp.where(kept, x / (1 - rate), jnp.zeros_like(x))


class Norm(nn.Module):
    """Group normalisation with the largest number of groups that fits.

    A group has two channels at least: in a group of one, normalisation would undo what
    the time embedding adds, and the network would not know the time.

    Attributes:
        groups: the most groups; the number used divides the channels.
        dtype: of the result; the statistics are float32.
    """

    groups: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Images) -> Images:
        """Normalises x [batch, height, width, channels]."""
        channels = x.shape[-1]
        most = max(1, min(self.groups, channels // 2))
        groups = next(g for g in range(most, 0, -1) if channels % g == 0)
        norm = nn.GroupNorm(groups, epsilon=1e-6, dtype=self.dtype, name="group")
        return norm(x)


class ResBlock(nn.Module):
    """Norm, swish, conv, + time; norm, swish, dropout, conv; + skip.

    Attributes:
        features: the channels of the result.
        dropout: the rate in [0, 1).
        groups: of the normalisation.
        dtype: of the computation; parameters are float32.
    """

    features: int
    dropout: float
    groups: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Images, embedding: Array, keys: Key | None) -> Images:
        """X [batch, h, w, c], time embedding [batch, e], keys [batch] when training."""
        conv = partial(conv3x3, self.features, self.dtype)

        def dense(name: str) -> nn.Dense:
            return nn.Dense(
                self.features, dtype=self.dtype, kernel_init=_init, name=name
            )

        h = conv("conv_1")(nn.swish(Norm(self.groups, self.dtype, name="norm_1")(x)))
        h += dense("time")(nn.swish(embedding))[:, None, None, :]
        h = nn.swish(Norm(self.groups, self.dtype, name="norm_2")(h))
        h = conv("conv_2", _zeros)(dropout(h, self.dropout, keys))
        skip = x if x.shape[-1] == self.features else dense("skip")(x)
        return skip + h


class Attention(nn.Module):
    """Self-attention over all positions of a feature map, plus the input.

    Attributes:
        heads: how many; they divide the channels.
        groups: of the normalisation.
        dtype: of the computation; parameters are float32.
    """

    heads: int
    groups: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Images) -> Images:
        """X [batch, height, width, channels]."""
        batch, height, width, channels = x.shape

        def dense(name: str, init: Any = _init) -> nn.Dense:
            return nn.Dense(channels, dtype=self.dtype, kernel_init=init, name=name)

        h = Norm(self.groups, self.dtype, name="norm")(x)
        heads = (batch, height * width, self.heads, channels // self.heads)
        query, key, value = (
            dense(name)(h).reshape(heads) for name in ("query", "key", "value")
        )
        h = jax.nn.dot_product_attention(query, key, value)
        return x + dense("out", _zeros)(h.reshape(x.shape))


class Downsample(nn.Module):
    """Halves height and width by a strided convolution."""

    dtype: Any

    @nn.compact
    def __call__(self, x: Images) -> Images:
        """X [batch, height, width, channels], both sizes even."""
        return conv3x3(x.shape[-1], self.dtype, "conv", strides=2)(x)


class Upsample(nn.Module):
    """Doubles height and width: nearest neighbour, then a convolution."""

    dtype: Any

    @nn.compact
    def __call__(self, x: Images) -> Images:
        """X [batch, height, width, channels]."""
        x = x.repeat(2, axis=1).repeat(2, axis=2)
        return conv3x3(x.shape[-1], self.dtype, "conv")(x)


def to_patches(x: Images, size: int) -> Images:
    """Patches as pixels: [b, h, w, c] to [b, h / size, w / size, size^2 c]."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // size, size, width // size, size, channels)
    return x.swapaxes(2, 3).reshape(batch, height // size, width // size, -1)


def from_patches(x: Images, size: int) -> Images:
    """The inverse of `to_patches`."""
    batch, height, width, _ = x.shape
    x = x.reshape(batch, height, width, size, size, -1)
    return x.swapaxes(2, 3).reshape(batch, height * size, width * size, -1)


def drop_labels(labels: Array, rate: float, null: int, keys: Key | None) -> Array:
    """Replaces labels by `null` with probability `rate`; none where keys is None."""
    if keys is None or rate == 0:
        return labels
    return jnp.where(keys_lib.uniform(keys) < rate, null, labels)


def conv3x3(
    features: int, dtype: Any, name: str, init: Any = _init, strides: int = 1
) -> nn.Conv:
    """A 3x3 convolution, padded to the same size (divided by `strides`)."""
    return nn.Conv(
        features,
        (3, 3),
        strides=strides,
        dtype=dtype,
        kernel_init=init,
        name=name,
        conv_general_dilated=convolve,
    )


def rematerialised(policy: str) -> tuple[type[ResBlock], type[Attention]]:
    """The two kinds of blocks, as their backward pass shall get what it needs.

    Args:
        policy: "none" keeps everything of the forward pass; "cheap" keeps what
            convolutions and matrix products gave, and recomputes norms, activations
            and dropout; "blocks" keeps a block's input only (Chen et al. 2016).
    """
    if policy == "none":
        return ResBlock, Attention
    keep = _is_product if policy == "cheap" else None
    return nn.remat(ResBlock, policy=keep), nn.remat(Attention, policy=keep)


def _is_product(primitive: Any, *_: Any, **__: Any) -> bool:
    return primitive in (jax.lax.conv_general_dilated_p, jax.lax.dot_general_p)
