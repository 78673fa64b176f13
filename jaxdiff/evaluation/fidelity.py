"""Fidelity: distances between the samples of a trained model and held-out images.

Each metric is shown next to its baseline: the same metric on as many training images.
A perfect model would reach the baseline.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jaxdiff.data import Dataset, order, to_uint8
from jaxdiff.errors import InputError
from jaxdiff.evaluation.features import Extractor, hash_of
from jaxdiff.evaluation.frechet import Moments, frechet_distance
from jaxdiff.evaluation.kid import kernel_distance
from jaxdiff.evaluation.mean import Mean
from jaxdiff.evaluation.memorization import Copying, copying, nearest
from jaxdiff.evaluation.pairwise import check_same_features
from jaxdiff.evaluation.precision_recall import PrecisionRecall, precision_recall
from jaxdiff.runs.run import Run
from jaxdiff.training.experiment import Sampling

LEAST, MOST = 4, 10_000
"""Bounds of the number of images: `LEAST` for the third neighbour, `MOST` for speed."""


class Distances(NamedTuple):
    """Distances of a set of images to the held-out images.

    Attributes:
        frechet: see `evaluation.frechet.frechet_distance`.
        kernel: see `evaluation.kid.kernel_distance`.
        manifold: see `evaluation.precision_recall.precision_recall`.
    """

    frechet: float
    kernel: Mean
    manifold: PrecisionRecall


class Fidelity(NamedTuple):
    """Metrics of a set of samples.

    Attributes:
        samples: distances of the samples to as many held-out images.
        floor: the baseline, the same distances for as many training images.
        agreement: fraction of samples with the requested class as predicted class; None
            without classes.
        copying: distances to the nearest training images.
        pairs: the samples nearest to a training image, and these training images, uint8
            [2, at most 10, height, width, channels].
        statistics: hash of the held-out images' mean and covariance.
        to_others: the samples' Frechet distance to further statistics; None without.
    """

    samples: Distances
    floor: Distances
    agreement: float | None
    copying: Copying
    pairs: np.ndarray
    statistics: str
    to_others: float | None = None


def most_samples(training: Dataset, held_out: Dataset) -> int:
    """Returns the largest number of samples; 0 if there are too few images."""
    most = min(len(training), len(held_out), MOST)
    return most if most >= LEAST else 0


def too_few(training: Dataset, held_out: Dataset) -> str:
    """Returns the reason why samples cannot be measured with so few images."""
    return (
        f"metrics of samples must have at least {LEAST} training images and {LEAST} "
        f"held-out images, got {len(training)} and {len(held_out)}"
    )


def check_num(num: int, training: Dataset, held_out: Dataset) -> None:
    """Checks the number of samples against the numbers of images.

    Raises:
        InputError: the number is out of range, or there are too few images.
    """
    most = most_samples(training, held_out)
    if not most:
        raise InputError(f"{too_few(training, held_out)}. Hold out more images.")
    if not LEAST <= num <= most:
        raise InputError(f"samples must lie in {LEAST}..{most}, got {num}")


def chosen(dataset: Dataset, num: int) -> np.ndarray:
    """Returns indices of the compared images, integers [num]; always the same."""
    return np.sort(order(0, 0, len(dataset))[:num])


class Comparison(NamedTuple):
    """Held-out and training images that samples are compared with.

    Attributes:
        labels: requested classes [num]; None without classes. They are the labels of
            the training images in the baseline, so that samples and baseline have the
            same classes. With the held-out images' labels the distances would be too
            small.
        real: features of held-out images, float32 [num, features].
        moments: moments of `real`.
        floor: features of training images, float32 [num, features].
    """

    labels: np.ndarray | None
    real: np.ndarray
    moments: Moments
    floor: np.ndarray

    @classmethod
    def of(
        cls,
        run: Run,
        training: Dataset,
        held_out: Dataset,
        extractor: Extractor,
        num: int,
        trained: np.ndarray | None = None,
    ) -> "Comparison":
        """Computes the features of `num` images of each dataset.

        Args:
            run: the trained model.
            training: its training images.
            held_out: held-out images.
            extractor: feature network.
            num: number of images per set.
            trained: features of all training images, if known; computed otherwise.

        Raises:
            InputError: a dataset has fewer images.
        """
        check_num(num, training, held_out)
        seen, labels = chosen(training, num), None
        if run.info.num_classes is not None and training.labels is not None:
            labels = training.labels[seen]
        real, _ = extractor.read(held_out.images[chosen(held_out, num)])
        if trained is None:
            floor, _ = extractor.read(training.images[seen])
        else:
            floor = trained[seen]
        return cls(labels, real, Moments.of(real), floor)

    def drawn(
        self,
        run: Run,
        seed: int,
        sampling: Sampling | None = None,
        on_chunk: Callable[[int], None] = lambda done: None,
    ) -> np.ndarray:
        """Draws as many samples, uint8 [num, height, width, channels]."""
        num = len(self.real)
        return to_uint8(
            run.generate(self.labels, num, seed, sampling=sampling, on_chunk=on_chunk)
        )

    def agreement(self, classes: np.ndarray | None) -> float | None:
        """Returns the fraction of samples whose predicted class is the requested class.

        Args:
            classes: predicted classes [num]; None if the features predict none.

        Returns:
            The fraction; None without classes.
        """
        if self.labels is None or classes is None:
            return None
        return float(np.mean(classes == self.labels))

    def distances(self, found: np.ndarray) -> Distances:
        """Returns distances of features [num, features] to the held-out images."""
        return Distances(
            frechet_distance(found, self.moments),
            kernel_distance(found, self.real),
            precision_recall(self.real, found),
        )


def evaluate_samples(
    run: Run,
    training: Dataset,
    held_out: Dataset,
    extractor: Extractor,
    *,
    num: int,
    seed: int = 0,
    sampling: Sampling | None = None,
    others: Moments | None = None,
    images: np.ndarray | None = None,
    on_chunk: Callable[[int], None] = lambda done: None,
) -> Fidelity:
    """Compares samples with held-out images.

    Args:
        run: the trained model.
        training: its training images.
        held_out: held-out images.
        extractor: feature network.
        num: number of samples, of training images and of held-out images.
        seed: seed of the samples.
        sampling: sampler, guidance and clipping; the experiment's by default.
        others: further statistics of the same features; None for none.
        images: samples, uint8 [num, height, width, channels]; drawn by default.
        on_chunk: called with the number of samples drawn.

    Raises:
        InputError: a dataset has fewer images, or `sampling` or `others` does not fit.
    """
    check_num(num, training, held_out)
    trained, _ = extractor.read(training.images)
    against = Comparison.of(run, training, held_out, extractor, num, trained)
    if others is not None:
        check_same_features(others.covariance, against.moments.covariance)
    if images is None:
        images = against.drawn(run, seed, sampling, on_chunk)
    return fidelity_of(images, against, training, trained, extractor, others)


def fidelity_of(
    images: np.ndarray,
    against: Comparison,
    training: Dataset,
    trained: np.ndarray,
    extractor: Extractor,
    others: Moments | None = None,
) -> Fidelity:
    """Compares drawn images with held-out images.

    Args:
        images: drawn images, uint8 [num, height, width, channels].
        against: held-out images and the baseline.
        training: training images.
        trained: features of the training images.
        extractor: feature network.
        others: further statistics of the same features; None for none.
    """
    features, classes = extractor.read(images)
    places, apart = nearest(features, trained)
    _, real_apart = nearest(against.real, trained)
    first = np.argsort(apart, kind="stable")[:10]
    return Fidelity(
        samples=against.distances(features),
        floor=against.distances(against.floor),
        agreement=against.agreement(classes),
        copying=copying(apart, real_apart),
        pairs=np.stack([images[first], training.images[places[first]]]),
        statistics=hash_of(against.moments),
        to_others=None if others is None else frechet_distance(features, others),
    )
