"""Prior of unCLIP: an image's vector from a text (Ramesh et al. 2022, section 2.2).

    [text tokens | text vector | time | x_t | place of the output] + positions
        -> transformer with causal attention -> last token -> x_0

The prior denoises a vector of CLIP instead of an image. Some published networks denoise
several tokens, and have no text tokens (Jun & Nichol 2023, Shap-E). Modules have the
names of diffusers' PriorTransformer.
"""

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from annotated_types import Ge, MultipleOf

from jaxdiff.checks import Share
from jaxdiff.errors import InputError
from jaxdiff.networks.base import check_vector, key_streams
from jaxdiff.networks.layers import dropout
from jaxdiff.networks.products import Dense
from jaxdiff.networks.time_embedding import timestep_embedding
from jaxdiff.networks.transformer import (
    Activation,
    Count,
    MultiHeadAttention,
    TransformerConfig,
    activation,
    layer_norm,
)
from jaxdiff.typing import Array, Condition, Key, Params, Timesteps

_NAMES = ("to_q", "to_k", "to_v", "to_out.0")
_EPSILON = 1e-5


@dataclass(frozen=True, kw_only=True)
class PriorConfig(TransformerConfig):
    """Options of the prior; the defaults are those of Karlo."""

    width: Annotated[int, Ge(8), MultipleOf(2)] = 2048
    heads: Count = 32
    layers: Count = 20
    """Number of blocks."""
    features: Count = 768
    """Number of features of a vector, or token, to denoise."""
    text_features: Count | None = None
    """Number of features of a text's token; None for `features`."""
    out_features: Count | None = None
    """Number of features of the output; None for `features`."""
    vector_features: Count | None = None
    """Number of features of the condition's vector; None for `features`."""
    length: Count = 77
    """Number of tokens with a position of their own, such as those of a text."""
    further: Annotated[int, Ge(0)] = 4
    """Number of further positions. 0 leaves the tokens other than those of x_t without
    a position."""
    text: bool = True
    """If True, the network takes the tokens of a text."""
    output_token: bool = True
    """If True, a learned token at the end becomes the output; if False, the tokens of
    x_t do."""
    input_norm: bool = False
    """If True, all tokens are normalised before the first block."""
    vector_norm: bool = False
    """If True, the condition's vector is normalised before its layer."""
    time_hidden: Count | None = None
    """Number of channels between the two layers of the time; None for `width`."""
    time_activation: Activation = "silu"
    """Activation between the two layers of the time."""
    dropout: Share = 0.0
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Type of the computation; the output is float32."""

    @property
    def places(self) -> int:
        """Number of learned positions."""
        return self.length + self.further

    @property
    def token_features(self) -> int:
        """Number of features of a text's token."""
        return self.text_features or self.features

    def build(self) -> "Prior":
        """Makes the network."""
        return Prior(self)


