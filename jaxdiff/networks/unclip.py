"""Small networks between the parts of unCLIP (Ramesh et al. 2022, section 2.1).

`UnCLIPProjection` turns vectors of image and text, and a text's tokens, into the
condition of a decoder. `VectorScale` holds mean and deviation of CLIP's vectors.
Modules have the names of diffusers' UnCLIPTextProjModel and
StableUnCLIPImageNormalizer.
"""

from dataclasses import dataclass
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp

from jaxdiff.checks import Checked
from jaxdiff.networks.base import check_vector
from jaxdiff.networks.products import Dense
from jaxdiff.networks.transformer import Count, layer_norm
from jaxdiff.typing import Array, Condition


@dataclass(frozen=True, kw_only=True)
class UnCLIPProjectionConfig(Checked):
    """Options of the projection; the defaults are those of Karlo."""

    features: Count = 768
    """Number of features of CLIP's vectors and tokens."""
    tokens: Count = 4
    """Number of tokens that are made of an image's vector."""
    time_channels: Count = 1280
    """Number of channels of the decoder's embedding of the time."""
    text_channels: Count = 1536
    """Number of features of the tokens that the decoder attends to."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Type of the computation."""

    def build(self) -> "UnCLIPProjection":
        """Makes the network."""
        return UnCLIPProjection(self)


class UnCLIPProjection(nn.Module):
    """Condition of a decoder from vectors and tokens; see `UnCLIPProjectionConfig`."""

    config: UnCLIPProjectionConfig

    def example_inputs(self) -> tuple[Any, ...]:
        """Returns the arguments of a call of one example."""
        vector = jnp.zeros((1, self.config.features))
        return Condition(text=vector[:, None], vector=vector), vector

    @nn.compact
    def __call__(self, text: Condition, image: Array | None) -> Condition:
        """Returns the decoder's condition.

        Args:
            text: tokens, mask and vector of a text.
            image: vectors of images [batch, features]; None for no image, for which
                there is a learned vector.

        Returns:
            Tokens with their mask, and the vector that is added to the time's.
        """
        config = self.config
        dtype: Any = jnp.dtype(config.dtype)
        nothing = self.param(
            "learned_classifier_free_guidance_embeddings", nn.initializers.zeros,
            (config.features,),
        )  # fmt: skip
        if image is None:
            image = jnp.broadcast_to(nothing, (len(text.vector), config.features))
        for vector in (text.vector, image):
            check_vector(vector, config.features)

        def dense(name: str, features: int, of: Array) -> Array:
            return Dense(features, dtype=dtype, name=name)(of)

        name = "clip_image_embeddings_project_to_time_embeddings"
        added = dense("embedding_proj", config.time_channels, text.vector)
        added += dense(name, config.time_channels, image)
        size = config.tokens * config.text_channels
        further = dense("clip_extra_context_tokens_proj", size, image)
        further = further.reshape(len(image), config.text_channels, config.tokens)
        tokens = dense("encoder_hidden_states_proj", config.text_channels, text.text)
        tokens = layer_norm(dtype, 1e-5, "text_encoder_hidden_states_norm")(tokens)
        mask = text.mask
        if mask is not None:
            mask = jnp.pad(mask, ((0, 0), (config.tokens, 0)), constant_values=True)
        return Condition(
            text=jnp.concatenate([further.swapaxes(1, 2), tokens], axis=1),
            mask=mask,
            vector=added.astype(jnp.float32),
        )


@dataclass(frozen=True, kw_only=True)
class VectorScaleConfig(Checked):
    """Options of `VectorScale`."""

    features: Count = 768
    """Number of features of the vectors."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Type of the parameters; the computation is float32."""

    def build(self) -> "VectorScale":
        """Makes the network."""
        return VectorScale(self)


class VectorScale(nn.Module):
    """Mean and deviation of vectors; see `VectorScaleConfig`."""

    config: VectorScaleConfig

    def example_inputs(self) -> tuple[Any, ...]:
        """Returns the arguments of a call of one example."""
        return (jnp.zeros((1, self.config.features)),)

    @nn.compact
    def __call__(self, vectors: Array, inverse: bool = False) -> Array:
        """Returns vectors of mean 0 and deviation 1, or with `inverse` CLIP's again."""
        shape = (1, self.config.features)
        mean = self.param("mean", nn.initializers.zeros, shape).astype(jnp.float32)
        deviation = self.param("std", nn.initializers.ones, shape).astype(jnp.float32)
        return vectors * deviation + mean if inverse else (vectors - mean) / deviation
