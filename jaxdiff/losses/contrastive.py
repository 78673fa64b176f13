"""Contrastive loss of images and texts, for a whole batch (Radford et al. 2021, CLIP).

    (1)  s_ij = exp(l) u_i . v_j
    (2)  p_ij = [text i = text j] / number of examples whose text is text i
    (3)  L = -mean_i sum_j p_ij (log softmax_j s_ij + log softmax_j s_ji) / 2

u_i and v_i are the vectors of image i and its text, and exp(l) is a learned scale.
Several images of one text are all right for it, equation (2), as in UniCL (Yang et al.
2022). If all texts differ, p is the identity, and (3) is the loss of CLIP.
"""

import jax
import jax.numpy as jnp
import optax

from jaxdiff.typing import Array

HIDDEN = -1e9
"""Product of an example that does not count."""


def contrastive_loss(
    images: Array, texts: Array, log_scale: Array, numbers: Array, weight: Array
) -> tuple[Array, dict[str, Array]]:
    """Returns equation (3), and its metrics.

    Args:
        images: vectors of the images, of length 1, [batch, features].
        texts: vectors of their texts, of the same shape.
        log_scale: logarithm of the scale [].
        numbers: integers [batch], equal for equal texts.
        weight: 1 for examples that count, 0 for those without a text, [batch].

    Returns:
        The loss [], and metrics: the scale, and the share of images whose largest
        product in the batch is with their text, and the other way round.
    """
    # GPUs would round the factors to TensorFloat-32, which the scale makes visible.
    products = jnp.matmul(images, texts.T, precision=jax.lax.Precision.HIGHEST)
    scores = jnp.where(weight[None] > 0, jnp.exp(log_scale) * products, HIDDEN)
    back = jnp.where(weight[None] > 0, jnp.exp(log_scale) * products.T, HIDDEN)
    right = (numbers[:, None] == numbers[None]) & (weight[:, None] * weight[None] > 0)
    targets = right / jnp.maximum(right.sum(axis=1, keepdims=True), 1)

    def mean(values: Array) -> Array:
        return (weight * values).sum() / jnp.maximum(weight.sum(), 1)

    def found(scores: Array) -> Array:
        best = jnp.argmax(scores, axis=1)[:, None]
        return mean(jnp.take_along_axis(targets, best, axis=1)[:, 0] > 0)

    losses = [optax.softmax_cross_entropy(s, targets) for s in (scores, back)]
    loss = mean((losses[0] + losses[1]) / 2)
    return loss, {
        "loss": loss,
        "text_found": found(scores),
        "image_found": found(back),
        "scale": jnp.exp(log_scale),
    }
