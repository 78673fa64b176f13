"""Training run that takes a second, for tests of the code around a run."""

import jax
import numpy as np

import jaxdiff as jd
from jaxdiff.training.experiment import Sampling, Training, Upkeep
from jaxdiff.training.optimizer import Optimizer
from tests.helpers.own_networks import Wide

NETWORK = jd.UNetConfig(
    channels=4,
    multipliers=(1,),
    blocks=1,
    attention=(),
    groups=2,
    middle="no-attention",
)
"""U-Net with the fewest arrays."""
TINY = jd.Experiment(
    schedule=jd.Linear(num_steps=20, beta_start=1e-3, beta_end=0.6),
    network=NETWORK,
    optimizer=Optimizer(learning_rate=1e-2, warmup_steps=2),
    training=Training(num_steps=8, batch_size=16, ema_decay=0.9),
    upkeep=Upkeep(log_every=2, checkpoint_every=4),
    sampling=Sampling(chunk=8),
)
OWN = Wide(num_classes=10)
"""Network of few arrays, which is compiled and saved quickly."""


def trained(workdir, experiment=TINY, **options):
    """Trains in a folder, with the promotion of types that Optax needs.

    Returns the final state.
    """
    with jax.numpy_dtype_promotion("standard"):
        state = jd.train(experiment, workdir, progress=False, **options)
    return jax.device_get(state)


def same_bits(a, b):
    """Returns True if two trees have the same leaves."""
    return all(
        np.array_equal(x, y)
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )
