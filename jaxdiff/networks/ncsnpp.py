"""NCSN++ (Song et al. 2021, appendix H): a U-Net that sees and sums smaller images.

(1)  way down:  s <- fir_halved(s),  h <- block(fir_halved(h)) + conv1x1(s);  s_0 = x_t
(2)  way up:    s <- fir_doubled(s + conv3x3(swish(norm(h))));  output = conv(h) + s
(3)  blocks:    (x + f(x)) / sqrt(2)

Sizes change by the filter [1, 3, 3, 1] (Karras et al. 2020, StyleGAN2) instead of means
and copies. On the way up, attention follows the last block of a level only. As in
diffusers' Skip blocks, a norm has min(channels / 4, 32) groups, and 32 in and before
attention.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
from annotated_types import Ge, Gt

from jaxdiff.errors import InputError
from jaxdiff.networks.base import BaseNetwork, NetworkConfig, key_streams
from jaxdiff.networks.layers import (
    Attention,
    Norm,
    ResBlock,
    conv3x3,
    from_patches,
    rematerialised,
    to_patches,
)
from jaxdiff.networks.products import Dense
from jaxdiff.typing import Condition, Images, Key, Labels, Timesteps

_GROUPS = 32
"""Number of groups of the norms in and before attention, and most of the others'."""


