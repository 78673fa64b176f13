"""Precision and recall: are samples like the data, and is all of it reached?"""

from typing import NamedTuple

import numpy as np

from jaxdiff.errors import InputError, require
from jaxdiff.evaluation.pairwise import pair_of


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
    x, y = pair_of(("real", "generated"), real, generated)
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
    """Distances of rows [n, d] to their k-th nearest other row, [n]."""
    neighbors = require("sklearn.neighbors").NearestNeighbors(
        n_neighbors=k, algorithm="brute"
    )
    return neighbors.fit(x).kneighbors()[0][:, -1]


def _share_within(x: np.ndarray, centres: np.ndarray, radii: np.ndarray) -> float:
    chunks = require("sklearn.metrics").pairwise_distances_chunked(
        x, centres, reduce_func=lambda found, _: (found <= radii).any(axis=1),
        working_memory=128,  # MiB
    )  # fmt: skip
    return float(np.concatenate(list(chunks)).mean())
