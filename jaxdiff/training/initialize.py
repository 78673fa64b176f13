"""The network and the train state of an experiment."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxdiff.networks import UNet
from jaxdiff.storage.checkpoints import leaf_name
from jaxdiff.training.experiment import DataInfo, Experiment
from jaxdiff.training.state import TrainState
from jaxdiff.typing import Array


def placed(shapes: Any, shardings: Any) -> Any:
    """Shapes with the place where each array shall lie."""
    return jax.tree.map(
        lambda a, sharding: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding),
        shapes, shardings,
    )  # fmt: skip


def build_network(experiment: Experiment, info: DataInfo) -> UNet:
    """The experiment's network for such data."""
    experiment.network.check_image_shape(*info.image_shape[:2])
    channels = info.image_shape[-1]
    outputs = channels * (1 + experiment.prediction.learn_variance)
    return experiment.network.build(outputs, info.num_classes, in_channels=channels)


def init_state(
    experiment: Experiment, info: DataInfo, start: Mapping[str, Array] | None = None
) -> TrainState:
    """The train state at step 0; parameters that `start` names are those there."""
    network = build_network(experiment, info)
    images, times = jnp.zeros((1, *info.image_shape)), jnp.zeros(1, jnp.int32)
    params = network.init(jax.random.key(experiment.seed), images, times)["params"]
    if start:
        params = jax.tree.map_with_path(
            lambda path, leaf: start.get(leaf_name(path), leaf), params
        )
    optimizer = experiment.optimizer.build(experiment.training.num_steps)
    memory = experiment.objective.times.init()
    num_tracks = len(experiment.training.ema_lengths)
    return TrainState.create(params, optimizer, memory, num_tracks)
