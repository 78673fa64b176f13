"""Networks that a user could write: a small MLP and a small convolutional network."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from jaxdiff.conditions import drop_parts
from jaxdiff.networks import timestep_embedding
from jaxdiff.networks.layers import dropout
from jaxdiff.typing import Condition


class MLP(nn.Module):
    """Unconditional network of two dense layers, without dropout."""

    width: int = 16

    @nn.compact
    def __call__(self, x, t, labels=None, keys=None):
        time = timestep_embedding(t, self.width)
        hidden = nn.Dense(self.width)(x.reshape(len(x), -1)) + nn.Dense(self.width)(
            time
        )
        return nn.Dense(x[0].size)(nn.swish(hidden)).reshape(x.shape)


class ConvNet(nn.Module):
    """Class-conditional network: two convolutions, time and class added in between."""

    width: int = 8
    num_classes: int | None = None

    @nn.compact
    def __call__(self, x, t, labels=None, keys=None):
        embedding = nn.Dense(self.width)(timestep_embedding(t, self.width))
        if labels is not None:
            embedding += nn.Embed((self.num_classes or 0) + 1, self.width)(labels)
        hidden = nn.Conv(self.width, (3, 3))(x) + embedding[:, None, None]
        return nn.Conv(x.shape[-1], (3, 3))(nn.swish(hidden))


class Wide(nn.Module):
    """Class-conditional network with dropout, and arrays large enough to shard."""

    width: int = 64
    num_classes: int | None = None

    @nn.compact
    def __call__(self, x, t, labels=None, keys=None):
        hidden = nn.Dense(self.width)(x.reshape(len(x), -1))
        hidden += nn.Dense(self.width)(timestep_embedding(t, self.width))
        if labels is not None:
            hidden += nn.Embed((self.num_classes or 0) + 1, self.width)(labels)
        hidden = dropout(nn.swish(hidden), 0.2, keys)
        return nn.Dense(x[0].size)(hidden).reshape(x.shape)


class Unlike(nn.Module):
    """Network that cannot be called with labels and keys."""

    @nn.compact
    def __call__(self, x, t):
        return nn.Dense(x.shape[-1])(x)


class Batchwise(nn.Module):
    """Network with variables besides its parameters."""

    @nn.compact
    def __call__(self, x, t, labels=None, keys=None):
        return nn.BatchNorm(use_running_average=False)(x)


def toy_images(num=64, size=4):
    """Returns images [num, size, size, 1] with a bright and a dark half in turn."""
    half = np.where(np.arange(size) < size // 2, 0.8, -0.8)
    signs = np.where(np.arange(num) % 2, 1.0, -1.0)
    images = signs[:, None, None, None] * half[:, None]
    return np.broadcast_to(images, (num, size, size, 1)).astype(np.float32)


class TextNet(nn.Module):
    """Network that takes a text with its mask, a vector and an image."""

    width: int = 8
    dropout: float = 0.0
    takes = ("text", "mask", "vector", "image")

    def example_condition(self, image_shape):
        """Returns a condition of one example."""
        return Condition(
            text=jnp.zeros((1, 3, 5)), mask=jnp.ones((1, 3), bool),
            vector=jnp.zeros((1, 6)), image=jnp.zeros((1, *image_shape)),
        )  # fmt: skip

    @nn.compact
    def __call__(self, x, t, condition=None, keys=None):
        given = drop_parts(
            condition or Condition(), keys, text=self.dropout, vector=self.dropout
        )
        hidden = nn.Dense(self.width)(timestep_embedding(t, self.width))
        if given.text is not None:
            mask = jnp.ones(given.text.shape[:2], bool)
            mask = mask if given.mask is None else given.mask
            weight = mask[..., None].astype(x.dtype)
            tokens = nn.Dense(self.width, name="text")(given.text)
            hidden += (tokens * weight).sum(axis=1) / weight.sum(axis=1)
        if given.vector is not None:
            hidden += nn.Dense(self.width, name="vector")(given.vector)
        if given.image is not None:
            x = jnp.concatenate([x, given.image], axis=-1)
        hidden = nn.Conv(self.width, (3, 3))(x) + hidden[:, None, None]
        return nn.Conv(1, (3, 3))(nn.swish(hidden))
