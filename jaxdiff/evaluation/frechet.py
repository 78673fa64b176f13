"""Frechet distance between two sets of images (FID)."""

from typing import NamedTuple

import numpy as np

from jaxdiff.errors import InputError
from jaxdiff.evaluation.pairwise import check_same_features, rows_of


class Moments(NamedTuple):
    """Moments of a set of features, which determine its Frechet distances.

    Attributes:
        num: number of examples; 0 if unknown.
        mean: float64 [features].
        covariance: float64 [features, features], with `num - 1` degrees of freedom.
    """

    num: int
    mean: np.ndarray
    covariance: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray) -> "Moments":
        """Returns the moments of features or pixels [num, ...], flattened per example.

        Raises:
            InputError: there are fewer than 2 examples, or one is not finite.
        """
        features = np.asarray(features)
        rows = rows_of(
            "features", features[:, None] if features.ndim == 1 else features
        )
        if len(rows) < 2:
            raise InputError(
                f"features must have at least 2 examples per set, got {len(rows)}"
            )
        covariance = np.atleast_2d(np.cov(rows, rowvar=False))
        return cls(len(rows), rows.mean(axis=0), covariance)

    def joined(self, other: "Moments") -> "Moments":
        """Returns the moments of the union of two sets (Chan, Golub & LeVeque 1979)."""
        num = self.num + other.num
        apart = other.mean - self.mean
        scatter = (self.num - 1) * self.covariance + (other.num - 1) * other.covariance
        scatter += np.outer(apart, apart) * (self.num * other.num / num)
        mean = self.mean + apart * (other.num / num)
        return Moments(num, mean, scatter / (num - 1))


def frechet_distance(a: np.ndarray | Moments, b: np.ndarray | Moments) -> float:
    """Returns the squared Frechet distance of two Gaussians with the sets' moments.

    |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)), in float64 (Dowson & Landau
    1982). The trace of the root equals the trace of (R C_b R)^(1/2) with R = C_a^(1/2).
    R C_b R is symmetric: its eigenvalues are real. Eigenvalues that rounding made
    negative are set to 0.

    Small sets make the distance too large. Compare only sets of equal size.

    Args:
        a: features or pixels [num, ...], or their moments.
        b: features, pixels or moments of another set, with as many features.

    Raises:
        InputError: there are fewer than 2 examples, or the numbers of features differ.
    """
    p, q = (x if isinstance(x, Moments) else Moments.of(x) for x in (a, b))
    check_same_features(p.covariance, q.covariance)
    values, vectors = np.linalg.eigh(p.covariance)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    shared = np.linalg.eigvalsh(root @ q.covariance @ root)
    trace = np.trace(p.covariance) + np.trace(q.covariance)
    trace -= 2 * np.sqrt(np.maximum(shared, 0)).sum()
    return float(((p.mean - q.mean) ** 2).sum() + trace)
