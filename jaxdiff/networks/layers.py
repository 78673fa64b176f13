"""The parts of the U-Net (Ho et al. 2020, appendix B)."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdiff import rng
from jaxdiff.networks.convolution import convolve
from jaxdiff.typing import Array, Images, Key

_init = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")
_zeros = nn.initializers.zeros


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

    Attributes:
        groups: the most groups; the number used divides the channels.
        dtype: of the result; the statistics are float32.
        smallest: the fewest channels of a group. In a group of one, normalisation would
            undo what the time embedding adds, and the network would not know the time.
        epsilon: what is added to the variance.
    """

    groups: int
    dtype: Any
    smallest: int = 2
    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: Images) -> Images:
        """Normalises x [batch, height, width, channels]."""
        groups = group_count(x.shape[-1], self.groups, self.smallest)
        norm = nn.GroupNorm(
            groups, epsilon=self.epsilon, dtype=self.dtype, name="group"
        )
        return norm(x)


def group_count(channels: int, groups: int, smallest: int) -> int:
    """How many groups `Norm` makes: at most `groups`, a divisor of the channels."""
    most = max(1, min(groups, channels // smallest))
    return next(g for g in range(most, 0, -1) if channels % g == 0)


class ResBlock(nn.Module):
    """Norm, swish, conv, + time; norm, swish, dropout, conv; + skip.

    Attributes:
        features: the channels of the result.
        dropout: the rate in [0, 1).
        norm: makes a normalisation of a name.
        dtype: of the computation; parameters are float32.
        scale_shift: the time scales and shifts what the second norm gives, instead of
            being added before it (Dhariwal & Nichol 2021, section 3.1, "AdaGN").
        resample: whether it halves height and width (means), doubles them (nearest
            neighbour), or leaves them.
    """

    features: int
    dropout: float
    norm: Callable[..., Norm]
    dtype: Any
    scale_shift: bool = False
    resample: Literal["no", "halve", "double"] = "no"

    @nn.compact
    def __call__(self, x: Images, embedding: Array, keys: Key | None) -> Images:
        """X [batch, h, w, c], time embedding [batch, e], keys [batch] when training."""
        conv = partial(conv3x3, self.features, self.dtype)

        def dense(name: str, features: int) -> nn.Dense:
            return nn.Dense(features, dtype=self.dtype, kernel_init=_init, name=name)

        h = nn.swish(self.norm(name="norm_1")(x))
        if self.resample != "no":
            sized = halved if self.resample == "halve" else doubled
            x, h = sized(x), sized(h)
        h = conv("conv_1")(h)
        time = dense("time", self.features * (1 + self.scale_shift))
        moved = time(nn.swish(embedding))[:, None, None, :]
        norm_2 = self.norm(name="norm_2")
        if self.scale_shift:
            scale, shift = jnp.split(moved, 2, axis=-1)
            h = norm_2(h) * (1 + scale) + shift
        else:
            h = norm_2(h + moved)
        h = conv("conv_2", _zeros)(dropout(nn.swish(h), self.dropout, keys))
        fits = x.shape[-1] == self.features
        skip = x if fits else dense("skip", self.features)(x)
        return skip + h


class Attention(nn.Module):
    """Self-attention over all positions of a feature map, plus the input.

    Attributes:
        heads: how many; they divide the channels.
        norm: makes a normalisation of a name; None for none.
        dtype: of the computation; parameters are float32.
    """

    heads: int
    norm: Callable[..., Norm] | None
    dtype: Any

    @nn.compact
    def __call__(self, x: Images) -> Images:
        """X [batch, height, width, channels]."""
        batch, height, width, channels = x.shape

        def dense(name: str, init: Any = _init) -> nn.Dense:
            return nn.Dense(channels, dtype=self.dtype, kernel_init=init, name=name)

        h = x if self.norm is None else self.norm(name="norm")(x)
        heads = (batch, height * width, self.heads, channels // self.heads)
        query, key, value = (
            dense(name)(h).reshape(heads) for name in ("query", "key", "value")
        )
        h = jax.nn.dot_product_attention(query, key, value)
        return x + dense("out", _zeros)(h.reshape(x.shape))


class Downsample(nn.Module):
    """Halves height and width by a strided convolution.

    Attributes:
        dtype: of the computation; parameters are float32.
        padding: a row and a column of zeros at the "end", or at "both" sides.
    """

    dtype: Any
    padding: Literal["end", "both"] = "end"

    @nn.compact
    def __call__(self, x: Images) -> Images:
        """X [batch, height, width, channels], both sizes even."""
        padding = ((self.padding == "both", 1),) * 2
        return conv3x3(x.shape[-1], self.dtype, "conv", strides=2, padding=padding)(x)


class Upsample(nn.Module):
    """Doubles height and width: nearest neighbour, then a convolution."""

    dtype: Any

    @nn.compact
    def __call__(self, x: Images) -> Images:
        """X [batch, height, width, channels]."""
        return conv3x3(x.shape[-1], self.dtype, "conv")(doubled(x))


def halved(x: Images) -> Images:
    """Means of 2x2 pixels."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
    return x.mean(axis=(2, 4))


def doubled(x: Images) -> Images:
    """Every pixel as 2x2 of them."""
    return x.repeat(2, axis=1).repeat(2, axis=2)


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
    return jnp.where(rng.uniform(keys) < rate, null, labels)


def conv3x3(
    features: int,
    dtype: Any,
    name: str,
    init: Any = _init,
    strides: int = 1,
    padding: Any = "SAME",
) -> nn.Conv:
    """A 3x3 convolution, padded to the same size (divided by `strides`)."""
    return nn.Conv(
        features,
        (3, 3),
        strides=strides,
        padding=padding,
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
