"""Distances between two sets of feature vectors, a block at a time."""

from collections.abc import Iterator

import numpy as np

from jaxdiff.errors import InputError

_BLOCK = 2**24  # numbers of a block of distances: 128 MiB


def rows_of(name: str, features: np.ndarray) -> np.ndarray:
    """Features [num, ...] as float64 [num, features].

    Raises:
        InputError: there are none, or one is not finite.
    """
    array = np.asarray(features)
    if array.ndim < 2 or not array.size:
        raise InputError(f"{name} must be [num, ...], not empty; got {array.shape}")
    rows = array.reshape(len(array), -1).astype(np.float64)
    if not np.isfinite(rows).all():
        raise InputError(f"{name} must be finite; some are not")
    return rows


def check_same_features(a: np.ndarray, b: np.ndarray) -> None:
    """Refuses two sets of rows with different numbers of features."""
    if a.shape[1] != b.shape[1]:
        raise InputError(
            f"both sets must have the same features; got {a.shape[1]} and {b.shape[1]}"
        )


def blocks(num: int, width: int) -> Iterator[slice]:
    """Slices of `num` rows, so that a block of `width` columns fits into memory."""
    size = max(1, _BLOCK // width)
    for start in range(0, num, size):
        yield slice(start, min(start + size, num))


def squared_distances(
    a: np.ndarray, b: np.ndarray
) -> Iterator[tuple[slice, np.ndarray]]:
    """The squared Euclidean distances of rows a [n, d] to b [m, d], in bounded memory.

    |x - y|^2 = |x|^2 + |y|^2 - 2 x . y in float64, about b's mean: far from the origin
    the terms would cancel.

    Yields:
        Which rows of `a`, and their distances to all of `b`, [rows, m], at least 0.
    """
    check_same_features(a, b)
    centre = b.mean(axis=0)
    a, b = a - centre, b - centre
    norms = (b**2).sum(axis=1)
    for rows in blocks(len(a), len(b)):
        block = a[rows]
        found = (block**2).sum(axis=1)[:, None] + norms - 2 * (block @ b.T)
        yield rows, np.maximum(found, 0)
