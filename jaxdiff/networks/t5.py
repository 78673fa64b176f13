"""Text encoder of T5 (Raffel et al. 2020), of the first version and of version 1.1."""

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from annotated_types import Ge, Interval

from jaxdiff.checks import Checked
from jaxdiff.networks.modules import Embed, RMSNorm
from jaxdiff.networks.products import Dense
from jaxdiff.networks.transformer import (
    Activation,
    Count,
    MultiHeadAttention,
    activation,
    check_tokens,
)
from jaxdiff.typing import Array


@dataclass(frozen=True, kw_only=True)
class T5Config(Checked):
    """Options of T5's encoder; `build` makes the network."""

    vocabulary: Count = 32128
    """Number of tokens of the vocabulary."""
    width: Count = 512
    """Number of channels."""
    layers: Count = 6
    """Number of blocks."""
    heads: Count = 8
    """Number of attention heads."""
    head_channels: Count = 64
    """Number of channels per head."""
    hidden: Count = 2048
    """Number of channels between the layers of a block's MLP."""
    activation: Activation = "relu"
    """Activation of the MLP: relu in the first version, gelu_new in version 1.1."""
    gated: bool = False
    """If True, a second projection gates the activation, as in version 1.1."""
    buckets: Annotated[int, Ge(4)] = 32
    """Number of buckets of distances between tokens."""
    max_distance: Annotated[int, Ge(2)] = 128
    """Distance from which all distances share a bucket."""
    epsilon: Annotated[float, Interval(gt=0, lt=1)] = 1e-6
    """Number that the normalisation adds to the mean square."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the computation. float16 would overflow in the MLP."""

    def build(self) -> "T5Encoder":
        """Makes the network."""
        return T5Encoder(self)


class T5Encoder(nn.Module):
    """Text encoder; see `T5Config`."""

    config: T5Config

    @nn.compact
    def __call__(self, tokens: Array, mask: Array | None = None) -> Array:
        """Returns the hidden states [batch, tokens, width].

        Args:
            tokens: integers [batch, tokens].
            mask: True for tokens that may be attended to, bool [batch, tokens]; all by
                default.

        Raises:
            InputError: a shape does not match.
        """
        config = self.config
        check_tokens(tokens, mask)
        dtype: Any = jnp.dtype(config.dtype)

        def norm(name: str) -> RMSNorm:
            return RMSNorm(config.epsilon, dtype, name=name)

        def dense(features: int, name: str) -> Dense:
            return Dense(features, use_bias=False, dtype=dtype, name=name)

        table = Embed(
            config.buckets, config.heads, dtype=dtype,
            name="encoder.block.0.layer.0.SelfAttention.relative_attention_bias",
        )  # fmt: skip
        distances = relative_buckets(
            tokens.shape[1], config.buckets, config.max_distance
        )
        bias = table(distances).transpose(2, 0, 1)[None]  # [1, heads, tokens, tokens]
        x = Embed(config.vocabulary, config.width, dtype=dtype, name="shared")(tokens)
        for i in range(config.layers):
            block = f"encoder.block.{i}.layer"
            attention = MultiHeadAttention(
                config.heads, config.heads * config.head_channels, config.width, dtype,
                names=("q", "k", "v", "o"), use_bias=False, out_bias=False, scale=1.0,
                name=f"{block}.0.SelfAttention",
            )  # fmt: skip
            x = x + attention(norm(f"{block}.0.layer_norm")(x), mask=mask, bias=bias)
            h = norm(f"{block}.1.layer_norm")(x)
            mlp = f"{block}.1.DenseReluDense"
            inner = dense(config.hidden, f"{mlp}.wi_0" if config.gated else f"{mlp}.wi")
            active = activation(config.activation)(inner(h))
            if config.gated:
                active *= dense(config.hidden, f"{mlp}.wi_1")(h)
            x = x + dense(config.width, f"{mlp}.wo")(active)
        return norm("encoder.final_layer_norm")(x)


def relative_buckets(length: int, buckets: int, max_distance: int) -> np.ndarray:
    """Returns the bucket of each distance between tokens, integers [length, length].

    Half of the buckets are for keys behind the query. In each half, small distances
    have a bucket of their own, and larger ones share buckets of logarithmic width.
    """
    places = np.arange(length)
    distance = places[None, :] - places[:, None]
    half = buckets // 2
    near = half // 2
    far = np.maximum(np.abs(distance), 1).astype(np.float32)
    scale = np.float32(math.log(max_distance / near))
    shared = near + (np.log(far / near) / scale * (half - near)).astype(np.int32)
    bucket = np.where(
        np.abs(distance) < near, np.abs(distance), np.minimum(shared, half - 1)
    )
    return bucket + half * (distance > 0)
