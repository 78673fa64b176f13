"""How like the data the samples of a trained model are.

Every figure stands beside its floor: the same figure of as many training images in the
samples' place, which is what a perfect model would get.
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
from jaxdiff.runs.load import Run
from jaxdiff.training.experiment import Sampling

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
        to_others: the samples' Frechet distance to statistics of elsewhere, if any.
    """

    samples: Distances
    floor: Distances
    agreement: float | None
    copying: Copying
    pairs: np.ndarray
    statistics: str
    to_others: float | None = None


def check_num(num: int, training: Dataset, held_out: Dataset) -> None:
    """Refuses a number of samples to which there are not as many images."""
    most = min(len(training), len(held_out), MOST)
    if not LEAST <= num <= most:
        raise InputError(f"samples must lie in {LEAST}..{most}; got {num}")


def chosen(dataset: Dataset, num: int) -> np.ndarray:
    """Which images of a data set are compared, integers [num]: always the same."""
    return np.sort(order(0, 0, len(dataset))[:num])


class Comparison(NamedTuple):
    """What samples are compared with.

    Attributes:
        labels: the classes to ask for, [num]; None where there are none. Those of the
            training images that make the floor: both sets have the same ones, and
            neither those of the held-out images, which would make the distances too
            small.
        real: features of held-out images, float32 [num, features].
        moments: of these.
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
        """Reads so many images of each data set.

        Args:
            run: the trained model.
            training: what it was trained on.
            held_out: images that it did not see.
            extractor: reads them.
            num: how many.
            trained: features of all training images, where they were read before.

        Raises:
            InputError: there are not as many.
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
        """As many samples, uint8 [num, height, width, channels]; see `Run.generate`."""
        num = len(self.real)
        return to_uint8(
            run.generate(self.labels, num, seed, sampling=sampling, on_chunk=on_chunk)
        )

    def agreement(self, classes: np.ndarray | None) -> float | None:
        """The share of samples that are read as the class asked for, if there is one.

        Args:
            classes: what is read, [num]; None where the features see none.
        """
        if self.labels is None or classes is None:
            return None
        return float(np.mean(classes == self.labels))

    def distances(self, found: np.ndarray) -> Distances:
        """How far features [num, features] are from the held-out images'."""
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
    on_chunk: Callable[[int], None] = lambda done: None,
) -> Fidelity:
    """Draws samples and compares them with images that the model did not see.

    Args:
        run: the trained model.
        training: what it was trained on.
        held_out: images that it did not see.
        extractor: the features by which they are compared.
        num: how many samples, training images and held-out images.
        seed: of the samples.
        sampling: how they are drawn; as the experiment says by default.
        others: further statistics, by the same features.
        on_chunk: called with the number of samples drawn.

    Raises:
        InputError: there are not as many images, or the sampling or the other
            statistics do not fit.
    """
    check_num(num, training, held_out)
    trained, _ = extractor.read(training.images)
    against = Comparison.of(run, training, held_out, extractor, num, trained)
    if others is not None:
        check_same_features(others.covariance, against.moments.covariance)
    images = against.drawn(run, seed, sampling, on_chunk)
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
