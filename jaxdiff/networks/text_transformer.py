"""Small text encoder that is trained together with a diffusion model.

A transformer with normalisation before each layer (Xiong et al. 2020). Every token
attends to every token of its text.
"""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

import flax.linen as nn
import jax.numpy as jnp
from annotated_types import Ge

from jaxdiff.networks.modules import Embed
from jaxdiff.networks.products import Dense
from jaxdiff.networks.transformer import (
    Count,
    Encoded,
    MultiHeadAttention,
    TransformerConfig,
    check_tokens,
    layer_norm,
    mean_of_tokens,
)
from jaxdiff.typing import Array


@dataclass(frozen=True, kw_only=True)
class NoText:
    """The network has no text encoder of its own."""

    FLAG: ClassVar[str] = "none"


@dataclass(frozen=True, kw_only=True)
class TextTransformerConfig(TransformerConfig):
    """Text encoder that the network trains with itself; `build` makes it alone."""

    FLAG: ClassVar[str] = "transformer"

    vocabulary: Count = 4096
    """Number of tokens of the vocabulary."""
    length: Count = 32
    """Largest number of tokens of a text."""
    width: Count = 192
    layers: Annotated[int, Ge(0)] = 4
    """Number of blocks; 0 for a bag of words with their places."""
    heads: Count = 4
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the computation."""

    def build(self) -> "TextTransformer":
        """Makes the network."""
        return TextTransformer(self)


TextOptions: TypeAlias = NoText | TextTransformerConfig
"""Text encoder inside a network."""


class TextTransformer(nn.Module):
    """Text encoder; see `TextTransformerConfig`."""

    config: TextTransformerConfig

    @nn.compact
    def __call__(self, tokens: Array, mask: Array | None = None) -> Encoded:
        """Encodes texts; the vector is the mean of the tokens in the mask.

        Args:
            tokens: integers [batch, tokens].
            mask: True for tokens of the text, False for padding, bool [batch, tokens];
                all by default.

        Raises:
            InputError: a shape does not match.
        """
        config = self.config
        check_tokens(tokens, mask, config.length)
        dtype: Any = jnp.dtype(config.dtype)
        small = nn.initializers.normal(0.02)

        def embed(count: int, name: str) -> Embed:
            return Embed(
                count, config.width, dtype=dtype, embedding_init=small, name=name
            )

        places = jnp.arange(tokens.shape[1])[None]
        x = embed(config.vocabulary, "token")(tokens)
        x = x + embed(config.length, "place")(places)
        for i in range(config.layers):
            attention = MultiHeadAttention(
                config.heads, config.width, config.width, dtype,
                names=("query", "key", "value", "out"), name=f"attention_{i}",
            )  # fmt: skip
            h = layer_norm(dtype, 1e-5, f"attention_{i}_norm")(x)
            x = x + attention(h, mask=mask)
            h = layer_norm(dtype, 1e-5, f"mlp_{i}_norm")(x)
            h = Dense(4 * config.width, dtype=dtype, name=f"mlp_{i}_in")(h)
            x = x + Dense(config.width, dtype=dtype, name=f"mlp_{i}_out")(nn.gelu(h))
        x = layer_norm(dtype, 1e-5, "norm")(x)
        return Encoded(x, mean_of_tokens(x, mask))
