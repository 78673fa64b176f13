"""Small convolutional classifier, whose features describe an image."""

import flax.linen as nn
import jax.numpy as jnp

from jaxdiff.networks.group_norm import GroupNorm
from jaxdiff.networks.modules import Conv
from jaxdiff.networks.products import Dense
from jaxdiff.typing import Array, Images

_SMALLEST = 8  # smallest side of a feature map that is halved again


class Classifier(nn.Module):
    """Convolutions in levels, each of half the size; a mean over all places; classes.

    Attributes:
        num_classes: number of classes.
        width: number of channels of the first level; it doubles per level, up to 8
            times.
    """

    num_classes: int
    width: int = 16

    @nn.compact
    def __call__(self, x: Images) -> tuple[Array, Array]:
        """Returns features and logits.

        Args:
            x: images [batch, height, width, channels] in [-1, 1].

        Returns:
            The features float32 [batch, channels of the last level], at least 0, and
            the logits float32 [batch, num_classes].
        """

        def layer(x: Array, features: int, strides: int) -> Array:
            x = Conv(features, (3, 3), strides, use_bias=False)(x)
            return nn.relu(GroupNorm(num_groups=min(8, features // 2))(x))

        x = layer(x, self.width, 1)
        level = 0
        while min(x.shape[1:3]) >= _SMALLEST:
            level += 1
            width = self.width * 2 ** min(level, 3)
            x = layer(layer(x, width, 2), width, 1)
        features = jnp.mean(x, axis=(1, 2))
        return features, Dense(self.num_classes)(features)
