"""What images are described by, to compare sets of them: features of a network.

A distance between two sets of images is a distance between their features, and says
little without them: which network, which weights, and how images were resized for it.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
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
from jaxdiff.storage.torch_pickle import read_torch

SMALL_CHUNK = 64
"""Images that InceptionV3 reads at a time: each takes far more memory there."""


class Extractor(NamedTuple):
    """A way to features, ready to read images.

    Attributes:
        name: what it is, with its options.
        weights: the hash of its weights; "" where it has none.
        resize: how images are brought to its size.
        read: from uint8 images [num, height, width, channels] their features float32
            [num, features], and the classes [num] that it sees; None if it sees none.
        accuracy: the share of the held-out images whose class it sees; None if none.
    """

    name: str
    weights: str
    resize: str
    read: Callable[[Images], tuple[np.ndarray, np.ndarray | None]]
    accuracy: float | None = None


@dataclass(frozen=True, kw_only=True)
class Classifier(Recipe):
    """A small classifier, trained on the data set's training images from a seed."""

    def build(
        self,
        training: Dataset,
        held_out: Dataset | None,
        parallel: Parallel,
        on_step: Callable[[int], None] = lambda step: None,
    ) -> Extractor:
        """Trains it, or takes the one that was kept; held-out images tell its accuracy.

        Raises:
            InputError: there are no classes, or the result cannot be kept.
        """
        trained = classifier_of(training, self, on_step)

        def read(images: Images) -> tuple[np.ndarray, np.ndarray | None]:
            return trained.read(images, parallel)

        accuracy = None
        if held_out is not None and held_out.labels is not None:
            accuracy = float(np.mean(read(held_out.images)[1] == held_out.labels))
        name = f"classifier of {self.num_steps} steps, seed {self.seed}"
        return Extractor(name, trained.sha256(), "none", read, accuracy)

    @property
    def num_calls(self) -> int:
        """How many steps `build` takes."""
        return self.num_steps


class _Ready:
    """Features that are not trained."""

    num_calls = 0
    """How many steps `build` takes."""


@dataclass(frozen=True, kw_only=True)
class Pixels(Checked, _Ready):
    """The pixels themselves, of images made small; needs no training and no classes."""

    size: Annotated[int, Ge(1)] = 16
    """The longest side that is left, in pixels; smaller images stay as they are."""

    def build(
        self,
        training: Dataset,
        held_out: Dataset | None,
        parallel: Parallel,
        on_step: Callable[[int], None] = lambda step: None,
    ) -> Extractor:
        """The way to the pixels; of the arguments it needs the shape and devices."""
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
    """InceptionV3 with published weights: FID as the literature tells it."""

    path: str = ""
    """The file pt_inception-2015-12-05-6726825d.pth, which the package pytorch-fid
    publishes and downloads when it is first used."""

    def build(
        self,
        training: Dataset,
        held_out: Dataset | None,
        parallel: Parallel,
        on_step: Callable[[int], None] = lambda step: None,
    ) -> Extractor:
        """Reads the weights; of the arguments it needs the channels and the devices.

        Raises:
            InputError: there is no such file, or it is another network's.
        """
        if not self.path:
            raise InputError(
                "inception needs its weights: give inception:path=FILE, with the file "
                "pt_inception-2015-12-05-6726825d.pth of the package pytorch-fid"
            )
        path = Path(self.path).expanduser()
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
"""What `--features` offers."""


def default_features(dataset: Dataset) -> Features:
    """The classifier where there are classes, else the pixels."""
    return Pixels() if dataset.num_classes is None else Classifier()


def hash_of(moments: Moments) -> str:
    """A hash of statistics: equal hashes, equal statistics."""
    digest = hashlib.sha256(str(moments.num).encode())
    for array in (moments.mean, moments.covariance):
        digest.update(np.ascontiguousarray(array, "<f8").tobytes())
    return digest.hexdigest()[:16]
