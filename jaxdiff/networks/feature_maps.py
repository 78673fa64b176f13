"""Distance of images by the features of a network (Zhang et al. 2018, LPIPS).

    (1)  d(x, y) = mean over layers and places of | f(x) / |f(x)| - f(y) / |f(y)| |^2

Each f is a layer's vector at a place. The weights of the channels are all 1.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdiff.networks.inception import Inception
from jaxdiff.typing import Array, Images

EPSILON = 1e-10
"""Number added to the square of a vector's length."""


def feature_distance(network: Any, variables: Any, x: Images, y: Images) -> Array:
    """Returns the distance of each pair of images, equation (1), float32 [batch].

    Args:
        network: `Classifier`, whose convolutions are the layers, or `Inception`, whose
            parts are.
        variables: variables of the network.
        x: images [batch, height, width, channels] in [-1, 1].
        y: images of the same shape.
    """
    pairs = zip(*(_maps(network, variables, images) for images in (x, y)), strict=True)
    return jnp.stack([_of_layer(*pair) for pair in pairs]).mean(axis=0)


def _of_layer(x: Array, y: Array) -> Array:
    square = jnp.sum(jnp.square(_unit(x) - _unit(y)), axis=-1)
    return square.reshape(len(square), -1).mean(axis=1)


def _unit(x: Array) -> Array:
    length = jnp.sqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True) + EPSILON)
    return x / length


def _maps(network: Any, variables: Any, images: Images) -> list[Array]:
    """Returns the features [batch, ..., channels] of each layer."""
    if isinstance(network, Inception):
        grey = images.shape[-1] == 1
        colour = jnp.repeat(images, 3, axis=-1) if grey else images
        found: Any = network.apply(variables, (colour + 1) / 2)
        return list(found)
    _, state = network.apply(
        variables, images, mutable="intermediates",
        capture_intermediates=lambda module, _: isinstance(module, nn.Conv),
    )  # fmt: skip
    return jax.tree.leaves(state["intermediates"])
