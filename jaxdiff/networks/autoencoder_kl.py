"""Autoencoder of latent diffusion (Rombach et al. 2022, appendix G.1).

The encoder returns mean and log-variance of a Gaussian over latents (Kingma & Welling
2014), 8 times smaller than the image in Stable Diffusion. Modules have the names of
diffusers' AutoencoderKL.
"""

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from annotated_types import Ge, Gt

from jaxdiff.checks import Checked
from jaxdiff.errors import InputError
from jaxdiff.networks.convolution import convolve
from jaxdiff.networks.group_norm import GroupNorm
from jaxdiff.networks.layers import doubled
from jaxdiff.networks.modules import Conv
from jaxdiff.networks.transformer import Count, MultiHeadAttention
from jaxdiff.typing import Array, Images

EPSILON = 1e-6
"""Number that every normalisation adds to the variance."""
LOG_VARIANCE = (-30.0, 20.0)
"""Range of the log-variance."""


@dataclass(frozen=True, kw_only=True)
class LatentScaling(Checked):
    """Affine map from an encoder's output to latents of about unit variance.

    latents = (output - shift - mean) scale / deviation
    """

    scale: Annotated[float, Gt(0)] = 1.0
    """Factor of the latents."""
    shift: float = 0.0
    """Number subtracted from the encoder's output."""
    mean: tuple[float, ...] | None = None
    """Mean of each channel; None for 0."""
    deviation: tuple[float, ...] | None = None
    """Standard deviation of each channel; None for 1."""

    def forward(self, output: Array) -> Array:
        """Returns the latents of an encoder's output [..., channels]."""
        mean, deviation = self._channels(output)
        return (output - self.shift - mean) * (self.scale / deviation)

    def inverse(self, latents: Array) -> Array:
        """Returns the decoder's input of latents [..., channels]."""
        mean, deviation = self._channels(latents)
        return latents * (deviation / self.scale) + mean + self.shift

    def _channels(self, x: Array) -> tuple[Array, Array]:
        given = (self.mean or (0.0,), self.deviation or (1.0,))
        shape = (1,) * (x.ndim - 1) + (-1,)
        mean, deviation = (jnp.asarray(v, x.dtype).reshape(shape) for v in given)
        return mean, deviation


