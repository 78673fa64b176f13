"""Sets of feature vectors that are compared with each other."""

import numpy as np

from jaxdiff.errors import InputError


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


def pair_of(
    names: tuple[str, str], a: np.ndarray, b: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the rows of two sets about b's mean, ready for distances.

    scikit-learn computes |x - y|^2 as |x|^2 + |y|^2 - 2 x . y. Far from the origin
    the terms would cancel.
    """
    x, y = rows_of(names[0], a), rows_of(names[1], b)
    check_same_features(x, y)
    centre = y.mean(axis=0)
    return x - centre, y - centre
