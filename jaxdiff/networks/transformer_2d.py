"""Attention of a feature map to itself and to a text (Rombach et al. 2022).

Modules have the names of diffusers' tensors.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxdiff.networks.attention import CHUNK, Program, attend
from jaxdiff.networks.layers import Norm
from jaxdiff.networks.products import Dense
from jaxdiff.networks.transformer import MultiHeadAttention, activation, layer_norm
from jaxdiff.typing import Array, Images

_NAMES = ("to_q", "to_k", "to_v", "to_out.0")
_EPSILON = 1e-5
"""Number that the normalisations inside add to the variance."""


class Transformer2D(nn.Module):
    """Transformer over the positions of a feature map, plus the input.

    Attributes:
        heads: number of heads; it divides the channels.
        layers: number of layers of the transformer.
        norm: function from a name to the normalisation before the transformer.
        dtype: type of the computation; parameters are float32.
        text_only: if True, both attentions of a layer attend to the text.
        by: program of attention.
        chunk: number of queries per chunk.
    """

    heads: int
    layers: int
    norm: Callable[..., Norm]
    dtype: Any
    text_only: bool = False
    by: Program = "xla"
    chunk: int = CHUNK

    @nn.compact
    def __call__(self, x: Images, text: Array | None, mask: Array | None) -> Images:
        """Returns the result for x [batch, height, width, channels], of x's shape.

        Args:
            x: feature map.
            text: tokens [batch, tokens, features]; None to attend to x twice.
            mask: False for tokens that are padding, bool [batch, tokens], or None.
        """
        width = x.shape[-1]
        # A linear layer is a 1x1 convolution.
        h = self.norm(name="norm")(x).reshape(len(x), -1, width)
        h = Dense(width, dtype=self.dtype, name="proj_in")(h)
        for i in range(self.layers):
            layer = TransformerLayer(
                self.heads, self.dtype, self.text_only, self.by, self.chunk,
                name=f"transformer_blocks.{i}",
            )  # fmt: skip
            h = layer(h, text, mask)
        h = Dense(width, dtype=self.dtype, name="proj_out")(h)
        return x + h.reshape(x.shape)


class TransformerLayer(nn.Module):
    """Self-attention, attention to the text, and an MLP with gates.

    The MLP is linear(h * gelu(g)) with [h | g] = linear(x) (Shazeer 2020, "GEGLU").
    Attributes are those of `Transformer2D`.
    """

    heads: int
    dtype: Any
    text_only: bool = False
    by: Program = "xla"
    chunk: int = CHUNK

    @nn.compact
    def __call__(self, x: Array, text: Array | None, mask: Array | None) -> Array:
        """Returns the result [batch, positions, channels]."""
        width = x.shape[-1]

        def attention(x: Array, number: int, to_text: bool) -> Array:
            layer = MultiHeadAttention(
                self.heads, width, width, self.dtype, _NAMES, use_bias=False,
                by=self.by, chunk=self.chunk, name=f"attn{number}",
            )  # fmt: skip
            h = layer_norm(self.dtype, _EPSILON, f"norm{number}")(x)
            if not to_text:
                return layer(h)
            # As in diffusers, the first attention ignores the mask.
            return layer(h, text, mask if number == 2 else None)

        x = x + attention(x, 1, self.text_only)
        x = x + attention(x, 2, text is not None)
        h = layer_norm(self.dtype, _EPSILON, "norm3")(x)
        h = Dense(8 * width, dtype=self.dtype, name="ff.net.0.proj")(h)
        hidden, gate = jnp.split(h, 2, axis=-1)
        h = hidden * activation("gelu")(gate)
        return x + Dense(width, dtype=self.dtype, name="ff.net.2")(h)


class AddedAttention(nn.Module):
    """Attention to text and feature map together, plus the input.

    Keys and values of the text come before those of the feature map, with linear layers
    of their own (Ramesh et al. 2022; the text enters as in Nichol et al. 2022, GLIDE).

    Attributes:
        heads: number of heads; it divides the channels.
        groups: number of groups of the normalisation of the feature map.
        dtype: type of the computation; parameters are float32.
        text_only: if True, only the text is attended to.
        text_groups: number of groups of the text's norm; None for no norm.
        by: program of attention.
        chunk: number of queries per chunk.
    """

    heads: int
    groups: int
    dtype: Any
    text_only: bool = False
    text_groups: int | None = None
    by: Program = "xla"
    chunk: int = CHUNK

    @nn.compact
    def __call__(self, x: Images, text: Array, mask: Array | None) -> Images:
        """Returns the result; arguments are those of `Transformer2D`."""
        width = x.shape[-1]

        def project(name: str, tokens: Array) -> Array:
            layer = Dense(width, dtype=self.dtype, name=name)
            return layer(tokens).reshape(*tokens.shape[:2], self.heads, -1)

        if self.text_groups is not None:
            norm = Norm(self.text_groups, self.dtype, 1, _EPSILON, name="norm_cross")
            text = norm(text)
        h = Norm(self.groups, self.dtype, 1, _EPSILON, name="group_norm")(x)
        h = h.reshape(len(x), -1, width)
        query = project("to_q", h)
        key, value = project("add_k_proj", text), project("add_v_proj", text)
        if not self.text_only:
            key = jnp.concatenate([key, project("to_k", h)], axis=1)
            value = jnp.concatenate([value, project("to_v", h)], axis=1)
            if mask is not None:
                mask = jnp.pad(mask, ((0, 0), (0, h.shape[1])), constant_values=True)
        found = attend(query, key, value, mask, by=self.by, chunk=self.chunk)
        found = found.reshape(h.shape)
        return x + Dense(width, dtype=self.dtype, name="to_out.0")(found).reshape(
            x.shape
        )
