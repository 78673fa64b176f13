"""The trained autoencoder of a run folder, and its published form.

`parts_of_autoencoder` writes the newest averaged parameters to the run's parts/ as
diffusers' folder, with mean and deviation of each channel of the latents over the
training images. The folder is what encode, export and models of latents use.
"""

import dataclasses
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff import serialization
from jaxdiff.components.component import Component, write_component
from jaxdiff.data import Dataset, order, to_float
from jaxdiff.latents import Autoencoder
from jaxdiff.networks.autoencoder_kl import LatentScaling
from jaxdiff.parallel import Parallel, Pmap
from jaxdiff.parallel.processes import is_first, wait_for_all
from jaxdiff.runs.averaged import read_averaged
from jaxdiff.runs.data_of_run import training_data
from jaxdiff.runs.folder import is_kind, read_kind
from jaxdiff.runs.identity import identity
from jaxdiff.runs.parts import Parts, checksums_of, parts_of_model, read_parts
from jaxdiff.runs.parts_info import PARTS, RECORD, PartsInfo
from jaxdiff.storage.files import read_json, write_json_atomic
from jaxdiff.training.autoencoder_experiment import AutoencoderExperiment
from jaxdiff.training.experiment import DataInfo
from jaxdiff.typing import Array, Images, Params

NAME = "vae"
"""Folder of the autoencoder among the parts."""
OF = "of.json"
"""File with the identity of the parameters among the parts."""
MOST = 10_000
"""Largest number of images that the scale of the latents is measured on."""
CHUNK = 64
"""Images per chunk over all devices."""


@dataclass(frozen=True)
class AutoencoderRun:
    """A trained autoencoder, as `load_autoencoder` returns it.

    Attributes:
        experiment: the run's configuration.
        info: shape of the data.
        network: Flax module, without a scaling of the latents.
        params: averaged parameters.
        step: number of training steps.
        parallel: layout of devices.
    """

    experiment: AutoencoderExperiment
    info: DataInfo
    network: Any
    params: Params
    step: int
    parallel: Parallel = field(default_factory=Pmap)

    def reconstruct(
        self, images: np.ndarray, on_chunk: Callable[[int], None] = lambda done: None
    ) -> np.ndarray:
        """Returns reconstructions from the means of the latents, in [-1, 1].

        Args:
            images: uint8 [num, height, width, channels].
            on_chunk: called with the number of finished images after each chunk.
        """
        fn = partial(reconstructed, self.network)
        pixels = to_float(images)
        return self.parallel.map_chunks(fn, self.params, pixels, CHUNK, on_chunk)

    def scaling(self, dataset: Dataset) -> LatentScaling:
        """Returns mean and deviation of each channel of the latents of a dataset."""
        places = np.sort(order(0, 0, len(dataset))[:MOST])
        fn = partial(_sums, self.network)
        total, count = np.zeros(0), 0
        for begin in range(0, len(places), CHUNK * 16):
            images = to_float(dataset.images[places[begin : begin + CHUNK * 16]])
            sums = self.parallel.map_chunks(fn, self.params, images, CHUNK)
            found = np.asarray(sums, np.float64).sum(axis=0)
            total, count = (total + found if count else found), count + len(images)
        height, width, _ = dataset.image_shape
        factor = self.network.config.factor
        mean, square = total / (count * (height // factor) * (width // factor))
        deviation = np.sqrt(np.maximum(square - mean**2, 1e-12))
        return LatentScaling(
            mean=tuple(mean.tolist()), deviation=tuple(deviation.tolist())
        )


def reconstructed(network: Any, params: Params, images: Images) -> Images:
    """Returns reconstructions from the means of the latents, in [-1, 1]."""
    return jnp.clip(network.apply({"params": params}, images), -1, 1)


def _sums(network: Any, params: Params, images: Images) -> Array:
    """Returns sums of the latents and their squares, [num, 2, channels]."""
    mean, deviation = Autoencoder(params, network).moments(images)
    square = jnp.square(mean)
    if deviation is not None:
        square = square + jnp.square(deviation)
    return jnp.stack([mean.sum(axis=(1, 2)), square.sum(axis=(1, 2))], axis=1)


def is_autoencoder(workdir: Path) -> bool:
    """Returns True if the folder holds the run of an autoencoder."""
    return is_kind(workdir, AutoencoderExperiment)


def load_autoencoder(
    workdir: Path, step: int | None = None, parallel: Parallel | None = None
) -> AutoencoderRun:
    """Loads the trained autoencoder of a run folder; reads only averaged parameters.

    Args:
        workdir: the folder of the run.
        step: step of the checkpoint; the newest by default.
        parallel: layout of devices; all by default.

    Raises:
        InputError: there is no such run or checkpoint, or it is of another kind; or the
            parameters are not finite.
    """
    experiment, info = read_kind(workdir, AutoencoderExperiment)
    step, averaged = read_averaged(workdir, experiment, info, step)
    params = averaged["autoencoder"]
    network = experiment.task_of(info).network
    return AutoencoderRun(experiment, info, network, params, step, parallel or Pmap())


def model_parts(path: Path) -> Parts:
    """Returns the parts of a model's folder, written first for an autoencoder's run.

    Raises:
        InputError: the folder holds no autoencoder.
    """
    return parts_of_autoencoder(path) if is_autoencoder(path) else parts_of_model(path)


def parts_of_autoencoder(workdir: Path) -> Parts:
    """Returns the parts of an autoencoder's run, of its newest checkpoint.

    They are written if they are not there, or of an earlier checkpoint.

    Raises:
        InputError: there is no checkpoint, or the training data have changed.
    """
    known, folder = identity(workdir), workdir / PARTS
    there = (folder / OF).exists() and read_json(folder / OF).get("of")
    if there != known:
        run = load_autoencoder(workdir)
        experiment, info = run.experiment, run.info
        scaling = run.scaling(training_data(experiment, info))
        if is_first():
            _write(run, scaling, known, folder)
        wait_for_all("autoencoder")
    parts = read_parts(workdir)
    assert parts is not None, "just written"
    return parts


def _write(
    run: AutoencoderRun, scaling: LatentScaling, known: str, folder: Path
) -> None:
    """Writes the parts to a new folder, which then takes the place of the old one."""
    writing = folder.with_name(f".{PARTS}.tmp")
    shutil.rmtree(writing, ignore_errors=True)
    config = dataclasses.replace(run.network.config, scaling=scaling)
    network = config.build()
    params = jax.device_get(run.params)
    component = Component(type(network).__name__, network, params)
    write_component(component, writing / NAME)
    info = PartsInfo(pipeline="", encoders=(), autoencoder=NAME)
    info = dataclasses.replace(info, checksums=checksums_of(Parts(info, writing)))
    write_json_atomic(writing / RECORD, serialization.to_dict(info))
    write_json_atomic(writing / OF, {"of": known})
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(writing, folder)
