"""Precision and recall: are samples like the data, and is all of it reached?"""

from typing import NamedTuple

import numpy as np

from jaxdiff.errors import InputError
from jaxdiff.evaluation.pairwise import rows_of, squared_distances


class PrecisionRecall(NamedTuple):
    """Shares from 0 to 1.

    Attributes:
        precision: of the generated images, those within the manifold of the real ones.
        recall: of the real images, those within the manifold of the generated ones.
    """

    precision: float
    recall: float


def precision_recall(
    real: np.ndarray, generated: np.ndarray, k: int = 3
) -> PrecisionRecall:
    """Improved precision and recall (Kynkaanniemi et al. 2019, equations 1 and 2).

    A set's manifold is the union of balls about its members, each as large as the
    distance to the member's k-th nearest other one.

    Both depend on the number of images: compare only sets of one size.

    Args:
        real: features [num, ...]; what follows the first axis is flattened.
        generated: [another num, ...], as many features.
        k: which neighbour; at least 1 and below the number of images.

    Raises:
        InputError: k does not fit, or the features differ.
    """
    x, y = rows_of("real", real), rows_of("generated", generated)
    if not 1 <= k < min(len(x), len(y)):
        raise InputError(
            f"k must lie in 1..{min(len(x), len(y)) - 1}, below the number of images; "
            f"got {k}"
        )
    return PrecisionRecall(
        precision=_share_within(y, x, _radii(x, k)),
        recall=_share_within(x, y, _radii(y, k)),
    )


def _radii(x: np.ndarray, k: int) -> np.ndarray:
    """Squared distances of rows [n, d] to their k-th nearest other row, [n]."""
    radii = np.empty(len(x))
    for rows, distances in squared_distances(x, x):
        own = np.arange(rows.start, rows.stop)
        distances[own - rows.start, own] = 0  # but for rounding it is
        radii[rows] = np.partition(distances, k, axis=1)[:, k]
    return radii


def _share_within(x: np.ndarray, centres: np.ndarray, radii: np.ndarray) -> float:
    inside = [
        (distances <= radii).any(axis=1)
        for _, distances in squared_distances(x, centres)
    ]
    return float(np.concatenate(inside).mean())
