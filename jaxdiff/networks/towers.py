"""Two towers: images and texts as vectors of length 1 (Radford et al. 2021, CLIP).

    (1)  u = W f(image) / |W f(image)|,  v = V g(text) / |V g(text)|

The image tower f is the small convolutional network that evaluation uses, and the text
tower g is the text encoder that diffusion models train with themselves.
"""

import math
from dataclasses import dataclass, field

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdiff.checks import Checked
from jaxdiff.errors import InputError
from jaxdiff.networks.classifier import Classifier
from jaxdiff.networks.products import Dense
from jaxdiff.networks.text_transformer import TextTransformer, TextTransformerConfig
from jaxdiff.networks.transformer import Count
from jaxdiff.typing import Array, Images

SCALE, MOST = 1 / 0.07, 100.0
"""Initial and largest scale of the products of vectors, 1 / temperature."""
LOG_SCALE = "log_scale"
"""Name of the parameter with the logarithm of the scale."""


@dataclass(frozen=True, kw_only=True)
class TowersConfig(Checked):
    """Options of an image tower and a text tower."""

    features: Count = 128
    """Number of features of a vector."""
    channels: Count = 32
    """Number of channels of the image tower's first level, an even number up to 16 or
    a multiple of 8; it doubles per level, up to 8 times."""
    text: TextTransformerConfig = field(
        default_factory=lambda: TextTransformerConfig(
            vocabulary=2048, length=24, width=128, layers=2
        )
    )
    """Text tower."""

    def __post_init__(self) -> None:
        super().__post_init__()
        groups = min(8, self.channels // 2)  # of the image tower's normalisation
        if not groups or self.channels % groups:
            raise InputError(
                "channels must be an even number up to 16, or a multiple of 8, got "
                f"{self.channels}"
            )

    def build(self) -> "Towers":
        """Makes the network."""
        return Towers(self)


class Towers(nn.Module):
    """Image tower and text tower with one scale; see `TowersConfig`."""

    config: TowersConfig

    def setup(self) -> None:
        """Makes the parts."""
        config = self.config
        self.image_encoder = Classifier(config.features, config.channels)
        self.text_encoder = TextTransformer(config.text)
        self.text_projection = Dense(config.features, use_bias=False)
        initial = nn.initializers.constant(math.log(SCALE))
        self.log_scale = self.param(LOG_SCALE, initial, ())

    def images(self, x: Images) -> Array:
        """Returns the vectors of images, float32 [batch, features] of length 1.

        Args:
            x: images [batch, height, width, channels] in [-1, 1].
        """
        _, found = self.image_encoder(x)
        return _unit(found)

    def texts(self, tokens: Array, mask: Array | None = None) -> Array:
        """Returns the vectors of texts, float32 [batch, features] of length 1.

        Args:
            tokens: integers [batch, tokens].
            mask: True for tokens of the text, False for padding, bool [batch, tokens];
                all by default.
        """
        return _unit(self.text_projection(self.text_encoder(tokens, mask).vector))

    def __call__(
        self, x: Images, tokens: Array, mask: Array | None = None
    ) -> tuple[Array, Array]:
        """Returns the vectors of images and those of texts."""
        return self.images(x), self.texts(tokens, mask)


def _unit(x: Array) -> Array:
    x = x.astype(jnp.float32)
    square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(square + 1e-12)
