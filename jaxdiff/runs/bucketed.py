"""Training on images in buckets, whose size changes from step to step."""

from dataclasses import replace
from typing import Any

from jaxdiff.conditioning.low_resolution import LowResolution
from jaxdiff.data import Buckets, Dataset
from jaxdiff.errors import InputError, first_few
from jaxdiff.serialization import differences
from jaxdiff.storage.read_state import by_name
from jaxdiff.training.experiment import Experiment
from jaxdiff.training.model import Model, param_shapes
from jaxdiff.typing import Network, Params


def for_buckets(
    experiment: Experiment, dataset: Dataset, network: Network | None
) -> Experiment:
    """Returns the experiment with a network for images of all sizes of a dataset.

    Args:
        experiment: the experiment.
        dataset: images in buckets.
        network: a network of your own in place of the experiment's, or None.

    Raises:
        InputError: the network or another option does not fit.
    """
    per_dispatch = experiment.training.steps_per_dispatch
    if per_dispatch > 1:
        raise InputError(
            "training.steps_per_dispatch must be 1 for images in buckets, whose size "
            f"changes from step to step, got {per_dispatch}. Leave it out."
        )
    if isinstance(experiment.condition, LowResolution):
        for part in dataset.buckets:
            experiment.condition.small_shape(part.image_shape)
    if network is not None:
        return experiment
    others = [part.image_shape for part in dataset.buckets]
    sizes = [(height, width) for height, width, _ in (dataset.image_shape, *others)]
    options: Any = experiment.network.for_sizes(sizes)
    for size in sizes:
        options.check_image_shape(*size)
    return replace(experiment, network=options)


def check_squares(dataset: Dataset) -> None:
    """Raises `InputError` for images in buckets; only diffusion models take them."""
    if isinstance(dataset.images, Buckets):
        raise InputError(
            "data.buckets must be 0 for an autoencoder, towers or unCLIP, got images "
            f"of {len(dataset.buckets)} sizes. Train on squares; encode takes buckets."
        )


def check_sizes(model: Model, dataset: Dataset) -> None:
    """Checks that a network has the same parameters for all sizes of images.

    Raises:
        InputError: some depend on the size.
    """
    network: Any = model.network
    known = shapes_by_name(model.param_shapes())
    for part in dataset.buckets:
        params = param_shapes(network, part.image_shape, model.num_classes)
        found = differences(known, shapes_by_name(params))
        if found:
            height, width, _ = part.image_shape
            raise InputError(
                "network must have the same parameters for images of every size, got "
                f"others for {height}x{width} ({first_few(found)}). Set data.buckets "
                "to 0, or take another network."
            )


def shapes_by_name(params: Params) -> dict[str, list[int]]:
    """Returns the shape of each parameter, by its name."""
    return {name: list(leaf.shape) for name, leaf in by_name(params).items()}
