"""Magnitude-preserving U-Net of EDM2 (Karras et al. 2024, configuration G).

    x_t -> conv -> [blocks, down] ... -> middle -> ... [up, blocks] -> conv -> output
              |   every feature map of the way down joins the way up   |

Activations keep the magnitude 1 by the layers of `edm2_layers`, and weights have unit
norm, in the forward pass and, by `EDM2.normalized`, after each update. There are no
biases and no group norms. The paper's recipe is the schedule variance-exploding with
the prediction edm, whose time is then 1000 / 4 log sigma.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
from annotated_types import Gt, Interval

from jaxdiff.checks import Share
from jaxdiff.errors import InputError
from jaxdiff.networks.base import BaseNetwork, key_streams, way_between
from jaxdiff.networks.condition_options import ConditionConfig
from jaxdiff.networks.edm2_layers import (
    MPBlock,
    MPConv,
    MPFourier,
    mp_join,
    mp_silu,
    mp_sum,
    normalized,
)
from jaxdiff.networks.image_sizes import attention_sizes, check_sides
from jaxdiff.networks.layers import drop_labels, rematerialised
from jaxdiff.networks.transformer import Count
from jaxdiff.typing import Array, Condition, Images, Key, Labels, Params, Timesteps

CHANNELS = {"XS": 128, "S": 192, "M": 256, "L": 320, "XL": 384, "XXL": 448}
"""Number of channels of the first level of each published size."""
TIME_UNIT = 1000.0
"""Divisor of the time before its Fourier features."""
Balance = Annotated[float, Interval(ge=0, le=1)]


@dataclass(frozen=True, kw_only=True)
class EDM2Config(ConditionConfig):
    """Options of EDM2's U-Net; the defaults are EDM2-XS's.

    >>> EDM2Config(size="S").widths
    (192, 384, 576, 768)
    """

    FLAG: ClassVar[str] = "edm2"

    size: Literal["XS", "S", "M", "L", "XL", "XXL"] = "XS"
    """Size of the network, as published."""
    channels: Count | None = None
    """Number of channels of the first level, instead of the size's; None for the
    size's."""
    multipliers: tuple[Count, ...] = (1, 2, 3, 4)
    """Channels of each level, in multiples of the first level's; each further level
    halves the size."""
    blocks: Count = 3
    """Number of blocks per level on the way down; one more on the way up."""
    attention: tuple[Count, ...] = (16, 8)
    """Sizes (larger side) of feature maps with self-attention; the block between the
    way down and the way up always has it."""
    head_channels: Count = 64
    """Number of channels per attention head; it divides the channels of the levels with
    attention."""
    dropout: Share = 0.0
    """Dropout rate in each block."""
    label_balance: Balance = 0.5
    """Share of the class, against the time, in their embedding; also of the level of a
    condition's image, against both."""
    block_balance: Balance = 0.3
    """Share of a block's result, against its input."""
    attention_balance: Balance = 0.3
    """Share of the attention's result, against its input."""
    concat_balance: Balance = 0.5
    """Share of the feature maps of the way down, against those of the way up."""
    limit: Annotated[float, Gt(0)] = 256.0
    """Largest magnitude of a block's result."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Type of the computation; parameters and output are float32."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= len(self.multipliers) <= 20:
            raise InputError(
                f"multipliers must have 1 to 20 levels, got {len(self.multipliers)}"
            )
        for width in (self.widths[-1], *(self.widths if self.attention else ())):
            if width % self.head_channels:
                raise InputError(
                    f"head_channels must divide the channels {width}, got "
                    f"{self.head_channels}"
                )

    @property
    def widths(self) -> tuple[int, ...]:
        """Numbers of channels of the levels."""
        first = self.channels or CHANNELS[self.size]
        return tuple(first * multiplier for multiplier in self.multipliers)

    @property
    def smallest_size(self) -> int:
        """Smallest size of an image that all levels can halve."""
        return int(2 ** (len(self.multipliers) - 1))

    def for_sizes(self, sizes: Sequence[tuple[int, int]]) -> Self:
        """Returns the options with attention in the same levels for all sizes."""
        return replace(self, attention=attention_sizes(self, sizes))

    def check_image_shape(self, height: int, width: int) -> None:
        """Checks that the levels can halve the image's size.

        Raises:
            InputError: a size is not a multiple of 2^(levels - 1).
        """
        check_sides(
            height, width, self.smallest_size,
            f" for {len(self.multipliers)} levels", ", or fewer multipliers",
        )  # fmt: skip

    def build(
        self,
        out_channels: int,
        num_classes: int | None = None,
        in_channels: int | None = None,
    ) -> "EDM2":
        """Makes the network; see `UNetConfig.build`."""
        return EDM2(self, out_channels, num_classes, in_channels)


class EDM2(BaseNetwork):
    """Flax module of EDM2's U-Net; `EDM2Config.build` makes it.

    Its attributes are those of `UNet`.
    """

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the parts of a condition without which it cannot be evaluated."""
        parts: tuple[str, ...] = self.config.image_parts
        return parts

    def example_condition(self, image_shape: tuple[int, ...]) -> Condition:
        """Returns a condition of one example, for images of this shape."""
        return Condition(
            labels=None if self.num_classes is None else jnp.zeros(1, jnp.int32),
            **self.config.example_image(image_shape),
        )

    def normalized(self, params: Params) -> Params:
        """Returns parameters with normalised weights; training calls it."""
        return normalized(params)

    @nn.compact
    def __call__(
        self,
        x: Images,
        t: Timesteps,
        condition: Condition | Labels | None = None,
        keys: Key | None = None,
    ) -> Images:
        """Returns the network's output; arguments and errors are those of `UNet`."""
        config: EDM2Config = self.config
        dtype: Any = jnp.dtype(config.dtype)
        condition = Condition.of(condition)
        x = self.checked(x, t, condition)
        next_keys = key_streams(keys)
        embedding = self.embed(t, condition, next_keys())
        (block_class,) = rematerialised(config.remat, MPBlock)

        def block(
            x: Images, width: int, name: str, decodes: bool = False,
            resample: str | None = None, attends: bool | None = None,
        ) -> Images:  # fmt: skip
            if attends is None:
                attends = resample is None and max(x.shape[1:3]) in config.attention
            layer = block_class(
                width, decodes, attends * width // config.head_channels, dtype,
                resample, config.dropout, config.block_balance,
                config.attention_balance, config.limit, name=name,
            )  # fmt: skip
            return layer(x, embedding, next_keys())

        # A channel of ones stands in for the biases.
        x = jnp.concatenate([x, jnp.ones_like(x[..., :1])], axis=-1)
        x = MPConv(config.widths[0], 3, dtype, name="conv_in")(x)
        skips = [x]
        for level, width in enumerate(config.widths):
            if level > 0:
                x = block(x, x.shape[-1], f"down_{level}", resample="down")
                skips.append(x)
            for i in range(config.blocks):
                x = block(x, width, f"down_{level}_{i}")
                skips.append(x)

        x = block(x, x.shape[-1], "middle_0", decodes=True, attends=True)
        x = block(x, x.shape[-1], "middle_1", decodes=True, attends=False)

        for level, width in reversed(list(enumerate(config.widths))):
            for i in range(config.blocks + 1):
                x = mp_join(x, skips.pop(), config.concat_balance)
                x = block(x, width, f"up_{level}_{i}", decodes=True)
            if level > 0:
                x = block(x, width, f"up_{level}", decodes=True, resample="up")

        x = MPConv(self.out_channels, 3, dtype, gained=True, name="conv_out")(x)
        return x.astype(jnp.float32)

    def embed(self, t: Timesteps, condition: Condition, keys: Key | None) -> Array:
        """Returns the embedding of time and class, [batch, channels]."""
        config: EDM2Config = self.config
        width, dtype = max(config.widths), jnp.dtype(config.dtype)
        features = MPFourier(config.widths[0], name="time_fourier")(
            t.astype(jnp.float32) / TIME_UNIT
        )
        embedding = MPConv(width, None, dtype, name="time")(features)
        if self.num_classes is not None:
            shares = self._shares(condition.labels, t, keys)
            # One class of n has the magnitude 1 / sqrt(n).
            shares *= jnp.sqrt(float(shares.shape[-1]))
            label = MPConv(width, None, dtype, name="label")(shares)
            embedding = mp_sum(embedding, label, config.label_balance)
        if config.second_time:
            # A learned gain, which starts at zero, because weights have a fixed length.
            fourier = MPFourier(config.widths[0], name="end_fourier")
            layer = MPConv(width, None, dtype, gained=True, name="end_2")
            way = way_between(t, condition.end) / TIME_UNIT
            embedding += layer(fourier(way))
        if config.image_level:
            fourier = MPFourier(config.widths[0], name="image_level_fourier")
            layer = MPConv(width, None, dtype, name="image_level")
            level = layer(fourier(condition.image_level))
            embedding = mp_sum(embedding, level, config.label_balance)
        return mp_silu(embedding)

    def _shares(self, labels: Array | None, t: Timesteps, keys: Key | None) -> Array:
        """Returns the share of each class, and of the null class, float32."""
        config, null = self.config, self.num_classes
        assert null is not None, "there are classes"
        if labels is None:
            if not self.is_initializing():
                config.check_null_class()
            labels = jnp.full(t.shape, null if config.null_class else 0)
        if jnp.issubdtype(labels.dtype, jnp.floating):
            if not config.null_class:
                return labels.astype(jnp.float32)
            rest = 1 - labels.sum(axis=1, keepdims=True)
            return jnp.concatenate([labels, rest], axis=1).astype(jnp.float32)
        labels = drop_labels(labels, config.label_dropout, null, keys)
        return jax.nn.one_hot(labels, null + config.null_class, dtype=jnp.float32)
