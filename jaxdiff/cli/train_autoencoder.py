"""The command `train-autoencoder`, and the features that its training needs."""

import math
import time
from typing import Any

import jax
import numpy as np

from jaxdiff.cli.progress import bar
from jaxdiff.cli.train import (
    TrainOptions,
    finish,
    steps_line,
    train_devices,
)
from jaxdiff.errors import InputError, printable
from jaxdiff.evaluation.feature_classifier import Recipe, classifier_of
from jaxdiff.networks.inception import inception_variables
from jaxdiff.parallel import cpu_devices
from jaxdiff.parallel.processes import is_first
from jaxdiff.report import page
from jaxdiff.runs.autoencoder import parts_of_autoencoder
from jaxdiff.runs.bucketed import check_squares
from jaxdiff.runs.data_of_run import load_data
from jaxdiff.runs.trainer import Trainer
from jaxdiff.storage.files import expanded
from jaxdiff.storage.read_state import by_name
from jaxdiff.storage.torch_pickle import read_torch
from jaxdiff.training.autoencoder_experiment import (
    AutoencoderExperiment,
    ClassifierFeatures,
    InceptionFeatures,
)
from jaxdiff.training.experiment import AnyExperiment
from jaxdiff.training.model import num_parameters
from jaxdiff.training.recipe import state_shapes


def train_autoencoder(options: TrainOptions, experiment: AutoencoderExperiment) -> None:
    """Trains an autoencoder, measures the scale of its latents, and writes its page."""
    cpu_devices.use(train_devices(experiment))
    start, workdir = time.monotonic(), options.workdir
    finish(trainer_of(experiment), workdir, summary, start)
    scaling = parts_of_autoencoder(workdir).autoencoder.scaling
    spread = " ".join(f"{value:.3g}" for value in scaling.deviation or ())
    print(
        printable(
            f"deviation of the latents per channel: {spread}. Encode images with "
            f"jaxdiff encode --model {workdir}, export to diffusers with jaxdiff "
            f"export {workdir} DIR"
        )
    )
    if is_first():
        page.refresh(workdir)


def trainer_of(experiment: AnyExperiment) -> Trainer:
    """Returns the trainer of any experiment, with the features that it needs.

    Raises:
        InputError: options do not fit each other, the data or the devices.
    """
    frozen: dict[str, Any] = {}
    if isinstance(experiment, AutoencoderExperiment):
        variables = _variables(experiment)
        if variables is not None:
            frozen = by_name({"features": jax.tree.map(np.asarray, variables)})
    return Trainer.of(experiment, frozen=frozen)


def _variables(experiment: AutoencoderExperiment) -> Any:
    """Returns the variables of the network of features, or None."""
    features = experiment.features
    if isinstance(features, InceptionFeatures):
        if not features.path:
            raise InputError(
                "features.path must be a file for inception, got none. Name "
                "pt_inception-2015-12-05-6726825d.pth of the package pytorch-fid."
            )
        return inception_variables(read_torch(expanded(features.path)))
    if not isinstance(features, ClassifierFeatures):
        return None
    dataset = load_data(experiment, "train")
    check_squares(dataset)
    recipe = Recipe(num_steps=features.num_steps, seed=features.seed)
    recipe = recipe.for_data(dataset)
    with bar(recipe.steps, "classifier", "step") as on_step:
        return {"params": classifier_of(dataset, recipe, on_step).params}


def summary(trainer: Trainer) -> list[str]:
    """Returns lines on the data, the network and the steps of a training."""
    experiment = trainer.experiment
    assert isinstance(experiment, AutoencoderExperiment), "an autoencoder"
    data = trainer.dataset
    size = num_parameters(state_shapes(trainer.recipe).params["autoencoder"])
    factor = experiment.task_of(trainer.info).network.config.factor
    height, width, _ = data.image_shape
    latents = (
        height // factor,
        width // factor,
        experiment.autoencoder.latent_channels,
    )
    ratio = math.prod(data.image_shape) / math.prod(latents)
    shapes = ["x".join(map(str, shape)) for shape in (data.image_shape, latents)]
    return [
        f"data: {len(data):,} images of {shapes[0]} to train on",
        f"autoencoder: {size:,} parameters, latents of {shapes[1]}, {ratio:.3g} "
        "times fewer numbers",
        steps_line(trainer, "image"),
    ]
