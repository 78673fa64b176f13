"""Frechet distance against closed forms and SciPy's matrix root."""

import numpy as np
import pytest
import scipy.linalg

from jaxdiff.errors import InputError
from jaxdiff.evaluation.frechet import Moments, frechet_distance

RNG = np.random.default_rng(0)


def test_two_gaussians_of_one_dimension():
    """The distance is (m - m')^2 + (s - s')^2."""
    a, b = RNG.normal(2, 3, 50), RNG.normal(-1, 0.5, 70)
    expected = (a.mean() - b.mean()) ** 2 + (a.std(ddof=1) - b.std(ddof=1)) ** 2
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-12)


def test_the_root_is_that_of_the_product():
    a = RNG.normal(size=(40, 6)) @ RNG.normal(size=(6, 6)) + 1
    b = RNG.normal(size=(60, 6)) @ RNG.normal(size=(6, 6))
    first, second = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = scipy.linalg.sqrtm(first @ second).real
    shift = ((a.mean(axis=0) - b.mean(axis=0)) ** 2).sum()
    expected = shift + np.trace(first + second - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-9)


def test_a_set_and_itself_moved():
    """Fewer images than pixels give a covariance without full rank."""
    images = RNG.uniform(size=(20, 8, 8, 1))
    assert frechet_distance(images, images) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(images, images + 0.5) == pytest.approx(16, abs=1e-6)


def test_gaussians_in_closed_form():
    """Covariances with the same eigenvectors give the sum of (s - s')^2 over them."""
    axes, _ = np.linalg.qr(RNG.normal(size=(300, 300)))
    s, t = RNG.uniform(0, 2, (2, 300)) * (RNG.uniform(size=(2, 300)) < 0.9)
    a = Moments(9, np.zeros(300), (axes * s**2) @ axes.T)
    b = Moments(9, np.full(300, 0.1), (axes * t**2) @ axes.T)
    expected = 3 + ((s - t) ** 2).sum()
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-7)


def test_moments_stand_for_the_features():
    a, b = RNG.normal(size=(2, 30, 5))
    got = frechet_distance(Moments.of(a), b)
    assert got == frechet_distance(a, b)
    np.testing.assert_allclose(Moments.of(a).covariance, np.cov(a.T), rtol=1e-12)


def test_what_does_not_fit():
    with pytest.raises(InputError, match="at least 2 examples per set, got 1"):
        frechet_distance(np.zeros((1, 3)), np.zeros((5, 3)))
    with pytest.raises(InputError, match="same number of features, got 3 and 4"):
        frechet_distance(np.zeros((5, 3)), np.zeros((5, 4)))
