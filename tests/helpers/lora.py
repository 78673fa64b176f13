"""Adapters on random numbers."""

import re

import jax.numpy as jnp
import numpy as np

from jaxdiff.adapters import LoRA, LoRALayer
from jaxdiff.storage.read_state import by_name


def random_lora(params, pattern=".*", seed=0, scale=0.3):
    """Returns an adapter of all layers that match, with ranks 1 to 3 and any alphas."""
    rng = np.random.default_rng(seed)
    layers = {}
    for name, leaf in by_name(params).items():
        if not name.endswith("/kernel") or not re.search(pattern, name):
            continue
        rank = int(rng.integers(1, 4))
        ones = (1,) * (len(leaf.shape) - 2)
        down = scale * rng.normal(size=(*leaf.shape[:-1], rank))
        up = scale * rng.normal(size=(*ones, rank, leaf.shape[-1]))
        layers[name] = LoRALayer(
            jnp.asarray(down, jnp.float32), jnp.asarray(up, jnp.float32),
            jnp.float32(rng.uniform(0.3, 2)),
        )  # fmt: skip
    return LoRA(layers)
