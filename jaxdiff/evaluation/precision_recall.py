"""Precision and recall: realism of the samples, and coverage of the data."""

from typing import NamedTuple

import numpy as np

from jaxdiff.errors import InputError, require
from jaxdiff.evaluation.pairwise import pair_of


class PrecisionRecall(NamedTuple):
    """Precision and recall, shares in [0, 1].

    Attributes:
        precision: share of generated images within the manifold of the real ones.
        recall: share of real images within the manifold of the generated ones.
    """

    precision: float
    recall: float


def precision_recall(
    real: np.ndarray, generated: np.ndarray, k: int = 3
) -> PrecisionRecall:
    """Returns improved precision and recall.

    The definitions are equations 1 and 2 of Kynkaanniemi et al. 2019.

    A set's manifold is the union of balls around its members. The radius of a ball is
    the distance of the member to its k-th nearest other member.

    Both shares depend on the number of images. Compare only sets of equal size.

    Args:
        real: features [num, ...], flattened per example.
        generated: features [another num, ...], as many per example.
        k: rank of the neighbour; at least 1 and below the number of images.

    Raises:
        InputError: k is out of range, or the numbers of features differ.
    """
    x, y = pair_of(("real", "generated"), real, generated)
    if not 1 <= k < min(len(x), len(y)):
        raise InputError(
            f"k must lie in 1..{min(len(x), len(y)) - 1}, below the number of images, "
            f"got {k}"
        )
    return PrecisionRecall(
        precision=_share_within(y, x, _radii(x, k)),
        recall=_share_within(x, y, _radii(y, k)),
    )


def _radii(x: np.ndarray, k: int) -> np.ndarray:
    """Returns distances of rows [n, d] to their k-th nearest other row, [n]."""
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
