"""Patch discriminator (Isola et al. 2017, PatchGAN): a number for each patch.

Group normalisation stands in for the original's batch normalisation, so that the output
of an image does not depend on the others.
"""

import flax.linen as nn
import jax.numpy as jnp

from jaxdiff.networks.group_norm import GroupNorm
from jaxdiff.networks.modules import Conv
from jaxdiff.typing import Array, Images

SLOPE = 0.2
"""Slope of the leaky rectifier for negative numbers."""
MOST = 8
"""Largest ratio of a layer's channels to those of the first."""


class PatchDiscriminator(nn.Module):
    """Convolutions of 4x4 pixels, each of half the size, and two at the last size.

    Attributes:
        channels: number of channels of the first layer; it doubles per layer.
        layers: number of convolutions that halve the size.
    """

    channels: int = 32
    layers: int = 2

    @nn.compact
    def __call__(self, x: Images) -> Array:
        """Returns the numbers [batch, h, w], high for patches of real images.

        Args:
            x: images [batch, height, width, channels] in [-1, 1].
        """
        for i in range(self.layers + 1):
            features = self.channels * min(2**i, MOST)
            strides = 2 if i < self.layers else 1
            x = Conv(features, (4, 4), strides, use_bias=i == 0)(x)
            if i:
                x = GroupNorm(num_groups=min(8, features))(x)
            x = nn.leaky_relu(x, SLOPE)
        return jnp.squeeze(Conv(1, (4, 4))(x), -1)
