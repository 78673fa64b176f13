"""Group normalisation, with sums over pixels before sums over channels."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype

from jaxdiff.networks.modules import Module
from jaxdiff.typing import Array


class GroupNorm(Module):
    """Group normalisation (Wu & He 2018), with the parameters of Flax's.

    Flax's reshapes the channels to groups first. XLA then sums over a last axis of a
    few channels, which takes up to five times as long on the CPU. Here the pixels of
    each channel are summed first, and the sums of the channels of a group then. The
    values are the same, except for rounding.

    Attributes:
        num_groups: number of groups, which divides the channels.
        epsilon: number added to the variance.
        dtype: type of the result; None for that of the statistics, float32.
        use_fast_variance: if True, the variance is the mean of squares minus the square
            of the mean, from one pass over x. Otherwise it is the mean of squared
            differences, which is more exact where the mean is large.
    """

    num_groups: int = 32
    epsilon: float = 1e-6
    dtype: Dtype | None = None
    use_fast_variance: bool = True

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Normalises x [batch, ..., channels] by groups of channels of an example."""
        channels = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        y = _normalised(
            x, scale, bias, self.num_groups, self.epsilon, self.use_fast_variance
        )
        return y.astype(self.dtype or y.dtype)


@partial(jax.jit, static_argnums=(3, 4, 5))
def _normalised(
    x: Array, scale: Array, bias: Array, groups: int, epsilon: float, fast: bool
) -> Array:
    """Normalises x [batch, ..., channels]; equal norms are traced once."""
    scale, bias = (jnp.expand_dims(p, range(x.ndim - 1)) for p in (scale, bias))
    x = x.astype(jnp.float64 if x.dtype == jnp.float64 else jnp.float32)
    mean = _mean(x, groups)
    if fast:
        variance = jnp.maximum(0, _mean(x * x, groups) - mean * mean)
    else:
        variance = _mean((x - mean) ** 2, groups)
    factor = jax.lax.rsqrt(variance + epsilon) * scale
    return (x - mean) * factor + bias


def _mean(x: Array, groups: int) -> Array:
    """Returns the mean of each channel's group [batch, 1, ..., channels]."""
    channels = x.mean(tuple(range(1, x.ndim - 1)), keepdims=True)
    shape: Any = (*channels.shape[:-1], groups, -1)
    parts = channels.reshape(shape)
    means = parts.mean(-1, keepdims=True)
    return jnp.broadcast_to(means, parts.shape).reshape(channels.shape)
