"""BERT (Devlin et al. 2019), whose mean of tokens is a sentence's vector (MiniLM)."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from annotated_types import Interval

from jaxdiff.networks.modules import Embed, LayerNorm
from jaxdiff.networks.products import Dense
from jaxdiff.networks.transformer import (
    Activation,
    Count,
    Encoded,
    MultiHeadAttention,
    TransformerConfig,
    activation,
    check_tokens,
    layer_norm,
    mean_of_tokens,
)
from jaxdiff.typing import Array


@dataclass(frozen=True, kw_only=True)
class BERTConfig(TransformerConfig):
    """Options of BERT; `build` makes the network."""

    vocabulary: Count = 30522
    """Number of tokens of the vocabulary."""
    length: Count = 512
    """Largest number of tokens of a text."""
    width: Count = 384
    layers: Count = 6
    """Number of blocks."""
    hidden: Count = 1536
    """Number of channels between the two layers of a block's MLP."""
    activation: Activation = "gelu"
    """Activation of the MLP."""
    kinds: Count = 2
    """Number of kinds of tokens; all tokens here are of kind 0."""
    epsilon: Annotated[float, Interval(gt=0, lt=1)] = 1e-12
    """Number that the normalisation adds to the variance."""
    pooler: bool = True
    """If True, the network has the layer that BERT was trained with to classify texts.
    Vectors of sentences do not use it."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the computation."""

    def build(self) -> "BERT":
        """Makes the network."""
        return BERT(self)


class BERT(nn.Module):
    """Text encoder; see `BERTConfig`."""

    config: BERTConfig

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

        def embed(num: int, name: str) -> Embed:
            return Embed(num, config.width, dtype=dtype, name=f"embeddings.{name}")

        def norm(name: str) -> LayerNorm:
            return layer_norm(dtype, config.epsilon, f"{name}.LayerNorm")

        x = embed(config.vocabulary, "word_embeddings")(tokens)
        places = jnp.arange(tokens.shape[1])[None]
        x += embed(config.length, "position_embeddings")(places)
        x += embed(config.kinds, "token_type_embeddings")(jnp.zeros((1, 1), int))
        x = norm("embeddings")(x)
        for i in range(config.layers):
            block = f"encoder.layer.{i}"
            attention = MultiHeadAttention(
                config.heads, config.width, config.width, dtype,
                names=("self.query", "self.key", "self.value", "output.dense"),
                name=f"{block}.attention",
            )  # fmt: skip
            x = norm(f"{block}.attention.output")(x + attention(x, mask=mask))
            inner = Dense(
                config.hidden, dtype=dtype, name=f"{block}.intermediate.dense"
            )
            outer = Dense(config.width, dtype=dtype, name=f"{block}.output.dense")
            h = outer(activation(config.activation)(inner(x)))
            x = norm(f"{block}.output")(x + h)
        if config.pooler:
            Dense(config.width, dtype=dtype, name="pooler.dense")(x[:, 0])
        return Encoded(x, mean_of_tokens(x, mask))
