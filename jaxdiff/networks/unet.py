"""The U-Net of DDPM (Ho et al. 2020, appendix B), with classes.

    x_t -> conv -> [blocks, down] ... -> middle -> ... [up, blocks] -> conv -> output
              |   every feature map of the way down joins the way up   |

The time (and the class) enters every block. With 32x32x3 images the default
configuration is DDPM's for CIFAR-10, with its 35,746,307 parameters.
"""

import itertools
from dataclasses import dataclass
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp

from jaxdiff import keys as keys_lib
from jaxdiff.errors import InputError
from jaxdiff.networks.layers import (
    Downsample,
    Norm,
    Upsample,
    conv3x3,
    drop_labels,
    from_patches,
    rematerialised,
    timestep_embedding,
    to_patches,
)
from jaxdiff.typing import Array, Images, Key, Labels, Timesteps


@dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """The options of the U-Net; `build` makes the network.

    >>> UNetConfig(channels=32, multipliers=(1, 2)).build(out_channels=1).config.heads
    1
    """

    channels: int = 128
    """Channels of the first level; even, at least 4."""
    multipliers: tuple[int, ...] = (1, 2, 2, 2)
    """Channels of each level, in multiples of `channels`; each halves the size."""
    blocks: int = 2
    """Residual blocks a level on the way down; one more on the way up."""
    patch: int = 1
    """The network works on patches of so many pixels a side, as on pixels of more
    channels (Luhman & Luhman 2022): cheaper by its square, and a little less fine."""
    attention: tuple[int, ...] = (16,)
    """Feature-map sizes (larger side) with self-attention, in patches; the middle
    always has."""
    heads: int = 1
    """Attention heads; they divide the channels."""
    groups: int = 32
    """The most groups of the normalisation; the number used divides the channels."""
    dropout: float = 0.1
    """Dropout rate in each residual block, in [0, 1)."""
    label_dropout: float = 0.1
    """How often training hides the class, in [0, 1); guidance needs it above 0."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the computation; parameters and output are float32."""
    remat: Literal["none", "cheap", "blocks"] = "none"
    """What the backward pass recomputes to save memory: nothing, all but convolutions
    and matrix products, or whole blocks. (XLA undoes it on the CPU.)"""

    def __post_init__(self) -> None:
        """Refuses options out of range."""
        for name in ("channels", "blocks", "patch", "heads", "groups"):
            if getattr(self, name) < 1:
                raise InputError(
                    f"{name} must be at least 1; got {getattr(self, name)}"
                )
        if self.dtype not in ("float32", "bfloat16"):
            raise InputError(
                f"dtype must be 'float32' or 'bfloat16'; got {self.dtype!r}"
            )
        if self.remat not in ("none", "cheap", "blocks"):
            raise InputError(
                f"remat must be 'none', 'cheap' or 'blocks'; got {self.remat!r}"
            )
        if self.channels % 2 or self.channels < 4:
            raise InputError(
                f"channels must be even and at least 4; got {self.channels}"
            )
        if not self.multipliers or min(self.multipliers) < 1:
            raise InputError(
                f"multipliers must be positive, one a level; got {self.multipliers}"
            )
        if min(self.attention, default=1) < 1:
            raise InputError(f"attention must be positive; got {self.attention}")
        if len(self.multipliers) > 20:
            raise InputError(
                f"multipliers must be of at most 20 levels; got {len(self.multipliers)}"
            )
        for name in ("dropout", "label_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(
                    f"{name} must lie in [0, 1); got {getattr(self, name):g}"
                )
        for multiplier in self.multipliers:
            if self.channels * multiplier % self.heads:
                raise InputError(
                    f"heads must divide the channels {self.channels * multiplier}; "
                    f"got {self.heads}"
                )

    def build(
        self,
        out_channels: int,
        num_classes: int | None = None,
        in_channels: int | None = None,
    ) -> "UNet":
        """The network with so many outputs a pixel, and for so many classes.

        The images have as many channels as there are outputs, but where `in_channels`
        says otherwise (a learned variance doubles the outputs).
        """
        return UNet(self, out_channels, num_classes, in_channels)

    def check_image_shape(self, height: int, width: int) -> None:
        """Refuses sizes that patches and levels cannot divide evenly.

        Raises:
            InputError: a size is not a multiple of patch * 2^(levels - 1); it names the
                nearest ones that are.
        """
        multiple = self.patch * 2 ** (len(self.multipliers) - 1)
        patches = f" of patches of {self.patch}" if self.patch > 1 else ""
        for name, size in (("height", height), ("width", width)):
            if size % multiple or size < 1:
                below = size // multiple * multiple
                near = [s for s in (below, below + multiple) if s > 0]
                raise InputError(
                    f"image {name} must be a multiple of {multiple} for "
                    f"{len(self.multipliers)} levels{patches}; got {size}: use "
                    f"{' or '.join(map(str, near))}, or fewer multipliers"
                )