@dataclass(frozen=True, kw_only=True)
class NCSNppConfig(NetworkConfig):
    """Options of NCSN++; `build` makes the network.

    The published network for CIFAR-10 has 4 blocks, embedding=Fourier(divide=True), and
    61,894,924 parameters.
    """

    FLAG: ClassVar[str] = "ncsnpp"

    groups: Annotated[int, Ge(1)] | None = None
    """Number of groups of the norms in the middle and before the output, a divisor of
    their channels; None for min(channels / 4, 32)."""
    middle_divisor: Annotated[float, Gt(0)] = math.sqrt(2)
    """Number that divides the outputs of the middle's layers, sqrt(2) in equation
    (3)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for width in self.widths:
            if width % _GROUPS:
                raise InputError(
                    f"channels of NCSN++ must be multiples of {_GROUPS} in each level, "
                    f"got {width}"
                )
        for width in (self.widths[0], self.widths[-1]):
            if self.groups is not None and width % self.groups:
                raise InputError(
                    f"groups must divide the channels {width} of the first and the "
                    f"last level, got {self.groups}"
                )

    def build(
        self,
        out_channels: int,
        num_classes: int | None = None,
        in_channels: int | None = None,
    ) -> "NCSNpp":
        """Makes the network; see `UNetConfig.build`."""
        return NCSNpp(self, out_channels, num_classes, in_channels)


class NCSNpp(BaseNetwork):
    """Flax module of NCSN++; `NCSNppConfig.build` makes it.

    Its attributes are those of `UNet`.
    """

    @nn.compact
    def __call__(
        self,
        x: Images,
        t: Timesteps,
        condition: Condition | Labels | None = None,
        keys: Key | None = None,
    ) -> Images:
        """Returns the network's output; arguments and errors are those of `UNet`."""
        config: NCSNppConfig = self.config
        dtype: Any = jnp.dtype(config.dtype)
        condition = Condition.of(condition)
        x = to_patches(self.checked(x, t, condition), config.patch)
        next_keys = key_streams(keys)
        embedding = self.embed(t, condition, next_keys())

        block_class, attention_class = rematerialised(config.remat, ResBlock, Attention)

        def norm(groups: int | None, name: str) -> Norm:
            smallest = 4 if groups is None else 1
            return Norm(groups or _GROUPS, dtype, smallest, config.epsilon, name=name)

        quarter, full = partial(norm, None), partial(norm, _GROUPS)
        outer = partial(norm, config.groups)

        def before_attention(name: str) -> Norm:
            return (full if name == "norm_1" else quarter)(name=name)

        def block(
            x: Images, features: int, name: str, resample: Any = None,
            norm: Any = quarter, divisor: float = math.sqrt(2),
        ) -> Images:  # fmt: skip
            layer = block_class(
                features, config.dropout, norm, dtype, config.scale_shift, resample,
                resample is not None, divisor, name=name,
            )  # fmt: skip
            return layer(x, embedding, next_keys())

        def attend(
            x: Images, name: str, norm: Any = full, divisor: float = math.sqrt(2)
        ) -> Images:
            heads = config.head_count(x.shape[-1])
            return attention_class(heads, norm, dtype, divisor, name=name)(x)

        def attends(x: Images) -> bool:
            return max(x.shape[1:3]) in config.attention

        image = x
        x = conv3x3(config.channels, dtype, "conv_in")(x)
        skips = [x]
        for level, width in enumerate(config.widths):
            if level > 0:
                x = block(x, x.shape[-1], f"down_{level}_halve", fir_halved)
                image = fir_halved(image)  # equation (1)
                name = f"down_{level}_image"
                x += Dense(x.shape[-1], dtype=dtype, name=name)(image)
                skips.append(x)
            for i in range(config.blocks):
                x = block(x, width, f"down_{level}_{i}_block")
                if attends(x):
                    x = attend(x, f"down_{level}_{i}_attention")
                skips.append(x)

        middle: Any = {"norm": outer, "divisor": config.middle_divisor}
        x = block(x, x.shape[-1], "middle_0_block", **middle)
        if config.middle != "no-attention":
            norm_of = config.middle_norm(outer)
            x = attend(x, "middle_attention", norm_of, config.middle_divisor)
        x = block(x, x.shape[-1], "middle_1_block", **middle)

        # Outputs begin at 0.
        outputs, zeros = self.out_channels * config.patch**2, nn.initializers.zeros
        conv_image = partial(conv3x3, outputs, dtype, init=zeros)
        image = jnp.zeros((*x.shape[:3], outputs), dtype)
        for level, width in reversed(list(enumerate(config.widths))):
            for i in range(config.blocks + 1):
                x = jnp.concatenate([x, skips.pop()], axis=-1)
                kind = before_attention if attends(x) else quarter
                x = block(x, width, f"up_{level}_{i}_block", norm=kind)
            if attends(x):
                x = attend(x, f"up_{level}_attention")
            if level > 0:
                h = nn.swish(quarter(name=f"up_{level}_image_norm")(x))
                image += conv_image(name=f"up_{level}_image")(h)
                image = fir_doubled(image)  # equation (2)
                x = block(x, width, f"up_{level}_double", fir_doubled)

        x = nn.swish(outer(name="norm_out")(x))
        x = conv_image(name="conv_out")(x) + image
        return self.divided(from_patches(x.astype(jnp.float32), config.patch), t)


def fir_halved(x: Images) -> Images:
    """Halves height and width of x [batch, height, width, channels].

    Each number is the mean of four in each direction, with weights [1, 3, 3, 1] / 8 and
    zeros around the image.
    """
    for axis in (1, 2):
        padding = [(int(i == axis), int(i == axis)) for i in range(4)]
        x = jnp.moveaxis(jnp.pad(x, padding), axis, 0)
        x = (x[:-3:2] + 3 * x[1:-2:2] + 3 * x[2:-1:2] + x[3::2]) / 8
        x = jnp.moveaxis(x, 0, axis)
    return x


def fir_doubled(x: Images) -> Images:
    """Doubles height and width of x [batch, height, width, channels].

    The numbers are weighted by [3, 1] / 4 with those of the nearest two pixels in each
    direction, and zeros around the image.
    """
    for axis in (1, 2):
        padding = [(int(i == axis), int(i == axis)) for i in range(4)]
        x = jnp.moveaxis(jnp.pad(x, padding), axis, 0)
        both = (x[:-2] + 3 * x[1:-1]) / 4, (3 * x[1:-1] + x[2:]) / 4
        x = jnp.stack(both, axis=1).reshape(-1, *x.shape[1:])
        x = jnp.moveaxis(x, 0, axis)
    return x
