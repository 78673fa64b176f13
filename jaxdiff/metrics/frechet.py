"""The Frechet distance between two sets of images."""

import numpy as np

from jaxdiff.errors import InputError


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """The squared distance of the Gaussians with the mean and covariance of two sets.

    |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)), in float64 (Dowson & Landau
    1982). The trace of the root is that of (R C_b R)^(1/2) with R = C_a^(1/2), whose
    matrix is symmetric: its eigenvalues are real, and those that rounding made negative
    are 0.

    Few examples make the distance too large; compare only sets of one size.

    Args:
        a: features, or pixels, [num, ...]; what follows the first axis is flattened.
        b: [another num, ...], as many features.

    Raises:
        InputError: there are fewer than 2 examples, or the features differ.
    """
    rows = [np.reshape(x, (len(x), -1)).astype(np.float64) for x in (a, b)]
    if min(map(len, rows)) < 2:
        raise InputError(
            f"a Frechet distance needs 2 or more examples a set; got {len(a)} and "
            f"{len(b)}"
        )
    if rows[0].shape[1] != rows[1].shape[1]:
        raise InputError(
            f"both sets must have the same features; got {rows[0].shape[1]} and "
            f"{rows[1].shape[1]}"
        )
    means = [x.mean(axis=0) for x in rows]
    covariances = [np.atleast_2d(np.cov(x, rowvar=False)) for x in rows]
    values, vectors = np.linalg.eigh(covariances[0])
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    shared = np.linalg.eigvalsh(root @ covariances[1] @ root)
    trace = (
        sum(np.trace(c) for c in covariances) - 2 * np.sqrt(np.maximum(shared, 0)).sum()
    )
    return float(((means[0] - means[1]) ** 2).sum() + trace)