class UNet(nn.Module):
    """The Flax network; made by `UNetConfig.build`.

    Attributes:
        config: its options.
        out_channels: the channels of the output.
        num_classes: the number of classes, or None for an unconditional network. Class
            `num_classes` is the null class, which stands for "any".
        in_channels: the channels of the images; `out_channels` where it is None.
    """

    config: UNetConfig
    out_channels: int
    num_classes: int | None = None
    in_channels: int | None = None

    @nn.compact
    def __call__(
        self,
        x: Images,
        t: Timesteps,
        labels: Labels | None = None,
        keys: Key | None = None,
    ) -> Images:
        """The network's output.

        Args:
            x: images [batch, height, width, in_channels].
            t: times [batch].
            labels: classes [batch], or shares of the classes [batch, num_classes], of
                which the null class takes the rest; None for the null class.
            keys: one key per example while training (dropout); None otherwise.

        Returns:
            float32 [batch, height, width, out_channels].

        Raises:
            InputError: the image's shape does not fit.
        """
        config = self.config
        channels = self.in_channels or self.out_channels
        if x.ndim != 4 or x.shape[-1] != channels:
            raise InputError(
                f"images must be [batch, height, width, {channels}]; "
                f"got shape {x.shape}"
            )
        config.check_image_shape(*x.shape[1:3])
        if t.shape != x.shape[:1]:
            raise InputError(f"t must have shape {x.shape[:1]}; got {t.shape}")
        if labels is not None and labels.shape[:1] != x.shape[:1]:
            raise InputError(
                f"{x.shape[0]} images need as many labels; got {labels.shape[0]}"
            )
        dtype: Any = jnp.dtype(config.dtype)
        # Every block has a stream of randomness of its own; stream 0 is the labels'.
        streams = itertools.count()

        def next_keys() -> Key | None:
            stream = next(streams)
            return None if keys is None else keys_lib.fold(keys, stream)

        block_class, attention_class = rematerialised(config.remat)

        def block(x: Images, features: int, name: str) -> Images:
            layer = block_class(
                features, config.dropout, config.groups, dtype, name=f"{name}_block"
            )
            return layer(x, embedding, next_keys())

        def attend(x: Images, name: str) -> Images:
            layer = attention_class(
                config.heads, config.groups, dtype, name=f"{name}_attention"
            )
            return layer(x)

        def blocks(x: Images, features: int, name: str) -> Images:
            x = block(x, features, name)
            return attend(x, name) if max(x.shape[1:3]) in config.attention else x

        label_keys = next_keys()
        embedding = self._embed(t, labels, label_keys)

        x = to_patches(x.astype(dtype), config.patch)
        x = conv3x3(config.channels, dtype, "conv_in")(x)
        skips = [x]
        for level, multiplier in enumerate(config.multipliers):
            if level > 0:
                x = Downsample(dtype, name=f"down_{level}_downsample")(x)
                skips.append(x)
            for i in range(config.blocks):
                x = blocks(x, config.channels * multiplier, f"down_{level}_{i}")
                skips.append(x)

        x = block(x, x.shape[-1], "middle_0")
        x = attend(x, "middle")
        x = block(x, x.shape[-1], "middle_1")

        for level, multiplier in reversed(list(enumerate(config.multipliers))):
            for i in range(config.blocks + 1):
                x = jnp.concatenate([x, skips.pop()], axis=-1)
                x = blocks(x, config.channels * multiplier, f"up_{level}_{i}")
            if level > 0:
                x = Upsample(dtype, name=f"up_{level}_upsample")(x)

        x = nn.swish(Norm(config.groups, dtype, name="norm_out")(x))
        outputs = self.out_channels * config.patch**2
        x = conv3x3(outputs, dtype, "conv_out", nn.initializers.zeros)(x)
        return from_patches(x.astype(jnp.float32), config.patch)

    def _embed(self, t: Timesteps, labels: Labels | None, keys: Key | None) -> Array:
        """The embedding of time and class, [batch, 4 channels]."""
        features = 4 * self.config.channels
        dtype = jnp.dtype(self.config.dtype)

        def dense(name: str) -> nn.Dense:
            init = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")
            return nn.Dense(features, dtype=dtype, kernel_init=init, name=name)

        embedding = timestep_embedding(t, self.config.channels)
        embedding = dense("time_2")(nn.swish(dense("time_1")(embedding)))
        if self.num_classes is None:
            return embedding
        null = self.num_classes
        if labels is None:
            labels = jnp.full(t.shape, null)
        init = nn.initializers.normal(1.0)
        embed = nn.Embed(
            null + 1, features, dtype=dtype, embedding_init=init, name="label"
        )
        if jnp.issubdtype(labels.dtype, jnp.floating):
            rest = 1 - labels.sum(axis=1, keepdims=True)
            shares = jnp.concatenate([labels, rest], axis=1).astype(dtype)
            return embedding + shares @ embed.embedding.astype(dtype)
        labels = drop_labels(labels, self.config.label_dropout, null, keys)
        return embedding + embed(labels)
