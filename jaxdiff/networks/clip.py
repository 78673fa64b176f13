"""Text and image encoders of CLIP (Radford et al. 2021).

Stable Diffusion is conditioned on the tokens of the text encoder, unCLIP on the
projected vectors of both encoders. OpenCLIP's encoders are the same networks.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from annotated_types import Interval

from jaxdiff.errors import InputError
from jaxdiff.networks.modules import Conv, Embed
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
)
from jaxdiff.typing import Array, Images


@dataclass(frozen=True, kw_only=True)
class CLIPConfig(TransformerConfig):
    """Options that both encoders of CLIP have."""

    layers: Count = 12
    """Number of blocks."""
    hidden: Count = 3072
    """Number of channels between the two layers of a block's MLP."""
    activation: Activation = "quick_gelu"
    """Activation of the MLP."""
    epsilon: Annotated[float, Interval(gt=0, lt=1)] = 1e-5
    """Number that the normalisation adds to the variance."""
    projection: Count | None = None
    """Number of channels of the projected vector; None for no projection."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Type of the computation."""


@dataclass(frozen=True, kw_only=True)
class CLIPTextConfig(CLIPConfig):
    """Options of CLIP's text encoder; `build` makes the network."""

    vocabulary: Count = 49408
    """Number of tokens of the vocabulary."""
    length: Count = 77
    """Largest number of tokens of a text."""
    end_token: int | None = None
    """Token at whose first place the vector is taken. None takes the first place of
    the largest token, as in the published code of CLIP."""

    def build(self) -> "CLIPText":
        """Makes the network."""
        return CLIPText(self)


@dataclass(frozen=True, kw_only=True)
class CLIPVisionConfig(CLIPConfig):
    """Options of CLIP's image encoder; `build` makes the network."""

    size: Count = 224
    """Height and width of the images in pixels."""
    patch: Count = 32
    """Side of a patch in pixels; it divides the size."""
    channels: Count = 3
    """Number of channels of the images."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size % self.patch:
            raise InputError(
                f"patch must divide the size {self.size}, got {self.patch}"
            )

    def build(self) -> "CLIPVision":
        """Makes the network."""
        return CLIPVision(self)


class CLIPText(nn.Module):
    """Text encoder; see `CLIPTextConfig`."""

    config: CLIPTextConfig

    @nn.compact
    def __call__(
        self,
        tokens: Array,
        mask: Array | None = None,
        skip: int = 0,
        final_norm: bool = True,
    ) -> Encoded:
        """Encodes texts.

        Args:
            tokens: integers [batch, tokens].
            mask: True for tokens that may be attended to, bool [batch, tokens]; all by
                default. Stable Diffusion gives none.
            skip: number of last blocks that the returned tokens do not pass. The
                vector passes all blocks.
            final_norm: if True, the returned tokens pass the final normalisation.

        Raises:
            InputError: a shape does not match, or skip is out of range.
        """
        config = self.config
        check_tokens(tokens, mask, config.length)
        dtype: Any = jnp.dtype(config.dtype)
        embed = Embed(
            config.vocabulary, config.width, dtype=dtype,
            name="text_model.embeddings.token_embedding",
        )  # fmt: skip
        places = Embed(
            config.length, config.width, dtype=dtype,
            name="text_model.embeddings.position_embedding",
        )  # fmt: skip
        x = embed(tokens) + places(jnp.arange(tokens.shape[1]))[None]
        states = _blocks(config, "text_model.encoder", x, mask, causal=True)
        norm = layer_norm(dtype, config.epsilon, "text_model.final_layer_norm")
        if config.end_token is None:
            ends = tokens.argmax(axis=1)
        else:
            ends = (tokens == config.end_token).argmax(axis=1)
        last = norm(states[-1])
        vector = jnp.take_along_axis(last, ends[:, None, None], axis=1)[:, 0]
        check_skip(skip, config.layers)
        chosen = states[-1 - skip]
        if final_norm:
            chosen = norm(chosen)
        return Encoded(chosen, _projected(config, "text_projection", vector))


class CLIPVision(nn.Module):
    """Image encoder; see `CLIPVisionConfig`."""

    config: CLIPVisionConfig

    @nn.compact
    def __call__(self, images: Images, skip: int = 0) -> Encoded:
        """Encodes images.

        Args:
            images: images [batch, size, size, channels], normalised by CLIP's mean and
                deviation.
            skip: number of last blocks that the returned tokens do not pass.

        Raises:
            InputError: the images have another shape, or skip is out of range.
        """
        config = self.config
        shape = (config.size, config.size, config.channels)
        if images.shape[1:] != shape:
            raise InputError(f"images must be [batch, {shape}], got {images.shape}")
        dtype: Any = jnp.dtype(config.dtype)
        name = "vision_model.embeddings"
        patches = Conv(
            config.width, (config.patch,) * 2, strides=config.patch, padding="VALID",
            use_bias=False, dtype=dtype, name=f"{name}.patch_embedding",
        )(images)  # fmt: skip
        first = self.param(
            f"{name}.class_embedding", nn.initializers.normal(0.02), (config.width,)
        ).astype(dtype)
        batch = len(images)
        patches = patches.reshape(batch, -1, config.width)
        first = jnp.broadcast_to(first, (batch, 1, config.width))
        x = jnp.concatenate([first, patches], axis=1)
        places = Embed(
            x.shape[1], config.width, dtype=dtype, name=f"{name}.position_embedding"
        )
        x = x + places(jnp.arange(x.shape[1]))[None]
        # The published name has this spelling.
        x = layer_norm(dtype, config.epsilon, "vision_model.pre_layrnorm")(x)
        states = _blocks(config, "vision_model.encoder", x)
        norm = layer_norm(dtype, config.epsilon, "vision_model.post_layernorm")
        vector = norm(states[-1][:, 0])
        check_skip(skip, config.layers)
        return Encoded(
            states[-1 - skip], _projected(config, "visual_projection", vector)
        )


def check_skip(skip: int, layers: int) -> None:
    """Raises `InputError` if there are fewer blocks than `skip`."""
    if not 0 <= skip <= layers:
        raise InputError(f"skip must lie in 0..{layers}, the blocks, got {skip}")


def _projected(config: CLIPConfig, name: str, vector: Array) -> Array:
    if config.projection is None:
        return vector
    layer = Dense(config.projection, use_bias=False, dtype=vector.dtype, name=name)
    return layer(vector)


def _blocks(
    config: CLIPConfig,
    name: str,
    x: Array,
    mask: Array | None = None,
    causal: bool = False,
) -> list[Array]:
    """Returns the input of the first block, and the result of every block."""
    dtype: Any = jnp.dtype(config.dtype)
    states = [x]
    for i in range(config.layers):
        block = f"{name}.layers.{i}"
        attention = MultiHeadAttention(
            config.heads, config.width, config.width, dtype, name=f"{block}.self_attn"
        )
        norm = layer_norm(dtype, config.epsilon, f"{block}.layer_norm1")
        x = x + attention(norm(x), mask=mask, causal=causal)
        h = layer_norm(dtype, config.epsilon, f"{block}.layer_norm2")(x)
        h = Dense(config.hidden, dtype=dtype, name=f"{block}.mlp.fc1")(h)
        h = activation(config.activation)(h)
        x = x + Dense(config.width, dtype=dtype, name=f"{block}.mlp.fc2")(h)
        states.append(x)
    return states
