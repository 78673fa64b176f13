"""Kernel distance between two sets of images (KID)."""

import numpy as np

from jaxdiff.errors import InputError
from jaxdiff.evaluation.mean import Mean
from jaxdiff.evaluation.pairwise import check_same_features, rows_of

_BLOCK = 2**24  # entries per block of the kernel matrix: 128 MiB


def kernel_distance(a: np.ndarray, b: np.ndarray) -> Mean:
    """Returns the squared maximum mean discrepancy with the kernel (x . y / d + 1)^3.

    The unbiased estimate over all pairs of examples, which may be negative (Binkowski
    et al. 2018, "Demystifying MMD GANs", section 3, equation 4). The paper averages
    over subsets of 1,000 images: the same expectation with a larger spread. Unlike the
    Frechet distance, its expectation does not depend on the number of images.

    The standard error is the jackknife for two samples (Arvesen 1969), which leaves out
    each example in turn. It is about 1.4 times too large if both sets have the same
    distribution, since the first-order term of the estimate vanishes there.

    Args:
        a: features [num, ...] of at least 3 examples, flattened per example.
        b: features [another num, ...], as many per example.

    Raises:
        InputError: there are fewer than 3 examples, or the numbers of features differ.
    """
    x, y = rows_of("a", a), rows_of("b", b)
    check_same_features(x, y)
    if min(len(x), len(y)) < 3:
        raise InputError(
            f"a and b must have at least 3 examples each, got {len(a)} and {len(b)}"
        )
    x_x, y_y = _sums(x, x)[0] - _own(x), _sums(y, y)[0] - _own(y)
    x_y, y_x = _sums(x, y)
    n, m = len(x), len(y)
    within_x, within_y = x_x.sum() / (n * (n - 1)), y_y.sum() / (m * (m - 1))
    between = x_y.sum() / (n * m)
    # Estimates without x_i, and without y_i; 2 x_x: pairs (i, j) and (j, i) both go.
    without_x = (x_x.sum() - 2 * x_x) / ((n - 1) * (n - 2)) + within_y
    without_x -= 2 * (x_y.sum() - x_y) / ((n - 1) * m)
    without_y = (y_y.sum() - 2 * y_y) / ((m - 1) * (m - 2)) + within_x
    without_y -= 2 * (x_y.sum() - y_x) / (n * (m - 1))
    variance = (n - 1) * without_x.var() + (m - 1) * without_y.var()
    return Mean(float(within_x + within_y - 2 * between), float(variance**0.5))


def _own(x: np.ndarray) -> np.ndarray:
    """Returns the kernel of each row of x [n, d] with itself, [n]."""
    return ((x**2).mean(axis=1) + 1) ** 3


def _sums(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the kernel of rows x [n, d] and y [m, d]: sums over y [n], over x [m]."""
    over_y, over_x = np.empty(len(x)), np.zeros(len(y))
    size = max(1, _BLOCK // len(y))
    for start in range(0, len(x), size):
        rows = slice(start, start + size)
        values = (x[rows] @ y.T / x.shape[1] + 1) ** 3
        over_y[rows] = values.sum(axis=1)
        over_x += values.sum(axis=0)
    return over_y, over_x
