"""Parts of transformers (Vaswani et al. 2017).

The modules of published networks have the names of their tensors, such as
"encoder.layers.0.self_attn" / "q_proj" for "encoder.layers.0.self_attn.q_proj.weight".
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
from annotated_types import Ge

from jaxdiff.checks import Checked
from jaxdiff.errors import InputError
from jaxdiff.networks.attention import CHUNK, Program, attend
from jaxdiff.networks.modules import LayerNorm, RMSNorm
from jaxdiff.networks.products import Dense
from jaxdiff.typing import Array

Activation: TypeAlias = Literal[
    "gelu", "gelu_new", "gelu_pytorch_tanh", "quick_gelu", "relu", "silu", "swish"
]


Initializer: TypeAlias = Callable[..., Any]
Count = Annotated[int, Ge(1)]
"""Number of channels, layers or tokens."""


@dataclass(frozen=True, kw_only=True)
class TransformerConfig(Checked):
    """Options of transformers whose heads divide the channels."""

    width: Count = 768
    """Number of channels."""
    heads: Count = 12
    """Number of attention heads; it divides the channels."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width % self.heads:
            raise InputError(
                f"heads must divide the width {self.width}, got {self.heads}"
            )


class Encoded(NamedTuple):
    """Result of an encoder of texts or images.

    Attributes:
        tokens: hidden states [batch, tokens, width].
        vector: one vector for the whole text or image, [batch, features].
    """

    tokens: Array
    vector: Array


def activation(name: Activation) -> Callable[[Array], Array]:
    """Returns an activation by its name in published configurations."""
    return _ACTIVATIONS[name]


def quick_gelu(x: Array) -> Array:
    """Approximation of GELU with a sigmoid (Hendrycks & Gimpel 2016, section 2)."""
    return x * jax.nn.sigmoid(1.702 * x)


_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": partial(nn.gelu, approximate=False),
    "gelu_new": partial(nn.gelu, approximate=True),
    "gelu_pytorch_tanh": partial(nn.gelu, approximate=True),
    "quick_gelu": quick_gelu,
    "relu": nn.relu,
    "silu": nn.silu,
    "swish": nn.silu,
}


def layer_norm(dtype: Any, epsilon: float, name: str) -> LayerNorm:
    """Makes a layer normalisation whose variance does not suffer from cancellation."""
    return LayerNorm(epsilon, dtype, use_fast_variance=False, name=name)


class MultiHeadAttention(nn.Module):
    """Attention of several heads: softmax(q k^T scale + bias) v, then a projection.

    Attributes:
        heads: number of heads.
        width: number of channels of all heads together.
        features: number of channels of the result.
        dtype: type of the computation.
        names: names of the projections of query, key, value and result.
        use_bias: if True, the projections of query, key and value have a bias.
        out_bias: if True, the projection of the result has a bias.
        scale: factor of the products; None for 1 / sqrt(channels of a head).
        by: program of `attention.attend`.
        chunk: number of queries per chunk, if it works in chunks.
        qk_norm: if True, queries and keys of a head are divided by the root of their
            mean square, and scaled (Dehghani et al. 2023).
        kernel_init: initialisation of the projections of query, key and value.
        out_init: initialisation of the projection of the result.
    """

    heads: int
    width: int
    features: int
    dtype: Any
    names: tuple[str, str, str, str] = ("q_proj", "k_proj", "v_proj", "out_proj")
    use_bias: bool = True
    out_bias: bool = True
    scale: float | None = None
    by: Program = "xla"
    chunk: int = CHUNK
    qk_norm: bool = False
    kernel_init: Initializer = nn.linear.default_kernel_init
    out_init: Initializer = nn.linear.default_kernel_init

    @nn.compact
    def __call__(
        self,
        x: Array,
        context: Array | None = None,
        mask: Array | None = None,
        bias: Array | None = None,
        causal: bool = False,
    ) -> Array:
        """Returns the result [batch, tokens, features].

        Args:
            x: tokens that attend [batch, tokens, c].
            context: tokens that are attended to [batch, keys, d]; x by default.
            mask: True for tokens that may be attended to, bool [batch, keys].
            bias: numbers added to the products, [1, heads, tokens, keys].
            causal: if True, a token attends to itself and to the tokens before it.
        """
        context = x if context is None else context
        head = self.width // self.heads

        def project(name: str, of: Array) -> Array:
            layer = Dense(
                self.width, self.use_bias, dtype=self.dtype,
                kernel_init=self.kernel_init, name=name,
            )  # fmt: skip
            return layer(of).reshape(*of.shape[:2], self.heads, head)

        *names, out = self.names
        query, key, value = (
            project(name, of)
            for name, of in zip(names, (x, context, context), strict=True)
        )
        if self.qk_norm:
            query = RMSNorm(dtype=self.dtype, name="norm_q")(query)
            key = RMSNorm(dtype=self.dtype, name="norm_k")(key)
        found = attend(
            query, key, value, mask, by=self.by, chunk=self.chunk, bias=bias,
            scale=self.scale, causal=causal,
        )  # fmt: skip
        found = found.reshape(*found.shape[:2], self.width)
        layer = Dense(
            self.features, self.out_bias, dtype=self.dtype, kernel_init=self.out_init,
            name=out,
        )  # fmt: skip
        return layer(found)


def mean_of_tokens(tokens: Array, mask: Array | None) -> Array:
    """Returns the mean [batch, features] of the tokens in the mask; all by default.

    Args:
        tokens: features of tokens [batch, tokens, features].
        mask: True for tokens that count, bool [batch, tokens].
    """
    if mask is None:
        return tokens.mean(axis=1)
    weight = mask[:, :, None].astype(tokens.dtype)
    return (tokens * weight).sum(axis=1) / jnp.maximum(weight.sum(axis=1), 1)


def check_tokens(tokens: Array, mask: Array | None, most: int | None = None) -> None:
    """Checks tokens [batch, tokens] and their mask.

    Raises:
        InputError: a shape does not match, or there are too many tokens.
    """
    if tokens.ndim != 2:
        raise InputError(f"tokens must be [batch, tokens], got shape {tokens.shape}")
    if most is not None and tokens.shape[1] > most:
        raise InputError(
            f"tokens must be at most {most} a text, got {tokens.shape[1]}. Shorten the "
            "text, or let the tokenizer cut it."
        )
    if mask is not None and mask.shape != tokens.shape:
        raise InputError(
            f"mask must have the tokens' shape {tokens.shape}, got {mask.shape}"
        )
