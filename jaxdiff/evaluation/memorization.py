"""The nearest training image: is a model copying what it saw?"""

from typing import NamedTuple

import numpy as np

from jaxdiff.errors import require
from jaxdiff.evaluation.pairwise import pair_of


def nearest(
    queries: np.ndarray, references: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The nearest reference of each query, exactly.

    Args:
        queries: features or pixels [num, ...]; what follows the first axis is
            flattened.
        references: [another num, ...], as many numbers each.

    Returns:
        Indices of references int64 [num], and their Euclidean distances float64 [num].
    """
    x, y = pair_of(("queries", "references"), queries, references)
    return require("sklearn.metrics").pairwise_distances_argmin_min(x, y)


class Copying(NamedTuple):
    """How near generated images are to the training images, and held-out ones too.

    Attributes:
        generated: the median distance of a generated image to its nearest one.
        held_out: the same of held-out images.
        nearer: how often a generated image is nearer than a held-out one, of all pairs
            (half where they are equal): 1/2 where the model draws from the data's
            distribution, towards 1 where it copies, towards 0 where it is far off.
    """

    generated: float
    held_out: float
    nearer: float


def copying(generated: np.ndarray, held_out: np.ndarray) -> Copying:
    """Compares the distances to the nearest training image.

    `nearer` is the Mann-Whitney statistic over the number of pairs, on which the test
    for data-copying of Meehan, Chaudhuri and Dasgupta 2020 is built (section 4.1; there
    the space is divided into cells as well).

    Args:
        generated: distances [num] as `nearest` gave them.
        held_out: those of images that the model did not see, [another num].
    """
    pairs = len(generated) * len(held_out)
    test = require("scipy.stats").mannwhitneyu(held_out, generated)
    return Copying(
        generated=float(np.median(generated)),
        held_out=float(np.median(held_out)),
        nearer=float(test.statistic / pairs),
    )
