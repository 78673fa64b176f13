"""U-Net of DDPM (Ho et al. 2020, appendix B), with classes.

    x_t -> conv -> [blocks, down] ... -> middle -> ... [up, blocks] -> conv -> output
              |   every feature map of the way down joins the way up   |

The time (and the class) enters every block. For images of 32x32x3, the default
configuration is DDPM's for CIFAR-10, with its 35,746,307 parameters.
"""

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import flax.linen as nn
import jax.numpy as jnp
from annotated_types import Ge

from jaxdiff.networks.base import BaseNetwork, NetworkConfig, key_streams
from jaxdiff.networks.layers import (
    Attention,
    Downsample,
    Norm,
    ResBlock,
    Upsample,
    conv3x3,
    doubled,
    from_patches,
    halved,
    rematerialised,
    to_patches,
)
from jaxdiff.typing import Condition, Images, Key, Labels, Timesteps


@dataclass(frozen=True, kw_only=True)
class UNetConfig(NetworkConfig):
    """Options of the U-Net; `build` makes the network.

    >>> UNetConfig(channels=32, multipliers=(1, 2)).build(out_channels=1).config.heads
    1
    """

    FLAG: ClassVar[str] = "unet"

    groups: Annotated[int, Ge(1)] = 32
    """Largest number of groups of the normalisation; the number used divides the
    channels."""
    smallest_group: Annotated[int, Ge(1)] = 2
    """Smallest number of channels of a group."""
    resample: Literal["conv", "blocks"] = "conv"
    """Layer that changes the size between two levels: a convolution, or a residual
    block as in ADM."""
    padding: Literal["end", "both"] = "end"
    """Side on which the convolution that halves a size pads: the end, as in TensorFlow
    and DDPM, or both, as in PyTorch."""

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


class UNet(BaseNetwork):
    """Flax module of the U-Net; `UNetConfig.build` makes it.

    Attributes:
        config: options of the network.
        out_channels: number of channels of the output.
        num_classes: number of classes, or None for an unconditional network. Class
            `num_classes` is the null class, which stands for "any".
        in_channels: number of channels of the images; None for `out_channels`.
    """

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
            condition: a `Condition`, or its labels alone. The labels are classes
                [batch], or shares of the classes [batch, num_classes], of which the
                null class takes the rest; None for the null class.
            keys: one key per example in training (for dropout), otherwise None.

        Returns:
            float32 [batch, height, width, out_channels].

        Raises:
            InputError: the shape of an argument does not match.
        """
        config: UNetConfig = self.config
        condition = Condition.of(condition)
        dtype: Any = jnp.dtype(config.dtype)
        x = to_patches(self.checked(x, t, condition), config.patch)
        next_keys = key_streams(keys)
        embedding = self.embed(t, condition, next_keys())

        block_class, attention_class = rematerialised(config.remat, ResBlock, Attention)
        norm = partial(
            Norm, config.groups, dtype, config.smallest_group, config.epsilon
        )

        def block(x: Images, features: int, name: str, resample: Any = None) -> Images:
            layer = block_class(
                features, config.dropout, norm, dtype, config.scale_shift, resample,
                name=name,
            )  # fmt: skip
            return layer(x, embedding, next_keys())

        def attend(x: Images, name: str, norm: Any = norm) -> Images:
            heads = config.head_count(x.shape[-1])
            return attention_class(heads, norm, dtype, name=name)(x)

        def blocks(x: Images, features: int, name: str) -> Images:
            x = block(x, features, f"{name}_block")
            attends = max(x.shape[1:3]) in config.attention
            return attend(x, f"{name}_attention") if attends else x

        def downsample(x: Images, name: str) -> Images:
            if config.resample == "blocks":
                return block(x, x.shape[-1], name, halved)
            return Downsample(dtype, config.padding, name=name)(x)

        def upsample(x: Images, name: str) -> Images:
            if config.resample == "blocks":
                return block(x, x.shape[-1], name, doubled)
            return Upsample(dtype, name=name)(x)

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
            x = attend(x, "middle_attention", config.middle_norm(norm))
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
        return self.divided(from_patches(x.astype(jnp.float32), config.patch), t)
