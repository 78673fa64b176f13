"""Model, task, recipe and initial train state of an experiment."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax

from jaxdiff.conditioning.image_condition import ImageVector, check_vectors
from jaxdiff.conditioning.low_resolution import LowResolution
from jaxdiff.denoisers.network import taken_by
from jaxdiff.errors import InputError
from jaxdiff.training.experiment import AnyExperiment, DataInfo, Experiment
from jaxdiff.training.model import Model, describe_network
from jaxdiff.training.recipe import Recipe, state_shapes
from jaxdiff.training.state import TrainState
from jaxdiff.training.task import Diffusion, Task
from jaxdiff.typing import AnySchedule, Array, Network


def build_model(
    experiment: Experiment,
    info: DataInfo,
    network: Network | None = None,
    schedule: AnySchedule | None = None,
) -> Model:
    """Returns the experiment's model for data of this description.

    Args:
        experiment: Configuration.
        info: Shape and classes of the data.
        network: Your own network instead of the experiment's, or None.
        schedule: Result of `experiment.schedule.build()`, or None to build the
            schedule.

    Raises:
        InputError: If the network does not fit the images or the classes.
    """
    if network is None:
        options: Any = experiment.network
        options.check_image_shape(*info.image_shape[:2])
        channels = info.image_shape[-1]
        outputs = channels * (1 + experiment.prediction.learn_variance)
        if isinstance(experiment.condition, LowResolution):
            changes = experiment.condition.network_options(options, channels)
            options = replace(options, **changes)
        network = options.build(outputs, info.num_classes, channels)
    if isinstance(experiment.condition, ImageVector):
        check_vectors(network, taken_by(network))
    _check_low_resolution(experiment, info, network)
    return Model(
        network,
        experiment.schedule.build() if schedule is None else schedule,
        experiment.prediction,
        info.image_shape,
        info.num_classes,
        info.data_range,
    )


def _check_low_resolution(
    experiment: Experiment, info: DataInfo, network: Network
) -> None:
    """Raises `InputError` if data or network do not fit super-resolution."""
    if not isinstance(experiment.condition, LowResolution):
        return
    if info.data_range is None:
        raise InputError(
            "condition must be none for latents, whose means are no small images, got "
            "low-resolution. Train on images, or leave it out."
        )
    experiment.condition.small_shape(info.image_shape)
    if "image" not in taken_by(network):
        raise InputError(
            f"the network {type(network).__name__} must take an image for the "
            f"condition low-resolution, got {' and '.join(taken_by(network)) or 'none'}"
            '. Give it takes = ("image", "image_level").'
        )


def with_network(info: DataInfo, network: Network | None) -> DataInfo:
    """Returns the data's description, extended by your own network's, if any."""
    return info._replace(network=None if network is None else describe_network(network))


def diffusion_of(experiment: Experiment, model: Model) -> Diffusion:
    """Returns the task of training an experiment's diffusion model."""
    condition = experiment.condition
    low = condition if isinstance(condition, LowResolution) else None
    return Diffusion(model, experiment.objective, experiment.low_rank, low)


def build_task(experiment: AnyExperiment, info: DataInfo) -> Task:
    """Returns the task of an experiment for data of this description."""
    if isinstance(experiment, Experiment):
        return diffusion_of(experiment, build_model(experiment, info))
    return experiment.task_of(info)


def recipe_of(experiment: AnyExperiment, task: Task) -> Recipe:
    """Returns the recipe by which an experiment trains its task."""
    training = experiment.training
    return Recipe(
        task=task,
        optimizer=experiment.optimizer,
        num_steps=training.num_steps,
        ema_decay=training.ema_decay,
        ema_lengths=training.ema_lengths,
        seed=experiment.seed,
        accumulate=training.accumulate,
        guard=training.nonfinite != "go-on",
    )


def init_state(
    experiment: AnyExperiment,
    info: DataInfo,
    start: Mapping[str, Array] | None = None,
) -> TrainState:
    """Returns the train state at step 0; `start` replaces parameters by name."""
    return recipe_of(experiment, build_task(experiment, info)).init(start)


def init_shapes(
    experiment: AnyExperiment, info: DataInfo, network: Network | None = None
) -> TrainState:
    """Returns the shapes and types of an experiment's train state.

    Args:
        experiment: Configuration.
        info: Shape and classes of the data.
        network: Your own network of a diffusion model, or None.
    """
    if isinstance(experiment, Experiment) and network is not None:
        task: Task = diffusion_of(experiment, build_model(experiment, info, network))
    else:
        task = build_task(experiment, info)
    return state_shapes(recipe_of(experiment, task))


def placed(shapes: Any, shardings: Any) -> Any:
    """Returns shapes that carry the sharding of each array."""
    return jax.tree.map(
        lambda a, sharding: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding),
        shapes, shardings,
    )  # fmt: skip
