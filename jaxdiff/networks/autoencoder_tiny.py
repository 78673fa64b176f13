"""Tiny autoencoder (Bohan 2023, TAESD): decodes latents in a hundredth of the time.

Modules have the names of diffusers' AutoencoderTiny.
"""

from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from annotated_types import Ge

from jaxdiff.checks import Checked
from jaxdiff.errors import InputError
from jaxdiff.networks.autoencoder_kl import LatentScaling
from jaxdiff.networks.convolution import convolve
from jaxdiff.networks.group_norm import GroupNorm
from jaxdiff.networks.layers import doubled
from jaxdiff.networks.modules import Conv
from jaxdiff.networks.transformer import Count
from jaxdiff.typing import Array, Images

LARGEST = 3.0
"""Largest magnitude of the decoder's input, after a tanh."""


@dataclass(frozen=True, kw_only=True)
class AutoencoderTinyConfig(Checked):
    """Options of the tiny autoencoder; `build` makes the network."""

    image_channels: Count = 3
    """Number of channels of the images."""
    latent_channels: Count = 4
    """Number of channels of the latents."""
    width: Count = 64
    """Number of channels of every level."""
    encoder_blocks: tuple[Annotated[int, Ge(0)], ...] = (1, 3, 3, 3)
    """Number of residual blocks of each level of the encoder, the largest size
    first."""
    decoder_blocks: tuple[Annotated[int, Ge(0)], ...] = (3, 3, 3, 1)
    """Number of residual blocks of each level of the decoder, the smallest size
    first."""
    pooled: bool = False
    """If True, blocks of the smallest size add a normalised branch, as in TAEF2."""
    scaling: LatentScaling = field(default_factory=LatentScaling)
    """Map from the encoder's output to latents."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Type of the computation."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not len(self.encoder_blocks) == len(self.decoder_blocks) > 0:
            raise InputError(
                "encoder_blocks and decoder_blocks must have equally many levels, got "
                f"{self.encoder_blocks} and {self.decoder_blocks}"
            )

    @property
    def factor(self) -> int:
        """Ratio of the sizes of image and latents."""
        return 2 ** (len(self.encoder_blocks) - 1)

    def build(self) -> "AutoencoderTiny":
        """Makes the network."""
        return AutoencoderTiny(self)


class AutoencoderTiny(nn.Module):
    """Encoder and decoder; see `AutoencoderTinyConfig`."""

    config: AutoencoderTinyConfig

    def setup(self) -> None:
        """Makes the two parts."""
        self.encoder = TinyEncoder(self.config)
        self.decoder = TinyDecoder(self.config)

    def __call__(self, images: Images) -> Images:
        """Returns the images decoded from their latents."""
        return self.decode(self.encode(images)[0])

    def encode(self, images: Images) -> tuple[Array, None]:
        """Returns the encoder's output [batch, h, w, latent channels] in float32.

        The second value is None: this autoencoder has no variance.

        Args:
            images: images [batch, height, width, channels] in [-1, 1]. The sizes are
                multiples of `config.factor`.
        """
        return self.encoder((images + 1) / 2).astype(jnp.float32), None

    def decode(self, output: Array) -> Images:
        """Returns images, float32, about in [-1, 1].

        Args:
            output: an encoder's output [batch, h, w, latent channels], unscaled.
        """
        clamped = jnp.tanh(output / LARGEST) * LARGEST
        return self.decoder(clamped).astype(jnp.float32) * 2 - 1


class TinyEncoder(nn.Module):
    """Encoder of images in [0, 1]."""

    config: AutoencoderTinyConfig

    @nn.compact
    def __call__(self, x: Images) -> Array:
        """Returns the output [batch, h, w, latent channels]."""
        config, layers = self.config, _Numbered(self.config)
        last = len(config.encoder_blocks) - 1
        for level, count in enumerate(config.encoder_blocks):
            if level == 0:
                x = layers.conv(config.width)(x)
            else:
                x = layers.conv(config.width, strides=2, use_bias=False)(x)
            for _ in range(count):
                x = layers.block(config.pooled and level == last)(x)
        return layers.conv(config.latent_channels)(x)


class TinyDecoder(nn.Module):
    """Decoder to images in [0, 1]."""

    config: AutoencoderTinyConfig

    @nn.compact
    def __call__(self, x: Array) -> Images:
        """Returns images [batch, height, width, image channels]."""
        config, layers = self.config, _Numbered(self.config)
        x = nn.relu(layers.conv(config.width)(x))
        layers.skip()  # the activation has a number, too
        last = len(config.decoder_blocks) - 1
        for level, count in enumerate(config.decoder_blocks):
            for _ in range(count):
                x = layers.block(config.pooled and level == 0)(x)
            if level < last:
                layers.skip()  # so has the upsampling
                x = layers.conv(config.width, use_bias=False)(doubled(x))
        return layers.conv(config.image_channels)(x)


class TinyBlock(nn.Module):
    """Residual block of three convolutions.

    Attributes:
        config: options of the network.
        pooled: if True, a normalised branch is added to the input first.
    """

    config: AutoencoderTinyConfig
    pooled: bool

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Returns the result for x [batch, h, w, channels], of x's shape."""
        width, dtype = x.shape[-1], jnp.dtype(self.config.dtype)
        if self.pooled:
            wide = partial(Conv, kernel_size=(1, 1), use_bias=False, dtype=dtype)
            h = wide(4 * width, name="pool.0")(x)
            h = GroupNorm(4, epsilon=1e-5, dtype=dtype, name="pool.1")(h)
            x = x + wide(width, name="pool.3")(nn.relu(h))
        h = x
        for i in (0, 2, 4):
            h = _conv(width, dtype, f"conv.{i}")(h if i == 0 else nn.relu(h))
        return nn.relu(h + x)


class _Numbered:
    """Layers with the names of a PyTorch nn.Sequential: layers.0, layers.1, ..."""

    def __init__(self, config: AutoencoderTinyConfig):
        self._config, self._count = config, 0

    def skip(self) -> str:
        """Returns the next name."""
        self._count += 1
        return f"layers.{self._count - 1}"

    def conv(self, features: int, strides: int = 1, use_bias: bool = True) -> Conv:
        return _conv(
            features, jnp.dtype(self._config.dtype), self.skip(), strides, use_bias
        )

    def block(self, pooled: bool) -> TinyBlock:
        return TinyBlock(self._config, pooled, name=self.skip())


def _conv(
    features: int, dtype: Any, name: str, strides: int = 1, use_bias: bool = True
) -> Conv:
    # PyTorch pads both sides, also with strides.
    return Conv(
        features, (3, 3), strides, ((1, 1), (1, 1)), use_bias=use_bias, dtype=dtype,
        name=name, conv_general_dilated=convolve,
    )  # fmt: skip
