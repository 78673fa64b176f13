"""Layers that preserve the magnitude of activations (Karras et al. 2024, appendix B).

The magnitude of activations is the root of their mean square, 1 throughout:

(1)  silu      silu(x) / 0.596, of unit magnitude for Gaussian x
(2)  sum       ((1 - t) a + t b) / sqrt((1 - t)^2 + t^2)
(3)  join      sqrt((n + m) / ((1 - t)^2 + t^2)) [(1 - t) / sqrt(n) a | t / sqrt(m) b],
               of n and m channels
(4)  Fourier   sqrt(2) cos(2 pi (f_i x + p_i)),  f_i ~ N(0, 1),  p_i ~ U(0, 1)
(5)  weights   w / |w|, of each output; stored as sqrt(n) w / |w|, of n inputs
(6)  pixel norm  x / sqrt(mean of x^2 over the channels)
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdiff.networks.attention import attend
from jaxdiff.networks.convolution import convolve
from jaxdiff.networks.layers import doubled, dropout, halved
from jaxdiff.networks.modules import Module
from jaxdiff.typing import Array, Images, Key, Params

_EPSILON = 1e-4
_SILU = 0.596
"""Magnitude of silu(x) for Gaussian x."""
KERNEL = "kernel"
"""Name of the parameters that are normalised."""


def mp_silu(x: Array) -> Array:
    """Returns equation (1)."""
    return nn.silu(x) / _SILU


def mp_sum(a: Array, b: Array, t: float) -> Array:
    """Returns equation (2), of the arrays' shape."""
    return ((1 - t) * a + t * b) / math.hypot(1 - t, t)


def mp_join(a: Array, b: Array, t: float = 0.5) -> Array:
    """Returns equation (3) along the last axis."""
    n, m = a.shape[-1], b.shape[-1]
    scale = math.sqrt(n + m) / math.hypot(1 - t, t)
    parts = [scale * (1 - t) / math.sqrt(n) * a, scale * t / math.sqrt(m) * b]
    return jnp.concatenate(parts, axis=-1)


def pixel_norm(x: Array) -> Array:
    """Returns equation (6) over the last axis."""
    square = jnp.mean(x.astype(jnp.float32) ** 2, axis=-1, keepdims=True)
    return (x / (_EPSILON + jnp.sqrt(square))).astype(x.dtype)


def unit_rows(kernel: Array) -> Array:
    """Returns weights [..., inputs, outputs] of magnitude 1 for each output."""
    axes = tuple(range(kernel.ndim - 1))
    square = jnp.mean(kernel**2, axis=axes, keepdims=True)
    return kernel / (_EPSILON + jnp.sqrt(square))


def normalized(params: Params) -> Params:
    """Returns parameters whose kernels are those of equation (5), as stored.

    Training calls it after each update, so that the magnitude of weights does not
    change the effective learning rate.
    """

    def of(path: Any, leaf: Array) -> Array:
        return unit_rows(leaf) if path[-1].key == KERNEL else leaf

    return jax.tree.map_with_path(of, params)


class MPFourier(Module):
    """Module of equation (4); training does not change its numbers.

    Attributes:
        features: number of features.
    """

    features: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Returns float32 [batch, features] of numbers [batch]."""
        shape = (self.features,)
        frequencies = self.param("frequencies", nn.initializers.normal(1.0), shape)
        phases = self.param("phases", nn.initializers.uniform(1.0), shape)
        frequencies, phases = map(jax.lax.stop_gradient, (frequencies, phases))
        turns = jnp.outer(x.astype(jnp.float32), frequencies) + phases[None]
        return math.sqrt(2) * jnp.cos(2 * math.pi * turns)


class MPConv(Module):
    """Convolution, or linear layer, by weights of unit norm; equation (5).

    Attributes:
        features: number of outputs.
        size: side of the kernel; None for a linear layer.
        dtype: type of the computation; parameters are float32.
        gained: if True, a learned factor that begins at 0 scales the outputs.
    """

    features: int
    size: int | None
    dtype: Any
    gained: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Returns the outputs [..., features] of x [..., inputs]."""
        sides = () if self.size is None else (self.size, self.size)
        shape = (*sides, x.shape[-1], self.features)
        kernel = self.param(KERNEL, nn.initializers.normal(1.0), shape)
        kernel = unit_rows(kernel) / math.sqrt(math.prod(shape[:-1]))
        if self.gained:
            kernel = kernel * self.param("gain", nn.initializers.zeros, ())
        kernel, x = kernel.astype(self.dtype), x.astype(self.dtype)
        if self.size is None:
            return x @ kernel
        numbers = ("NHWC", "HWIO", "NHWC")
        return convolve(x, kernel, (1, 1), "SAME", dimension_numbers=numbers)


class MPBlock(nn.Module):
    """Residual block, and attention if it has heads, of unit magnitude.

    Attributes:
        features: number of channels of the result.
        decodes: if True, the block is on the way up.
        heads: number of heads of the attention; 0 for none.
        dtype: type of the computation.
        resample: change of the size before the block: "down", "up" or None.
        dropout: dropout rate in [0, 1).
        balance: share t of the block in equation (2).
        attention_balance: share t of the attention.
        limit: largest magnitude of a result.
    """

    features: int
    decodes: bool
    heads: int
    dtype: Any
    resample: str | None = None
    dropout: float = 0.0
    balance: float = 0.3
    attention_balance: float = 0.3
    limit: float = 256.0

    @nn.compact
    def __call__(self, x: Images, embedding: Array, keys: Key | None) -> Images:
        """Returns the result [batch, h, w, features].

        Args:
            x: feature map [batch, h, w, c].
            embedding: embedding of time and class [batch, e].
            keys: one key per example in training, otherwise None.
        """

        def layer(features: int, size: int | None, name: str, **options: Any) -> MPConv:
            return MPConv(features, size, self.dtype, name=name, **options)

        if self.resample is not None:
            x = halved(x) if self.resample == "down" else doubled(x)
        changes = x.shape[-1] != self.features
        if not self.decodes:
            x = pixel_norm(layer(self.features, None, "skip")(x) if changes else x)
        h = layer(self.features, 3, "conv_1")(mp_silu(x))
        scale = 1 + layer(self.features, None, "embedding", gained=True)(embedding)
        h = dropout(mp_silu(h * scale[:, None, None]), self.dropout, keys)
        h = layer(self.features, 3, "conv_2")(h)
        if self.decodes and changes:
            x = layer(self.features, None, "skip")(x)
        x = mp_sum(x, h, self.balance)
        if self.heads:
            x = mp_sum(x, self._attention(x, layer), self.attention_balance)
        return jnp.clip(x, -self.limit, self.limit)

    def _attention(self, x: Images, layer: Any) -> Images:
        """Returns cosine attention: queries, keys and values of unit magnitude."""
        shape = (len(x), x.shape[1] * x.shape[2], self.heads, -1)
        query, key, value = (
            pixel_norm(layer(self.features, None, name)(x).reshape(shape))
            for name in ("query", "key", "value")
        )
        found = attend(query, key, value).reshape(x.shape)
        return layer(self.features, None, "out")(found)
