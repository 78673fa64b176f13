"""Loss of an autoencoder (Esser et al. 2021, VQGAN; Rombach et al. 2022, appendix G).

    (1)  L = mean over pixels of |x - y| or (x - y)^2
             + w_f d(x, y) + w_kl KL(q(z | x) || N(0, 1)) / D
    (2)  KL = sum over latents of (mean^2 + variance - 1 - log variance) / 2
    (3)  L_G = L - lambda w_g mean D(y)
    (4)  lambda = |grad L| / (|grad mean D(y)| + 1e-4), at the decoder's last layer
    (5)  L_D = mean max(0, 1 - D(x)) / 2 + mean max(0, 1 + D(y)) / 2

x is an image of D numbers, y its reconstruction, d the distance of their features and D
a patch discriminator. In the published code, all terms of (1) are sums over an image,
so that the weights agree.
"""

from typing import Literal

import jax.numpy as jnp

from jaxdiff.typing import Array, Images

Norm = Literal["l1", "l2"]
MOST = 1e4
"""Largest lambda."""


def pixel_loss(x: Images, y: Images, norm: Norm) -> Array:
    """Returns the mean distance of the pixels of each image [batch], equation (1)."""
    apart = jnp.abs(x - y) if norm == "l1" else jnp.square(x - y)
    return apart.reshape(len(x), -1).mean(axis=1)


def kl_of_latents(mean: Array, log_variance: Array) -> Array:
    """Returns the divergence from a standard Gaussian of each image [batch], (2)."""
    terms = jnp.square(mean) + jnp.exp(log_variance) - 1 - log_variance
    return terms.reshape(len(mean), -1).sum(axis=1) / 2


def hinge_loss(real: Array, fake: Array) -> Array:
    """Returns the discriminator's loss, equation (5).

    Args:
        real: numbers of images' patches [batch, h, w].
        fake: numbers of the reconstructions' patches.
    """
    above = jnp.maximum(0, 1 - real).mean()
    below = jnp.maximum(0, 1 + fake).mean()
    return (above + below) / 2


def adaptive_weight(reconstruction: Array, adversarial: Array) -> Array:
    """Returns lambda, equation (4), from the gradients at the last layer."""
    lengths = [jnp.sqrt(jnp.sum(jnp.square(g))) for g in (reconstruction, adversarial)]
    return jnp.clip(lengths[0] / (lengths[1] + 1e-4), 0, MOST)
