"""U-Net of DDPM (Ho et al. 2020, appendix B), with classes.

    x_t -> conv -> [blocks, down] ... -> middle -> ... [up, blocks] -> conv -> output
              |   every feature map of the way down joins the way up   |

The time (and the class) enters every block. For images of 32x32x3, the default
configuration is DDPM's for CIFAR-10, with its 35,746,307 parameters.
"""

import itertools
import math
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from annotated_types import Ge, Gt, Interval, MultipleOf

from jaxdiff import rng
from jaxdiff.checks import Checked, Share
from jaxdiff.errors import InputError
from jaxdiff.networks.layers import (
    Downsample,
    Norm,
    Upsample,
    conv3x3,
    drop_labels,
    from_patches,
    rematerialised,
    to_patches,
)
from jaxdiff.networks.time_embedding import Fourier, Sinusoids, TimeEmbedding
from jaxdiff.typing import Array, Condition, Images, Key, Labels, Timesteps


@dataclass(frozen=True, kw_only=True)
class UNetConfig(Checked):
    """Options of the U-Net; `build` makes the network.

    >>> UNetConfig(channels=32, multipliers=(1, 2)).build(out_channels=1).config.heads
    1
    """

    channels: Annotated[int, Ge(4), MultipleOf(2)] = 128
    """Number of channels of the first level."""
    multipliers: tuple[Annotated[float, Gt(0)], ...] = (1, 2, 2, 2)
    """Channels of each level, in multiples of `channels`; each further level halves the
    size."""
    blocks: Annotated[int, Ge(1)] = 2
    """Number of residual blocks per level on the way down; one more on the way up."""
    patch: Annotated[int, Ge(1)] = 1
    """Side of a patch in pixels. The network treats patches as pixels with more
    channels (Luhman & Luhman 2022), which costs less by the square of the side, and is
    a little less fine."""
    attention: tuple[Annotated[int, Ge(1)], ...] = (16,)
    """Sizes (larger side, in patches) of feature maps with self-attention; the option
    `middle` has its own."""
    heads: Annotated[int, Ge(1)] = 1
    """Number of attention heads; it must divide the channels."""
    head_channels: Annotated[int, Ge(1)] | None = None
    """Number of channels per head, instead of `heads`; None to use `heads`."""
    middle: Literal["attention", "attention-without-norm", "no-attention"] = "attention"
    """Layer between the two blocks of the middle."""
    groups: Annotated[int, Ge(1)] = 32
    """Largest number of groups of the normalisation; the number used divides the
    channels."""
    smallest_group: Annotated[int, Ge(1)] = 2
    """Smallest number of channels of a group."""
    epsilon: Annotated[float, Interval(gt=0, lt=1)] = 1e-6
    """Number that the normalisation adds to the variance."""
    scale_shift: bool = False
    """If True, the time scales and shifts the result of a block's second norm, as in
    ADM (Dhariwal & Nichol 2021). Otherwise the time is added before that norm."""
    resample: Literal["conv", "blocks"] = "conv"
    """Layer that changes the size between two levels: a convolution, or a residual
    block as in ADM."""
    padding: Literal["end", "both"] = "end"
    """Side on which the convolution that halves a size pads: the end, as in TensorFlow
    and DDPM, or both, as in PyTorch."""
    embedding: TimeEmbedding = field(default_factory=Sinusoids)
    """Embedding of the time."""
    dropout: Share = 0.1
    """Dropout rate in each residual block."""
    label_dropout: Share = 0.1
    """Rate at which training replaces the class by the null class; guidance needs it
    above 0."""
    null_class: bool = True
    """If True, the network has one more class, for "any"."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the computation; parameters and output are float32."""
    remat: Literal["none", "cheap", "blocks"] = "none"
    """Part of the forward pass that the backward pass recomputes, to save memory: none,
    all except convolutions and matrix products, or whole blocks. (XLA undoes this
    option on the CPU.)"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= len(self.multipliers) <= 20:
            raise InputError(
                "multipliers must have 1 to 20 levels, got "
                f"{len(self.multipliers) or self.multipliers}"
            )
        if self.label_dropout and not self.null_class:
            raise InputError(
                "label_dropout must be 0 if null_class is off, because it uses the "
                f"null class, got {self.label_dropout:g}. Set label_dropout to 0."
            )
        for multiplier, width in zip(self.multipliers, self.widths, strict=True):
            if width < 1 or abs(width - self.channels * multiplier) > 1e-6 * width:
                raise InputError(
                    "multipliers must give whole numbers of channels, got "
                    f"{multiplier:g} times {self.channels}"
                )
            self.head_count(width)

    @property
    def widths(self) -> tuple[int, ...]:
        """Numbers of channels of the levels."""
        scaled = (self.channels * multiplier for multiplier in self.multipliers)
        return tuple(round(width) if math.isfinite(width) else 0 for width in scaled)

    def head_count(self, width: int) -> int:
        """Returns the number of attention heads over `width` channels.

        Raises:
            InputError: the heads do not divide the channels.
        """
        if self.head_channels is None:
            name, value = "heads", self.heads
        else:
            name, value = "head_channels", self.head_channels
        if width % value:
            raise InputError(f"{name} must divide the channels {width}, got {value}")
        return value if self.head_channels is None else width // value

    def check_null_class(self) -> None:
        """Raises `InputError` if the network cannot be evaluated without labels."""
        if not self.null_class:
            raise InputError(
                "labels must be given, because the network has no null class. Give "
                "labels, and turn guidance off."
            )

    def build(
        self,
        out_channels: int,
        num_classes: int | None = None,
        in_channels: int | None = None,
    ) -> "UNet":
        """Makes the network.

        Args:
            out_channels: number of output channels.
            num_classes: number of classes; None for an unconditional network.
            in_channels: number of channels of the images; None for `out_channels`. A
                learned variance doubles the outputs only.
        """
        return UNet(self, out_channels, num_classes, in_channels)

    def check_image_shape(self, height: int, width: int) -> None:
        """Checks that patches and levels divide the image's size evenly.

        Raises:
            InputError: a size is not a multiple of patch * 2^(levels - 1). The message
                has the nearest multiples.
        """
        multiple = self.patch * 2 ** (len(self.multipliers) - 1)
        patches = f" of patches of {self.patch}" if self.patch > 1 else ""
        for name, size in (("height", height), ("width", width)):
            if size % multiple or size < 1:
                below = size // multiple * multiple
                near = [s for s in (below, below + multiple) if s > 0]
                raise InputError(
                    f"image {name} must be a multiple of {multiple} for "
                    f"{len(self.multipliers)} levels{patches}, got {size}. Use "
                    f"{' or '.join(map(str, near))}, or fewer multipliers."
                )


class UNet(nn.Module):
    """Flax module of the U-Net; `UNetConfig.build` makes it.

    Attributes:
        config: options of the network.
        out_channels: number of channels of the output.
        num_classes: number of classes, or None for an unconditional network. Class
            `num_classes` is the null class, which stands for "any".
        in_channels: number of channels of the images; None for `out_channels`.
    """

    config: UNetConfig
    out_channels: int
    num_classes: int | None = None
    in_channels: int | None = None

    @property
    def takes(self) -> tuple[str, ...]:
        """Names of the parts of a condition that the network takes."""
        return () if self.num_classes is None else ("labels",)

    @nn.compact
    def __call__(
        self,
        x: Images,
        t: Timesteps,
        condition: Condition | Labels | None = None,
        keys: Key | None = None,
    ) -> Images:
        """Returns the network's output.

        Args:
            x: images [batch, height, width, in_channels].
            t: times [batch].
            condition: labels: classes [batch], or shares of the classes [batch,
                num_classes], of which the null class takes the rest; None for the null
                class.
            keys: one key per example in training (for dropout), otherwise None.

        Returns:
            float32 [batch, height, width, out_channels].

        Raises:
            InputError: the shape of an argument does not match.
        """
        config, labels = self.config, Condition.of(condition).labels
        channels = self.in_channels or self.out_channels
        if x.ndim != 4 or x.shape[-1] != channels:
            raise InputError(
                f"images must be [batch, height, width, {channels}], "
                f"got shape {x.shape}"
            )
        config.check_image_shape(*x.shape[1:3])
        if t.shape != x.shape[:1]:
            raise InputError(f"t must have shape {x.shape[:1]}, got {t.shape}")
        if labels is not None and labels.shape[:1] != x.shape[:1]:
            raise InputError(
                f"labels must be {x.shape[0]}, one per image, got {labels.shape[0]}"
            )
        dtype: Any = jnp.dtype(config.dtype)
        # Every block has its own random stream; stream 0 is for the labels.
        streams = itertools.count()

        def next_keys() -> Key | None:
            stream = next(streams)
            return None if keys is None else rng.fold(keys, stream)

        block_class, attention_class = rematerialised(config.remat)
        norm = partial(
            Norm, config.groups, dtype, config.smallest_group, config.epsilon
        )

        def block(x: Images, features: int, name: str, resample: Any = "no") -> Images:
            layer = block_class(
                features, config.dropout, norm, dtype, config.scale_shift, resample,
                name=name,
            )  # fmt: skip
            return layer(x, embedding, next_keys())

        def attend(x: Images, name: str, with_norm: bool = True) -> Images:
            heads = config.head_count(x.shape[-1])
            layer = attention_class(
                heads, norm if with_norm else None, dtype, name=name
            )
            return layer(x)

        def blocks(x: Images, features: int, name: str) -> Images:
            x = block(x, features, f"{name}_block")
            attends = max(x.shape[1:3]) in config.attention
            return attend(x, f"{name}_attention") if attends else x

        def downsample(x: Images, name: str) -> Images:
            if config.resample == "blocks":
                return block(x, x.shape[-1], name, "halve")
            return Downsample(dtype, config.padding, name=name)(x)

        def upsample(x: Images, name: str) -> Images:
            if config.resample == "blocks":
                return block(x, x.shape[-1], name, "double")
            return Upsample(dtype, name=name)(x)

        label_keys = next_keys()
        embedding = self._embed(t, labels, label_keys)

        x = to_patches(x.astype(dtype), config.patch)
        x = conv3x3(config.channels, dtype, "conv_in")(x)
        skips = [x]
        for level, width in enumerate(config.widths):
            if level > 0:
                x = downsample(x, f"down_{level}_downsample")
                skips.append(x)
            for i in range(config.blocks):
                x = blocks(x, width, f"down_{level}_{i}")
                skips.append(x)

        x = block(x, x.shape[-1], "middle_0_block")
        if config.middle != "no-attention":
            x = attend(x, "middle_attention", config.middle == "attention")
        x = block(x, x.shape[-1], "middle_1_block")

        for level, width in reversed(list(enumerate(config.widths))):
            for i in range(config.blocks + 1):
                x = jnp.concatenate([x, skips.pop()], axis=-1)
                x = blocks(x, width, f"up_{level}_{i}")
            if level > 0:
                x = upsample(x, f"up_{level}_upsample")

        x = nn.swish(norm(name="norm_out")(x))
        outputs = self.out_channels * config.patch**2
        x = conv3x3(outputs, dtype, "conv_out", nn.initializers.zeros)(x)
        x = from_patches(x.astype(jnp.float32), config.patch)
        divide = isinstance(config.embedding, Fourier) and config.embedding.divide
        return x / t.astype(jnp.float32)[:, None, None, None] if divide else x

    def check_null_class(self) -> None:
        """Raises `InputError` if the network cannot be evaluated without labels."""
        self.config.check_null_class()

    def _embed(self, t: Timesteps, labels: Labels | None, keys: Key | None) -> Array:
        """Returns the embedding of time and class, [batch, 4 channels]."""
        features = 4 * self.config.channels
        dtype = jnp.dtype(self.config.dtype)

        def dense(name: str) -> nn.Dense:
            init = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")
            return nn.Dense(features, dtype=dtype, kernel_init=init, name=name)

        embedding = self.config.embedding.layer(self.config.channels)(t)
        embedding = dense("time_2")(nn.swish(dense("time_1")(embedding)))
        if self.num_classes is None:
            return embedding
        null = self.num_classes
        if labels is None:
            if not self.is_initializing():
                self.config.check_null_class()
            labels = jnp.full(t.shape, null if self.config.null_class else 0)
        init = nn.initializers.normal(1.0)
        embed = nn.Embed(
            null + self.config.null_class, features, dtype=dtype,
            embedding_init=init, name="label",
        )  # fmt: skip
        if jnp.issubdtype(labels.dtype, jnp.floating):
            shares = labels
            if self.config.null_class:
                rest = 1 - labels.sum(axis=1, keepdims=True)
                shares = jnp.concatenate([labels, rest], axis=1)
            return embedding + shares.astype(dtype) @ embed.embedding.astype(dtype)
        labels = drop_labels(labels, self.config.label_dropout, null, keys)
        return embedding + embed(labels)