class Prior(nn.Module):
    """Network that denoises vectors of images; see `PriorConfig`.

    Its parameters clip_mean and clip_std turn denoised vectors into those of CLIP; see
    `unscaled`.
    """

    config: PriorConfig

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the parts of a condition without which it cannot be evaluated."""
        return ("text",) * self.config.text + ("vector",)

    @property
    def takes(self) -> tuple[str, ...]:
        """Names of the parts of a condition that the network takes."""
        return (*self.needs, *("mask",) * self.config.text)

    def example_condition(self, image_shape: tuple[int, ...]) -> Condition:
        """Returns a condition of one example."""
        config = self.config
        vector = jnp.ones((1, config.vector_features or config.features))
        tokens = max(config.places - 3 - config.output_token, 1)
        text = jnp.zeros((1, tokens, config.token_features)) if config.text else None
        return Condition(text=text, vector=vector)

    def example_inputs(self) -> tuple[Any, ...]:
        """Returns the arguments of a call of one example of several tokens."""
        config = self.config
        x = jnp.zeros((1, config.places, config.features))
        return x, jnp.zeros(1), self.example_condition(x.shape[1:])

    @nn.compact
    def __call__(
        self,
        x: Array,
        t: Timesteps,
        condition: Condition,
        keys: Key | None = None,
    ) -> Array:
        """Returns the network's output.

        Args:
            x: noisy vectors [batch, features], also as latents of one pixel [batch, 1,
                1, features]; or tokens [batch, tokens, features].
            t: times [batch].
            condition: vector of the text, and its tokens. With a mask, a token attends
                to earlier tokens that are not padding; without one, to all tokens.
            keys: one key per example in training (for dropout), otherwise None.

        Returns:
            float32 of x's shape, with the output's number of features.

        Raises:
            InputError: the shape of an argument does not match.
        """
        config = self.config
        dtype: Any = jnp.dtype(config.dtype)
        dense = partial(Dense, config.width, dtype=dtype)
        vector, text, mask = condition.vector, condition.text, condition.mask
        check_vector(vector, config.vector_features or config.features)
        shape = x.shape[:-1]
        if shape[1:] == (1, 1):
            x = x[:, 0, 0]
        if x.ndim not in (2, 3) or x.shape[-1] != config.features:
            raise InputError(
                f"x must be [batch, {config.features}] or [batch, tokens, "
                f"{config.features}], got shape {x.shape}"
            )

        name = "time_embedding.linear"
        hidden = config.time_hidden or config.width
        time = timestep_embedding(t, config.width, shift=0.0, flip=True).astype(dtype)
        time = Dense(hidden, dtype=dtype, name=f"{name}_1")(time)
        time = dense(name=f"{name}_2")(activation(config.time_activation)(time))
        if config.vector_norm:
            vector = layer_norm(dtype, _EPSILON, "embedding_proj_norm")(vector)
        vector = dense(name="embedding_proj")(vector)
        noisy = dense(name="proj_in")(x if x.ndim == 3 else x[:, None])
        before = [vector[:, None], time[:, None]]
        if config.text:
            if text.ndim != 3 or text.shape[-1] != config.token_features:
                raise InputError(
                    f"text must be [batch, tokens, {config.token_features}], got "
                    f"{text.shape}"
                )
            before = [dense(name="encoder_hidden_states_proj")(text), *before]
        after = []
        if config.output_token:
            token = self._param("prd_embedding", (1, 1, config.width)).astype(dtype)
            after = [jnp.broadcast_to(token, (len(x), 1, config.width))]
        start = sum(part.shape[1] for part in before)
        h = jnp.concatenate([*before, noisy, *after], axis=1)
        h = h + self._positions(h.shape[1], start, dtype)
        if mask is not None:
            rest = h.shape[1] - mask.shape[1]
            mask = jnp.pad(mask, ((0, 0), (0, rest)), constant_values=True)
        if config.input_norm:
            h = layer_norm(dtype, _EPSILON, "norm_in")(h)
        next_keys = key_streams(keys)
        for i in range(config.layers):
            block = PriorBlock(config, name=f"transformer_blocks.{i}")
            h = block(h, mask, next_keys())
        h = layer_norm(dtype, _EPSILON, "norm_out")(h)
        h = h[:, -1:] if config.output_token else h[:, start:]
        features = config.out_features or config.features
        h = Dense(features, dtype=dtype, name="proj_to_clip_embeddings")(h)
        for name in ("clip_mean", "clip_std"):
            self._param(name, (1, features))
        h = h if x.ndim == 3 else h.reshape(*shape, features)
        return h.astype(jnp.float32)

    def _param(self, name: str, shape: tuple[int, ...]) -> Array:
        init: Any = nn.initializers.normal(0.02)
        if name.startswith("clip"):
            init = nn.initializers.constant(float(name == "clip_std"))
        found: Array = self.param(name, init, shape)
        return found

    def _positions(self, count: int, start: int, dtype: Any) -> Array:
        """Returns the positions [1, count, width] of all tokens.

        Fewer positions than tokens are those of x_t, whose first token is `start`.
        """
        config = self.config
        found = self._param("positional_embedding", (1, config.places, config.width))
        if config.places < count:
            around = ((0, 0), (start, int(config.output_token)), (0, 0))
            found = jnp.pad(found, around)
        if found.shape[1] != count:
            raise InputError(
                f"tokens must be {config.places} together with text, vector, time and "
                f"output, got {count}. Give a text of another length."
            )
        return found.astype(dtype)


class PriorBlock(nn.Module):
    """Self-attention and an MLP, each after a normalisation and added to its input.

    Attributes:
        config: options of the prior.
    """

    config: PriorConfig

    @nn.compact
    def __call__(self, x: Array, mask: Array | None, keys: Key | None) -> Array:
        """Returns the result of tokens [batch, tokens, width]; see `Prior`."""
        config = self.config
        dtype: Any = jnp.dtype(config.dtype)
        streams = key_streams(keys)
        attention = MultiHeadAttention(
            config.heads, config.width, config.width, dtype, _NAMES, name="attn1"
        )
        h = layer_norm(dtype, _EPSILON, "norm1")(x)
        h = attention(h, mask=mask, causal=mask is not None)
        x = x + dropout(h, config.dropout, streams())
        h = layer_norm(dtype, _EPSILON, "norm3")(x)
        h = Dense(4 * config.width, dtype=dtype, name="ff.net.0.proj")(h)
        h = dropout(activation("gelu")(h), config.dropout, streams())
        return x + Dense(config.width, dtype=dtype, name="ff.net.2")(h)


def unscaled(params: Params, x: Array) -> Array:
    """Returns the vectors of CLIP for a prior's denoised vectors.

    Args:
        params: parameters of the prior.
        x: denoised vectors [batch, features].
    """
    return x * params["clip_std"] + params["clip_mean"]
