"""Feature networks: the features by which sets of images are compared.

A distance between two sets of images is a distance between their features. It depends
on the network, its weights, and how images were resized for it.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from annotated_types import Ge

from jaxdiff.checks import Checked
from jaxdiff.data import Dataset, Images
from jaxdiff.errors import InputError
from jaxdiff.evaluation.feature_classifier import CHUNK, Recipe, classifier_of
from jaxdiff.evaluation.frechet import Moments
from jaxdiff.networks.inception import SIDE, inception_variables
from jaxdiff.networks.inception import Inception as InceptionV3
from jaxdiff.parallel import Parallel
from jaxdiff.storage.files import expanded
from jaxdiff.storage.torch_pickle import read_torch

SMALL_CHUNK = 64
"""Images per chunk of InceptionV3, which needs far more memory per image."""


class Extractor(NamedTuple):
    """Feature extractor, ready to read images.

    Attributes:
        name: name of the feature network, with its options.
        weights: hash of its weights; "" if it has none.
        resize: how images are resized for it.
        read: maps uint8 images [num, height, width, channels] to features float32
            [num, features] and predicted classes [num]; None instead of classes if the
            network predicts none.
        accuracy: fraction of held-out images with the right predicted class; None if
            there are no classes or no held-out labels.
    """

    name: str
    weights: str
    resize: str
    read: Callable[[Images], tuple[np.ndarray, np.ndarray | None]]
    accuracy: float | None = None


@dataclass(frozen=True, kw_only=True)
class Classifier(Recipe):
    """A small classifier, trained on the dataset's training images from a seed."""

    def build(
        self,
        training: Dataset,
        held_out: Dataset | None,
        parallel: Parallel,
        on_step: Callable[[int], None] = lambda step: None,
    ) -> Extractor:
        """Trains the classifier or reads it from the cache; measures its accuracy.

        Args:
            training: training images with labels.
            held_out: images for the accuracy; None skips it.
            parallel: layout of devices.
            on_step: called with the number of steps done; with 0 before a training.

        Raises:
            InputError: there are no classes, or the result cannot be cached.
        """
        recipe = self.for_data(training)
        trained = classifier_of(training, recipe, on_step)

        def read(images: Images) -> tuple[np.ndarray, np.ndarray | None]:
            return trained.read(images, parallel)

        accuracy = None
        if held_out is not None and held_out.labels is not None:
            accuracy = float(np.mean(read(held_out.images)[1] == held_out.labels))
        name = f"classifier of {recipe.steps} steps, seed {self.seed}"
        return Extractor(name, trained.sha256(), "none", read, accuracy)

    def num_calls(self, training: Dataset) -> int:
        """Returns the number of steps that `build` takes.

        Raises:
            InputError: there are no classes.
        """
        return self.for_data(training).steps


class _Ready:
    """Features without training."""

    def num_calls(self, training: Dataset) -> int:
        """Returns the number of steps that `build` takes: none."""
        return 0


@dataclass(frozen=True, kw_only=True)
class Pixels(Checked, _Ready):
    """Pixels of downsized images; needs no training and no classes."""

    size: Annotated[int, Ge(1)] = 16
    """Longest side after downsizing, in pixels; smaller images stay unchanged."""

    def build(
        self,
        training: Dataset,
        held_out: Dataset | None,
        parallel: Parallel,
        on_step: Callable[[int], None] = lambda step: None,
    ) -> Extractor:
        """Returns the pixel extractor; uses only the image shape and the devices."""
        height, width, channels = training.image_shape
        shrink = min(1.0, self.size / max(height, width))
        shape = (max(1, round(height * shrink)), max(1, round(width * shrink)))

        def pixels(_: tuple[()], images: jax.Array) -> jax.Array:
            x = jnp.asarray(images, jnp.float32) / 255
            if shrink < 1:
                whole = (len(x), *shape, channels)
                x = jax.image.resize(x, whole, "linear", antialias=True)
            return x.reshape(len(x), -1)

        def read(images: Images) -> tuple[np.ndarray, None]:
            return parallel.map_chunks(pixels, (), images, CHUNK), None

        resize = "none" if shrink == 1 else f"antialiased triangle to {shape}"
        return Extractor(f"pixels of {shape[0]}x{shape[1]}", "", resize, read)


@dataclass(frozen=True, kw_only=True)
class Inception(_Ready):
    """InceptionV3 with published weights, as in the FID literature."""

    path: str = ""
    """Path of pt_inception-2015-12-05-6726825d.pth, a file that the package pytorch-fid
    downloads on its first use."""

    def build(
        self,
        training: Dataset,
        held_out: Dataset | None,
        parallel: Parallel,
        on_step: Callable[[int], None] = lambda step: None,
    ) -> Extractor:
        """Reads the weights and returns the extractor; uses only the devices.

        Raises:
            InputError: there is no such file, or it holds another network.
        """
        if not self.path:
            raise InputError(
                "inception must have a path to its weights, got none. Give "
                "inception:path=FILE, with the file "
                "pt_inception-2015-12-05-6726825d.pth of the package pytorch-fid."
            )
        path = expanded(self.path)
        variables = inception_variables(read_torch(path))
        with path.open("rb") as file:
            weights = hashlib.file_digest(file, "sha256").hexdigest()

        def features(variables: Any, images: jax.Array) -> jax.Array:
            x = jnp.asarray(images, jnp.float32) / 255
            if x.shape[-1] == 1:
                x = jnp.repeat(x, 3, axis=-1)
            found: Any = InceptionV3().apply(variables, x)
            return found[-1]

        def read(images: Images) -> tuple[np.ndarray, None]:
            return parallel.map_chunks(features, variables, images, SMALL_CHUNK), None

        resize = f"bilinear to {SIDE}x{SIDE}, not antialiased"
        return Extractor("InceptionV3 of FID", weights, resize, read)


Features: TypeAlias = Classifier | Pixels | Inception
"""Choices of `--features`."""


def default_features(dataset: Dataset) -> Features:
    """Returns the classifier if the dataset has classes, otherwise the pixels."""
    return Pixels() if dataset.num_classes is None else Classifier()


def hash_of(moments: Moments) -> str:
    """Returns a hash of statistics; equal statistics have equal hashes."""
    digest = hashlib.sha256(str(moments.num).encode())
    for array in (moments.mean, moments.covariance):
        digest.update(np.ascontiguousarray(array, "<f8").tobytes())
    return digest.hexdigest()[:16]
