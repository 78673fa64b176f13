"""Layers of the networks (Ho et al. 2020, appendix B)."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdiff import rng
from jaxdiff.networks import convolution, products
from jaxdiff.networks.attention import attend
from jaxdiff.networks.convolution import convolve
from jaxdiff.networks.group_norm import GroupNorm
from jaxdiff.networks.modules import Conv
from jaxdiff.networks.products import Dense
from jaxdiff.typing import Array, Images, Key

_PRODUCTS = {
    jax.lax.conv_general_dilated_p,
    jax.lax.dot_general_p,
    convolution.convolution,
    products.linear,
}
_init = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")
_zeros = nn.initializers.zeros


def dropout(x: Array, rate: float, keys: Key | None) -> Array:
    """Drops each number with probability `rate`, each example by its own key.

    Args:
        x: activations [batch, ...].
        rate: probability in [0, 1).
        keys: one key per example, or None to return x unchanged.
    """
    if keys is None or rate == 0:
        return x
    kept = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate, x.shape[1:]))(keys)
    return jnp.where(kept, x / (1 - rate), jnp.zeros_like(x))


class Norm(nn.Module):
    """Group normalisation with the largest number of groups that fits.

    Attributes:
        groups: largest number of groups; the number used divides the channels.
        dtype: type of the result; the statistics are float32.
        smallest: smallest number of channels of a group. In a group of one channel,
            normalisation would undo the addition of the time embedding.
        epsilon: number added to the variance.
    """

    groups: int
    dtype: Any
    smallest: int = 2
    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: Images) -> Images:
        """Normalises x [batch, height, width, channels]."""
        groups = group_count(x.shape[-1], self.groups, self.smallest)
        norm = GroupNorm(groups, epsilon=self.epsilon, dtype=self.dtype, name="group")
        return norm(x)


def group_count(channels: int, groups: int, smallest: int) -> int:
    """Returns the number of groups of `Norm`, a divisor of channels up to `groups`."""
    most = max(1, min(groups, channels // smallest))
    return next(g for g in range(most, 0, -1) if channels % g == 0)


class ResBlock(nn.Module):
    """Residual block: norm, swish, conv, + time; norm, swish, dropout, conv; + skip.

    Attributes:
        features: number of channels of the result.
        dropout: dropout rate in [0, 1).
        norm: function from a name to a normalisation.
        dtype: type of the computation; parameters are float32.
        scale_shift: if True, the time scales and shifts the result of the second norm,
            instead of being added before it (Dhariwal & Nichol 2021, section 3.1,
            "AdaGN").
        resample: function that changes height and width, such as `halved`; or None.
        project: if True, a linear layer maps the input that joins the output, also if
            it has `features` channels.
        divisor: number that divides the sum of the two.
        activation: activation of the block.
        activate_time: if True, the embedding of the time passes the activation too.
    """

    features: int
    dropout: float
    norm: Callable[..., Norm]
    dtype: Any
    scale_shift: bool = False
    resample: Callable[[Images], Images] | None = None
    project: bool = False
    divisor: float = 1.0
    activation: Callable[[Array], Array] = nn.swish
    activate_time: bool = True

    @nn.compact
    def __call__(self, x: Images, embedding: Array, keys: Key | None) -> Images:
        """Returns the block's output [batch, h, w, features].

        Args:
            x: feature map [batch, h, w, c].
            embedding: embedding of the time [batch, e].
            keys: one key per example in training, otherwise None.
        """
        conv = partial(conv3x3, self.features, self.dtype)

        def dense(name: str, features: int) -> Dense:
            return Dense(features, dtype=self.dtype, kernel_init=_init, name=name)

        h = self.activation(self.norm(name="norm_1")(x))
        if self.resample is not None:
            x, h = self.resample(x), self.resample(h)
        h = conv("conv_1")(h)
        time = dense("time", self.features * (1 + self.scale_shift))
        if self.activate_time:
            embedding = self.activation(embedding)
        moved = time(embedding)[:, None, None, :]
        norm_2 = self.norm(name="norm_2")
        if self.scale_shift:
            scale, shift = jnp.split(moved, 2, axis=-1)
            h = norm_2(h) * (1 + scale) + shift
        else:
            h = norm_2(h + moved)
        h = conv("conv_2", _zeros)(dropout(self.activation(h), self.dropout, keys))
        project = self.project or x.shape[-1] != self.features
        skip = dense("skip", self.features)(x) if project else x
        return (skip + h) / self.divisor


class Attention(nn.Module):
    """Self-attention over all positions of a feature map, plus the input.

    Attributes:
        heads: number of heads; it divides the channels.
        norm: function from a name to a normalisation; None for no normalisation.
        dtype: type of the computation; parameters are float32.
        divisor: number that divides the output.
    """

    heads: int
    norm: Callable[..., Norm] | None
    dtype: Any
    divisor: float = 1.0

    @nn.compact
    def __call__(self, x: Images) -> Images:
        """Returns the result for x [batch, height, width, channels], of x's shape."""
        batch, height, width, channels = x.shape

        def dense(name: str, init: Any = _init) -> Dense:
            return Dense(channels, dtype=self.dtype, kernel_init=init, name=name)

        h = x if self.norm is None else self.norm(name="norm")(x)
        heads = (batch, height * width, self.heads, channels // self.heads)
        query, key, value = (
            dense(name)(h).reshape(heads) for name in ("query", "key", "value")
        )
        h = attend(query, key, value)
        return (x + dense("out", _zeros)(h.reshape(x.shape))) / self.divisor


class Downsample(nn.Module):
    """Strided convolution that halves height and width.

    Attributes:
        dtype: type of the computation; parameters are float32.
        padding: side with a row and a column of zeros: "end" or "both".
    """

    dtype: Any
    padding: Literal["end", "both"] = "end"

    @nn.compact
    def __call__(self, x: Images) -> Images:
        """Returns x [batch, height, width, channels], of even size, at half size."""
        padding = ((self.padding == "both", 1),) * 2
        return conv3x3(x.shape[-1], self.dtype, "conv", strides=2, padding=padding)(x)


class Upsample(nn.Module):
    """Nearest-neighbour upsampling by 2, then a convolution."""

    dtype: Any

    @nn.compact
    def __call__(self, x: Images, size: tuple[int, ...] | None = None) -> Images:
        """Returns x [batch, height, width, channels] at twice the size.

        Args:
            x: feature map.
            size: height and width of the result, up to 1 below twice those of x; None
                for twice.
        """
        x = doubled(x)
        if size is not None:
            x = x[:, : size[0], : size[1]]
        return conv3x3(x.shape[-1], self.dtype, "conv")(x)


def halved(x: Images) -> Images:
    """Returns the means of 2x2 pixels."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
    return x.mean(axis=(2, 4))


def doubled(x: Images) -> Images:
    """Repeats every pixel as 2x2 pixels."""
    return x.repeat(2, axis=1).repeat(2, axis=2)


def to_patches(x: Images, size: int) -> Images:
    """Turns patches into pixels: [b, h, w, c] to [b, h / size, w / size, size^2 c]."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // size, size, width // size, size, channels)
    return x.swapaxes(2, 3).reshape(batch, height // size, width // size, -1)


def from_patches(x: Images, size: int) -> Images:
    """Inverts `to_patches`."""
    batch, height, width, _ = x.shape
    x = x.reshape(batch, height, width, size, size, -1)
    return x.swapaxes(2, 3).reshape(batch, height * size, width * size, -1)


def drop_labels(labels: Array, rate: float, null: int, keys: Key | None) -> Array:
    """Replaces labels by `null` with probability `rate`, or none if keys is None."""
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
) -> Conv:
    """Makes a 3x3 convolution, padded to the same size (divided by `strides`)."""
    return Conv(
        features,
        (3, 3),
        strides=strides,
        padding=padding,
        dtype=dtype,
        kernel_init=init,
        name=name,
        conv_general_dilated=convolve,
    )


def rematerialised(
    policy: str, *classes: Any, in_loop: bool = False
) -> tuple[Any, ...]:
    """Returns classes of blocks, with a policy for their backward pass.

    Args:
        policy: "none" stores all of the forward pass. "cheap" stores the results of
            convolutions and matrix products, and recomputes norms, activations and
            dropout. "blocks" stores the input of a block only (Chen et al. 2016).
        classes: classes of Flax modules.
        in_loop: True for blocks of a compiled loop. Its backward pass is a loop of its
            own, into which XLA cannot carry what the forward pass has computed.
    """
    if policy == "none":
        return classes
    keep = _is_product if policy == "cheap" else None
    return tuple(
        nn.remat(block, policy=keep, prevent_cse=not in_loop) for block in classes
    )


def _is_product(primitive: Any, *_: Any, **__: Any) -> bool:
    return primitive in _PRODUCTS
