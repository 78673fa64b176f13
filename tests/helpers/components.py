"""Published components on random parameters."""

import jax
import numpy as np

from jaxdiff.components.component import param_shapes


def random_params(network, seed=0, scale=0.2):
    """Returns random parameters of a text encoder or an autoencoder."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: (scale * rng.normal(size=leaf.shape)).astype(np.float32),
        param_shapes(network),
    )