@dataclass(frozen=True, kw_only=True)
class AutoencoderKLConfig(Checked):
    """Options of the autoencoder; `build` makes the network."""

    image_channels: Count = 3
    """Number of channels of the images."""
    latent_channels: Count = 4
    """Number of channels of the latents."""
    widths: tuple[Count, ...] = (128, 256, 512, 512)
    """Number of channels of each level; each further level halves the size."""
    blocks: Count = 2
    """Number of residual blocks per level of the encoder; one more in the decoder."""
    groups: Annotated[int, Ge(1)] = 32
    """Number of groups of the normalisation; it divides the channels."""
    quant_conv: bool = True
    """If True, a 1x1 convolution ends the encoder."""
    post_quant_conv: bool = True
    """If True, a 1x1 convolution begins the decoder."""
    attention: bool = True
    """If True, there is self-attention between the two blocks of the middle."""
    scaling: LatentScaling = field(default_factory=lambda: LatentScaling(scale=0.18215))
    """Map from the encoder's output to latents."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Type of the computation. With float16, whose range the activations exceed, only
    convolutions of normalised numbers are in float16, with sums in float32."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for width in self.widths:
            if width % self.groups:
                raise InputError(
                    f"groups must divide the channels {width}, got {self.groups}"
                )
        for name in ("mean", "deviation"):
            values = getattr(self.scaling, name)
            if values is not None and len(values) != self.latent_channels:
                raise InputError(
                    f"scaling.{name} must have {self.latent_channels} values, one per "
                    f"latent channel, got {len(values)}"
                )

    @property
    def factor(self) -> int:
        """Ratio of the sizes of image and latents."""
        return 2 ** (len(self.widths) - 1)

    def build(self) -> "AutoencoderKL":
        """Makes the network."""
        return AutoencoderKL(self)


class AutoencoderKL(nn.Module):
    """Encoder and decoder; see `AutoencoderKLConfig`."""

    config: AutoencoderKLConfig

    def setup(self) -> None:
        """Makes the parts."""
        config = self.config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        float32: Any = jnp.float32
        if config.quant_conv:
            count = 2 * config.latent_channels
            self.quant_conv = Conv(count, (1, 1), dtype=float32)
        if config.post_quant_conv:
            count = config.latent_channels
            self.post_quant_conv = Conv(count, (1, 1), dtype=float32)

    def __call__(self, images: Images) -> Images:
        """Returns the images decoded from the means of their latents."""
        return self.decode(self.encode(images)[0])

    def encode(self, images: Images) -> tuple[Array, Array]:
        """Returns mean and log-variance of the encoder's Gaussian, before any scaling.

        Args:
            images: images [batch, height, width, channels] in [-1, 1]. The sizes are
                multiples of `config.factor`.

        Returns:
            float32 mean and log-variance, each [batch, h, w, latent channels].
        """
        moments = self.encoder(images)
        if self.config.quant_conv:
            moments = self.quant_conv(moments)
        mean, log_variance = jnp.split(moments.astype(jnp.float32), 2, axis=-1)
        return mean, log_variance.clip(*LOG_VARIANCE)

    def decode(self, output: Array) -> Images:
        """Returns images, float32, about in [-1, 1].

        Args:
            output: an encoder's output [batch, h, w, latent channels], unscaled.
        """
        if self.config.post_quant_conv:
            output = self.post_quant_conv(output)
        return self.decoder(output).astype(jnp.float32)


class Encoder(nn.Module):
    """Encoder, without the 1x1 convolution at its end."""

    config: AutoencoderKLConfig

    @nn.compact
    def __call__(self, x: Images) -> Array:
        """Returns the moments [batch, h, w, 2 latent channels]."""
        config = self.config
        layers = _Layers(config)
        x = layers.conv(config.widths[0], "conv_in")(x)
        for level, width in enumerate(config.widths):
            name = f"down_blocks.{level}"
            for i in range(config.blocks):
                x = Block(config, width, name=f"{name}.resnets.{i}")(x)
            if level < len(config.widths) - 1:
                down = f"{name}.downsamplers.0.conv"
                x = layers.conv(width, down, strides=2, padding=((0, 1), (0, 1)))(x)
        x = layers.middle(x)
        x = nn.silu(layers.norm("conv_norm_out")(x))
        return layers.conv(2 * config.latent_channels, "conv_out", normalised=True)(x)


class Decoder(nn.Module):
    """Decoder, without the 1x1 convolution at its beginning."""

    config: AutoencoderKLConfig

    @nn.compact
    def __call__(self, x: Array) -> Images:
        """Returns images [batch, height, width, image channels]."""
        config = self.config
        layers = _Layers(config)
        x = layers.conv(config.widths[-1], "conv_in")(x)
        x = layers.middle(x)
        for level, width in enumerate(config.widths[::-1]):
            name = f"up_blocks.{level}"
            for i in range(config.blocks + 1):
                x = Block(config, width, name=f"{name}.resnets.{i}")(x)
            if level < len(config.widths) - 1:
                x = layers.conv(width, f"{name}.upsamplers.0.conv")(doubled(x))
        x = nn.silu(layers.norm("conv_norm_out")(x))
        return layers.conv(config.image_channels, "conv_out", normalised=True)(x)


class Block(nn.Module):
    """Residual block: norm, swish, conv; norm, swish, conv; + skip."""

    config: AutoencoderKLConfig
    width: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Returns the result [batch, h, w, width]."""
        layers = _Layers(self.config)
        h = x
        for i in (1, 2):
            h = nn.silu(layers.norm(f"norm{i}")(h))
            h = layers.conv(self.width, f"conv{i}", normalised=True)(h)
        if x.shape[-1] != self.width:
            x = layers.conv(self.width, "conv_shortcut", size=1)(x)
        return x + h


class _Layers:
    """Layers with the options of a configuration."""

    def __init__(self, config: AutoencoderKLConfig):
        self._config = config
        self._half = config.dtype == "float16"
        self._dtype: Any = jnp.dtype("float32" if self._half else config.dtype)

    def conv(
        self,
        features: int,
        name: str,
        size: int = 3,
        strides: int = 1,
        padding: Any = "SAME",
        normalised: bool = False,
    ) -> Conv:
        return Conv(
            features, (size, size), strides, padding, dtype=self._dtype, name=name,
            conv_general_dilated=(
                _convolve_halves if self._half and normalised else convolve
            ),
        )  # fmt: skip

    def norm(self, name: str) -> GroupNorm:
        return GroupNorm(
            self._config.groups, epsilon=EPSILON, dtype=self._dtype,
            use_fast_variance=False, name=name,
        )  # fmt: skip

    def middle(self, x: Array) -> Array:
        width = x.shape[-1]
        x = Block(self._config, width, name="mid_block.resnets.0")(x)
        if self._config.attention:
            attention = MultiHeadAttention(
                1, width, width, self._dtype, ("to_q", "to_k", "to_v", "to_out.0"),
                name="mid_block.attentions.0",
            )  # fmt: skip
            h = self.norm("mid_block.attentions.0.group_norm")(x)
            h = attention(h.reshape(len(x), -1, width))
            x = x + h.reshape(x.shape)
        return Block(self._config, width, name="mid_block.resnets.1")(x)


def _convolve_halves(x: Array, kernel: Array, *args: Any, **options: Any) -> Array:
    """Convolves float32 arrays in float16, with sums in float32."""
    options["preferred_element_type"] = jnp.float32
    half: Any = jnp.float16
    return convolve(x.astype(half), kernel.astype(half), *args, **options)
