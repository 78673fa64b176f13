"""Kernel distance, precision and recall, and nearest images, against other code."""

import numpy as np
import pytest
from sklearn import config_context
from sklearn.metrics.pairwise import polynomial_kernel
from sklearn.neighbors import NearestNeighbors

from jaxdiff.errors import InputError
from jaxdiff.evaluation import kid
from jaxdiff.evaluation.kid import kernel_distance
from jaxdiff.evaluation.memorization import copying, nearest
from jaxdiff.evaluation.precision_recall import precision_recall


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(params=["whole", "in blocks"])
def memory(request, monkeypatch):
    """Sizes of blocks: whole arrays, or many small blocks."""
    if request.param == "in blocks":
        monkeypatch.setattr(kid, "_BLOCK", 100)
        with config_context(working_memory=1e-3):  # MiB
            yield
    else:
        yield


def unbiased(x, y):
    """Returns equation 4 of Binkowski et al. 2018, with scikit-learn's kernel."""

    def others(a):
        k = polynomial_kernel(a, degree=3, gamma=1 / a.shape[1], coef0=1)
        return k[~np.eye(len(a), dtype=bool)].mean()

    between = polynomial_kernel(x, y, degree=3, gamma=1 / x.shape[1], coef0=1)
    return others(x) + others(y) - 2 * between.mean()


def test_kernel_distance_and_its_jackknife(rng, memory):
    x, y = rng.normal(size=(23, 4)), rng.normal(0.3, 1, size=(31, 4))
    value, error = kernel_distance(x, y)
    assert value == pytest.approx(unbiased(x, y), rel=1e-10)
    left_out = [
        [unbiased(np.delete(x, i, axis=0), y) for i in range(len(x))],
        [unbiased(x, np.delete(y, i, axis=0)) for i in range(len(y))],
    ]
    variance = sum((len(u) - 1) * np.var(u) for u in left_out)
    assert error == pytest.approx(variance**0.5, rel=1e-8)


def test_kernel_distance_is_unbiased_and_its_error_right(rng):
    """Means over many draws, for one distribution and for two distributions."""
    for shift, low, high in ((0.0, 1.0, 2.0), (0.7, 0.8, 1.25)):
        draws = [
            kernel_distance(rng.normal(size=(40, 3)), rng.normal(shift, 1, (60, 3)))
            for _ in range(300)
        ]
        values, errors = np.array(draws).T
        # For two distributions, far more examples give the true distance.
        big = kernel_distance(
            rng.normal(size=(3000, 3)), rng.normal(shift, 1, (3000, 3))
        )
        expected = 0.0 if shift == 0 else big.value
        spread = values.std() / len(values) ** 0.5
        assert abs(values.mean() - expected) < 4 * (spread + bool(shift) * big[1])
        assert low < np.sqrt((errors**2).mean()) / values.std() < high


def test_precision_and_recall(rng, memory):
    real, generated = rng.normal(size=(40, 3)), rng.normal(0.5, 1.5, size=(30, 3))

    def share(x, centres, k):
        own = np.linalg.norm(centres[:, None] - centres, axis=2)
        radii = np.sort(own, axis=1)[:, k]
        gaps = np.linalg.norm(x[:, None] - centres, axis=2)
        return (gaps <= radii).any(axis=1).mean()

    for k in (1, 3, 29):
        found = precision_recall(real, generated, k)
        assert found.precision == share(generated, real, k)
        assert found.recall == share(real, generated, k)
    assert 0.5 < precision_recall(real, generated).precision < 1


def test_precision_and_recall_tell_two_failings_apart(rng):
    """Samples of one of two classes are precise; uniform noise covers both classes."""
    real = np.concatenate([rng.normal(-5, 1, (100, 2)), rng.normal(5, 1, (100, 2))])
    half = rng.normal(5, 1, (200, 2))
    assert precision_recall(real, half).precision > 0.9
    assert precision_recall(real, half).recall < 0.6
    wide = rng.uniform(-20, 20, (200, 2))
    assert precision_recall(real, wide).precision < 0.3
    assert precision_recall(real, wide).recall > 0.8
    assert precision_recall(real, real) == (1, 1)


def test_nearest(rng, memory):
    """Data far from the origin would make |x|^2 + |y|^2 - 2 x . y cancel."""
    queries = rng.normal(1e7, 1, size=(20, 2, 3))
    references = rng.normal(1e7, 1, size=(50, 2, 3))
    references[7] = queries[3]
    indices, gaps = nearest(queries, references)
    tree = NearestNeighbors(n_neighbors=1, algorithm="kd_tree")
    tree.fit(references.reshape(50, 6))
    expected, places = tree.kneighbors(queries.reshape(20, 6))
    np.testing.assert_array_equal(indices, places[:, 0])
    np.testing.assert_allclose(gaps, expected[:, 0], rtol=1e-6, atol=1e-4)
    assert (indices[3], gaps[3]) == (7, pytest.approx(0, abs=1e-4))


def test_copying(rng):
    a, b = rng.integers(0, 9, 60).astype(float), rng.integers(0, 9, 40).astype(float)
    found = copying(a, b)
    expected = (a[:, None] < b).mean() + (a[:, None] == b).mean() / 2
    assert found.nearer == pytest.approx(expected, rel=1e-12)
    assert found[:2] == (np.median(a), np.median(b))
    assert copying(np.zeros(3), np.ones(4)).nearer == 1
    assert copying(np.ones(3), np.zeros(4)).nearer == 0
    assert copying(np.ones(3), np.ones(4)).nearer == 0.5


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: kernel_distance(np.ones((2, 3)), np.ones((5, 3))), "at least 3"),
        (lambda: kernel_distance(np.ones((5, 3)), np.ones((5, 4))), "3 and 4"),
        (lambda: precision_recall(np.ones((5, 3)), np.ones((4, 3)), 4), "1..3"),
        (lambda: precision_recall(np.ones((5, 3)), np.ones((4, 3)), 0), "got 0"),
        (lambda: nearest(np.ones(3), np.ones((4, 3))), "queries must be"),
        (lambda: nearest(np.ones((3, 1)), np.ones((0, 3))), "not empty"),
        (lambda: nearest(np.full((3, 1), np.nan), np.ones((4, 1))), "finite"),
        (lambda: nearest(np.ones((3, 1)), np.ones((4, 2))), "got 1 and 2"),
    ],
    ids=range(8),
)
def test_what_does_not_fit(call, words):
    with pytest.raises(InputError, match=words):
        call()
