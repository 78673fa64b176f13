"""How like the data the samples of a trained model are.

Every figure stands beside its floor: the same figure of as many training images in the
samples' place, which is what a perfect model would get.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jaxdiff.data import Dataset, order, to_uint8
from jaxdiff.errors import InputError
from jaxdiff.experiment import Sampling
from jaxdiff.features import Extractor, hash_of
from jaxdiff.metrics.frechet import Moments, frechet_distance
from jaxdiff.metrics.kernel import kernel_distance
from jaxdiff.metrics.manifold import PrecisionRecall, precision_recall
from jaxdiff.metrics.mean import Mean
from jaxdiff.metrics.nearest import Copying, copying, nearest
from jaxdiff.run import Run

LEAST, MOST = 4, 10_000
"""Images of a set: the manifold needs a third neighbour, and a larger set is slow."""


class Distances(NamedTuple):
    """How far a set of images is from the held-out images.

    Attributes:
        frechet: see `metrics.frechet`.
        kernel: see `metrics.kernel`.
        manifold: see `metrics.manifold`.
    """

    frechet: float
    kernel: Mean
    manifold: PrecisionRecall


class Fidelity(NamedTuple):
    """How like the data samples are.

    Attributes:
        samples: distances of the samples to as many held-out images.
        floor: the same of as many training images.
        agreement: the share of samples that are read as the class asked for; None
            where there are no classes to read or to ask for.
        copying: distances to the nearest training images.
        pairs: the samples that are nearest to a training image, and those images,
            uint8 [2, at most 10, height, width, channels].
        statistics: the hash of the held-out images' mean and covariance.
    """

    samples: Distances
    floor: Distances
    agreement: float | None
    copying: Copying
    pairs: np.ndarray
    statistics: str


def check_num(num: int, training: Dataset, held_out: Dataset) -> None:
    """Refuses a number of samples to which there are not as many images."""
    most = min(len(training), len(held_out), MOST)
    if not LEAST <= num <= most:
        raise InputError(
            f"samples must be 0, or lie in {LEAST}..{most}; got {num}"
        )  # fmt: skip


def chosen(dataset: Dataset, num: int) -> np.ndarray:
    """Which images of a data set are compared, integers [num]: always the same."""
    return np.sort(order(0, 0, len(dataset))[:num])


def evaluate_samples(
    run: Run,
    training: Dataset,
    held_out: Dataset,
    extractor: Extractor,
    *,
    num: int,
    seed: int = 0,
    sampling: Sampling | None = None,
    on_chunk: Callable[[int], None] = lambda done: None,
) -> Fidelity:
    """Draws samples and compares them with images that the model did not see.

    A class-conditional model is asked for the classes of the training images that make
    the floor: both sets have the same ones, and neither those of the held-out images,
    which would make the distances too small.

    Args:
        run: the trained model.
        training: what it was trained on.
        held_out: images that it did not see.
        extractor: the features by which they are compared.
        num: how many samples, training images and held-out images.
        seed: of the samples.
        sampling: how they are drawn; as the experiment says by default.
        on_chunk: called with the number of samples drawn.

    Raises:
        InputError: there are not as many images, or the sampling does not fit.
    """
    check_num(num, training, held_out)
    there, seen = chosen(held_out, num), chosen(training, num)
    labels = None
    if run.info.num_classes is not None and training.labels is not None:
        labels = training.labels[seen]
    images = to_uint8(
        run.generate(labels, num, seed, sampling=sampling, on_chunk=on_chunk)
    )
    features, classes = extractor.read(images)
    real, _ = extractor.read(held_out.images[there])
    trained, _ = extractor.read(training.images)
    moments = Moments.of(real)

    def distances(found: np.ndarray) -> Distances:
        return Distances(
            frechet_distance(found, moments),
            kernel_distance(found, real),
            precision_recall(real, found),
        )

    places, apart = nearest(features, trained)
    _, real_apart = nearest(real, trained)
    first = np.argsort(apart, kind="stable")[:10]
    agreement = None
    if labels is not None and classes is not None:
        agreement = float(np.mean(classes == labels))
    return Fidelity(
        samples=distances(features),
        floor=distances(trained[seen]),
        agreement=agreement,
        copying=copying(apart, real_apart),
        pairs=np.stack([images[first], training.images[places[first]]]),
        statistics=hash_of(moments),
    )
