"""Sets of feature vectors in pairwise comparisons."""

import numpy as np

from jaxdiff.errors import InputError


def rows_of(name: str, features: np.ndarray) -> np.ndarray:
    """Converts features [num, ...] to float64 [num, features].

    Raises:
        InputError: there are none, or one is not finite.
    """
    array = np.asarray(features)
    if array.ndim < 2 or not array.size:
        raise InputError(f"{name} must be [num, ...], not empty, got {array.shape}")
    rows = array.reshape(len(array), -1).astype(np.float64)
    if not np.isfinite(rows).all():
        raise InputError(f"{name} must be finite, got nan or inf")
    return rows


def check_same_features(a: np.ndarray, b: np.ndarray) -> None:
    """Raises an InputError if two sets of rows differ in their number of features."""
    if a.shape[1] != b.shape[1]:
        raise InputError(
            "both sets must have the same number of features, got "
            f"{a.shape[1]} and {b.shape[1]}"
        )


def pair_of(
    names: tuple[str, str], a: np.ndarray, b: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the rows of two sets minus the mean of b, ready for distances.

    scikit-learn computes |x - y|^2 as |x|^2 + |y|^2 - 2 x . y. Far from the origin the
    terms would cancel.
    """
    x, y = rows_of(names[0], a), rows_of(names[1], b)
    check_same_features(x, y)
    centre = y.mean(axis=0)
    return x - centre, y - centre
