"""Memorization: the nearest training image of each sample."""

from typing import NamedTuple

import numpy as np

from jaxdiff.errors import require
from jaxdiff.evaluation.pairwise import pair_of


def nearest(
    queries: np.ndarray, references: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the nearest reference of each query, by exact search.

    Args:
        queries: features or pixels [num, ...], flattened per example.
        references: features or pixels [another num, ...], as many per example.

    Returns:
        Indices of references int64 [num], and their Euclidean distances float64 [num].
    """
    x, y = pair_of(("queries", "references"), queries, references)
    return require("sklearn.metrics").pairwise_distances_argmin_min(x, y)


class Copying(NamedTuple):
    """Distances of generated and held-out images to their nearest training images.

    Attributes:
        generated: median distance of the generated images.
        held_out: median distance of the held-out images.
        nearer: share of pairs whose generated image is nearer than the held-out image;
            ties count half. It is about 1/2 for a model that draws from the data's
            distribution. A model that copies raises it towards 1; a model far from the
            data lowers it towards 0.
    """

    generated: float
    held_out: float
    nearer: float


def copying(generated: np.ndarray, held_out: np.ndarray) -> Copying:
    """Compares distances to the nearest training image.

    `nearer` is the Mann-Whitney statistic over the number of pairs. The data-copying
    test of Meehan, Chaudhuri and Dasgupta 2020 builds on it (section 4.1; their test
    also divides the space into cells).

    Args:
        generated: distances [num] of generated images, from `nearest`.
        held_out: distances [another num] of held-out images.
    """
    pairs = len(generated) * len(held_out)
    test = require("scipy.stats").mannwhitneyu(held_out, generated)
    return Copying(
        generated=float(np.median(generated)),
        held_out=float(np.median(held_out)),
        nearer=float(test.statistic / pairs),
    )
