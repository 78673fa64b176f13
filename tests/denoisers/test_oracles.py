"""Oracles against SciPy's densities and Bayes' rule, in float64 at every schedule."""

import functools
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

import jaxdiff as jd
from jaxdiff.samplers.base import _chain as chain
from jaxdiff.schedules import ScheduleOptions

CHAIN: Any = chain
IMAGE, VECTOR = (2, 2, 1), (3,)
CLASSES = np.array([0, 1, 1, 0], np.int32)
CASES = [
    pytest.param(1, False, IMAGE, id="diagonal-image"),
    pytest.param(1, False, VECTOR, id="diagonal-vector"),
    pytest.param(1, True, IMAGE, id="full-image"),
    pytest.param(1, True, VECTOR, id="full-vector"),
    pytest.param(4, True, IMAGE, id="mixture-image"),
    pytest.param(4, False, VECTOR, id="mixture-vector"),
]
every_case = pytest.mark.parametrize(("num", "full", "shape"), CASES)
every_schedule = pytest.mark.parametrize("options", get_args(ScheduleOptions))


class Truth(NamedTuple):
    """Mixture of K Gaussians in NumPy: [K], [K, D] and [K, D, D] in float64."""

    weights: np.ndarray
    means: np.ndarray
    covariances: np.ndarray

    @classmethod
    def of(cls, num: int, full: bool, size: int, seed: int = 0) -> "Truth":
        rng = np.random.default_rng(seed)
        roots = rng.normal(size=(num, size, size))
        covariances = roots @ roots.swapaxes(1, 2) / size + 0.2 * np.eye(size)
        weights = rng.uniform(0.5, 1.5, num)
        return cls(
            weights / weights.sum(),
            rng.normal(size=(num, size)),
            covariances if full else covariances * np.eye(size),
        )

    def of_class(self, label: int) -> "Truth":
        ours = Truth(*(array[label == CLASSES] for array in self))
        return ours._replace(weights=ours.weights / ours.weights.sum())

    def log_density(self, x: Any, alphas: Any, sigmas: Any) -> np.ndarray:
        """Returns log p(x_t), from the marginals' means and covariances."""
        eye = np.eye(self.means.shape[-1])
        return np.array([
            logsumexp(
                [
                    multivariate_normal(alpha * m, alpha**2 * c + sigma**2 * eye)
                    .logpdf(point)
                    for m, c in zip(self.means, self.covariances, strict=True)
                ],
                b=self.weights,
            )
            for point, alpha, sigma in zip(
                np.reshape(x, (len(x), -1)), alphas, sigmas, strict=True
            )
        ])  # fmt: skip

    def mean(self) -> np.ndarray:
        return self.weights @ self.means

    def covariance(self) -> np.ndarray:
        """Returns the covariance by the law of total variance."""
        apart = self.means - self.mean()
        outer = apart[:, :, None] * apart[:, None, :]
        return np.tensordot(self.weights, self.covariances + outer, 1)

    def oracle(self, shape: tuple[int, ...], classes: Any = CLASSES) -> Any:
        """Returns jaxdiff's oracle of the same data, in the default precision."""
        components = [
            jd.oracles.Gaussian.of(
                m.reshape(shape),
                c if np.count_nonzero(c) > len(c) else np.diag(c).reshape(shape),
            )
            for m, c in zip(self.means, self.covariances, strict=True)
        ]
        if len(components) == 1:
            return components[0]
        return jd.oracles.GaussianMixture.of(self.weights, components, classes)


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


@functools.cache
def noised(options: Any, shape: tuple[int, ...]) -> tuple[Any, Any]:
    """Returns x_t and its level in float64, at the first, middle and last times."""
    with jax.enable_x64(True):
        schedule = options().build()
        times = np.asarray(schedule.times)[[0, 0, 1, 300, 500, 998, 999]]
        level = jax.tree.map(np.float64, schedule.level(times))
    x_0, eps = np.random.default_rng(1).normal(size=(2, len(times), *shape))
    scale = (-1,) + (1,) * len(shape)
    x_t = level.alpha.reshape(scale) * 1.5 * x_0 + level.sigma.reshape(scale) * eps
    return x_t, level


@functools.cache
def case(num: int, full: bool, shape: tuple[int, ...], seed: int = 0) -> Any:
    """Returns a truth and its oracle, in float64."""
    truth = Truth.of(num, full, int(np.prod(shape)), seed)
    with jax.enable_x64(True):
        return truth, truth.oracle(shape)


@jax.jit
def log_density(oracle, x, level=None):
    return oracle.log_density(x, level)


@jax.jit
def answers(oracle, x_t, level):
    """Returns the estimate, the score, and the score by differentiation."""
    gradient = jax.grad(lambda x: oracle.log_density(x, level).sum())(x_t)
    return oracle(x_t, level), oracle.score(x_t, level), gradient


ANSWERS: Any = answers


@jax.jit
def covariance(oracle, x_t, level):
    return oracle.posterior_covariance(x_t, level)


@jax.jit
def hessian(oracle, x_t, level):
    """Returns the Hessian of the log-density [batch, D, D]."""

    def one(x, level):
        return oracle.log_density(x.reshape(1, *x_t.shape[1:]), level)[0]

    return jax.vmap(jax.hessian(one))(x_t.reshape(len(x_t), -1), level)


@every_schedule
@every_case
def test_log_density_is_scipys(num, full, shape, options, x64):
    (truth, oracle), (x, level) = case(num, full, shape), noised(options, shape)
    expected = truth.log_density(x, level.alpha, level.sigma)
    np.testing.assert_allclose(log_density(oracle, x, level), expected, rtol=1e-9)


@every_case
def test_density_of_the_data_itself(num, full, shape, x64):
    truth, oracle = case(num, full, shape)
    x = np.random.default_rng(2).normal(size=(5, *shape))
    expected = truth.log_density(x, np.ones(5), np.zeros(5))
    np.testing.assert_allclose(log_density(oracle, x), expected)


@every_schedule
@every_case
def test_estimate_and_score_are_the_densitys_gradient(num, full, shape, options, x64):
    (_, oracle), (x_t, level) = case(num, full, shape), noised(options, shape)
    estimate, score, gradient = jax.device_get(answers(oracle, x_t, level))
    alpha, sigma = level.scales(x_t)
    close: Any = {"rtol": 1e-7, "atol": 1e-9}
    np.testing.assert_allclose(score, gradient, **close)
    np.testing.assert_allclose(estimate.eps, -sigma * gradient, **close)
    rebuilt = alpha * estimate.x_0 + sigma * estimate.eps
    np.testing.assert_allclose(rebuilt, x_t, **close)


@every_schedule
@every_case
def test_posterior_covariance_is_second_order_tweedie(num, full, shape, options, x64):
    """Cov[x_0|x_t] = (sigma / alpha)^2 (1 + sigma^2 Hessian); Bayes' rule if K = 1."""
    (truth, oracle), (x_t, level) = case(num, full, shape), noised(options, shape)
    got = jax.device_get(covariance(oracle, x_t, level))
    alpha, sigma = level.scales(got)
    eye = np.eye(got.shape[-1])
    if num == 1:
        precision = np.linalg.inv(truth.covariances) + (alpha / sigma) ** 2 * eye
        np.testing.assert_allclose(got, np.linalg.inv(precision), rtol=1e-9, atol=1e-12)
    curvature = eye + sigma**2 * jax.device_get(hessian(oracle, x_t, level))
    np.testing.assert_allclose(
        alpha**2 * got, sigma**2 * curvature, rtol=1e-6, atol=1e-13 * sigma.max() ** 2
    )


@pytest.mark.parametrize(
    "options", [jd.schedules.RectifiedFlow, jd.schedules.ZeroTerminalSNR]
)
@every_case
def test_pure_noise_tells_nothing(num, full, shape, options, x64):
    (truth, oracle), (x_t, level) = case(num, full, shape), noised(options, shape)
    x_t, level = x_t[-2:], jd.Level(*(field[-1] for field in level))
    assert (level.alpha, level.sigma) == (0, 1)
    estimate, score, _ = answers(oracle, x_t, level)
    mean = np.broadcast_to(truth.mean().reshape(shape), x_t.shape)
    np.testing.assert_allclose(estimate.x_0, mean, rtol=1e-9)
    np.testing.assert_allclose(estimate.eps, x_t, rtol=1e-9)
    np.testing.assert_allclose(score, -x_t, rtol=1e-9)
    expected = np.broadcast_to(truth.covariance(), (2, x_t[0].size, x_t[0].size))
    np.testing.assert_allclose(
        covariance(oracle, x_t, level), expected, rtol=1e-9, atol=1e-12
    )


@every_schedule
def test_single_precision_is_close(options):
    args = case(4, True, IMAGE)[1], *noised(options, IMAGE)
    with jax.enable_x64(True):
        exact = *answers(*args)[:2], log_density(*args)
    single = jax.device_get(args)  # float64 enters JAX as float32 here
    got = *answers(*single)[:2], log_density(*single)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(exact), strict=True):
        assert (a.dtype, b.dtype) == (jnp.float32, jnp.float64)
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_a_class_is_the_mixture_of_its_components(x64):
    (truth, mixture), (x_t, level) = case(4, True, IMAGE), noised(jd.Cosine, IMAGE)
    labels = np.array([0, 1, 0, 1, 1, 0, 1])
    bound = mixture.bind(labels)
    got = (*answers(bound, x_t, level), covariance(bound, x_t, level))
    for label in (0, 1):
        oracle = truth.of_class(label).oracle(IMAGE, np.zeros(2, np.int32))
        alone = (*answers(oracle, x_t, level), covariance(oracle, x_t, level))
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(a[labels == label], b[labels == label])
    free = answers(bound.bind(None), x_t, level)
    expected = answers(mixture, x_t, level)
    for a, b in zip(jax.tree.leaves(free), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b)


@every_schedule
def test_total_probability(options, x64):
    """The density p(x) is the sum of p(c) p(x | c) over the classes c."""
    (truth, oracle), (x, level) = case(4, True, IMAGE), noised(options, IMAGE)
    shares = [truth.weights[label == CLASSES].sum() for label in (0, 1)]
    given = [
        log_density(oracle.bind(np.full(len(x), label)), x, level) for label in (0, 1)
    ]
    expected = logsumexp(given, axis=0, b=np.reshape(shares, (2, 1)))
    np.testing.assert_allclose(log_density(oracle, x, level), expected)


@jax.jit
def draw(oracle):
    return oracle.draw(jax.random.key(0), 20_000)


def assert_moments(data, truth):
    """Asserts mean and covariance within 4 standard errors, from the data's spread."""
    data = np.asarray(data, np.float64).reshape(len(data), -1)
    apart = data - truth.mean()
    products = apart[:, :, None] * apart[:, None, :]
    for got, expected in ((apart, 0), (products, truth.covariance())):
        error = got.std(axis=0) / len(data) ** 0.5
        assert (abs(got.mean(axis=0) - expected) < 4 * error).all()


@every_case
def test_drawn_data_has_its_moments(num, full, shape):
    truth = Truth.of(num, full, int(np.prod(shape)))
    data = draw(truth.oracle(shape))
    assert (data.shape, data.dtype) == ((20_000, *shape), jnp.float32)
    assert_moments(data, truth)


def test_drawn_data_is_of_its_class():
    truth, labels = Truth.of(4, True, 4), np.arange(20_000) % 2
    data = draw(truth.oracle(IMAGE).bind(labels))
    for label in (0, 1):
        assert_moments(data[label::2], truth.of_class(label))


def test_sampled_images_are_of_their_class_and_compile_once(short):
    def apart(seed):
        """Returns two narrow components per class, with means far apart."""
        truth = Truth.of(4, True, 4, seed)
        narrow = truth.covariances / 100
        return truth._replace(means=3 * truth.means, covariances=narrow).oracle(IMAGE)

    def sample(oracle, labels):
        denoiser, key = oracle.bind(labels), jax.random.key(0)
        return jd.sample(denoiser, jd.DDPM(), short, key, (32, *IMAGE))

    labels = np.arange(32) % 2
    images = sample(apart(0), labels)
    compiled = CHAIN._cache_size()
    own = apart(0).responsibilities(images)[CLASSES == 0].sum(axis=0)
    np.testing.assert_allclose(own, labels == 0, atol=1e-3)
    other = sample(apart(0), 1 - labels)
    np.testing.assert_allclose(
        apart(0).responsibilities(other)[CLASSES == 0].sum(axis=0), labels, atol=1e-3
    )
    assert not np.array_equal(sample(apart(1), labels), images)
    assert CHAIN._cache_size() == compiled


@every_case
def test_other_data_does_not_compile_again(num, full, shape, x64):
    args = noised(jd.Linear, shape)
    first = answers(case(num, full, shape)[1], *args)[0]
    compiled = ANSWERS._cache_size()
    second = answers(case(num, full, shape, seed=1)[1], *args)[0]
    assert not np.allclose(first.x_0, second.x_0)
    assert ANSWERS._cache_size() == compiled


ZEROS, EYE = np.zeros(2, np.float32), np.eye(2)
ONE = jd.oracles.Gaussian.of(ZEROS, 1.0)
MIXTURE: Any = jd.oracles.GaussianMixture.of
PAIR = MIXTURE([1.0, 3.0], [ONE, ONE])
KEY = jax.random.key(0)
X, LEVEL = jnp.ones((3, 2)), jd.Linear().build().level(500)


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (
            lambda: jd.oracles.Gaussian.of(ZEROS, np.ones(3)),
            r"covariance must have shape \(\), \(2,\) or \(2, 2\), got \(3,\)",
        ),
        (
            lambda: jd.oracles.Gaussian.of(ZEROS, np.array([[1.0, 0.1], [0.2, 1.0]])),
            "covariance must be symmetric, got another",
        ),
        (
            lambda: jd.oracles.Gaussian.of(ZEROS, np.array([[1.0, 2.0], [2.0, 1.0]])),
            "covariance must be positive, got a variance of -1",
        ),
        (
            lambda: jd.oracles.Gaussian.of(ZEROS, np.array([1.0, -0.5])),
            "covariance must be positive, got a variance of -0.5",
        ),
        (
            lambda: jd.oracles.Gaussian.of(ZEROS, 0.0),
            "positive, got a variance of 0",
        ),
        (
            lambda: jd.oracles.Gaussian.of(ZEROS, np.nan),
            "positive, got a variance of nan",
        ),
        (lambda: ONE.log_density(jnp.ones((3, 4))), r"x must have shape .*\(3, 4\)"),
        (lambda: PAIR.score(X[0], LEVEL), r"x must have shape .*got \(2,\)"),
        (
            lambda: MIXTURE([1.0], [ONE, ONE]),
            r"weights and classes must have shape \(2,\), got shapes \(1,\) and",
        ),
        (
            lambda: MIXTURE([1.0, 1.0], [ONE, ONE], [0, 1, 2]),
            r"weights and classes must have shape \(2,\), .* and \(3,\)",
        ),
        (
            lambda: MIXTURE([1.0, 0.0], [ONE, ONE]),
            "weights must be above 0, got 0",
        ),
        (
            lambda: MIXTURE([1.0, np.nan], [ONE, ONE]),
            "weights must be above 0, got nan",
        ),
        (
            lambda: MIXTURE([1.0, 1.0], [ONE, ONE], [0, 2]),
            r"classes must be 0, 1, \.\.\., each with a component, got \[0 2\]",
        ),
        (
            lambda: MIXTURE([1, 1], [ONE, jd.oracles.Gaussian.of(ZEROS, EYE)]),
            "components must .* be all diagonal or all full, got 2 kinds",
        ),
        (lambda: MIXTURE([], []), "components must .*, got 0 kinds"),
        (lambda: PAIR.bind([0, 2]), r"labels must lie in 0\.\.1, got 2"),
        (lambda: PAIR.bind([-1, 1]), r"labels must lie in 0\.\.1, got -1"),
        (lambda: PAIR.bind([0.5]), "labels must be integers, got float32"),
        (lambda: PAIR.bind([0, 1])(X, LEVEL), r"must have shape \(3,\), got \(2,\)"),
        (lambda: PAIR.bind(1).score(X, LEVEL), r"must have shape \(3,\), got \(\)"),
        (lambda: PAIR.bind([0]).draw(KEY, 3), r"must have shape \(3,\), got \(1,\)"),
    ],
)
def test_mistakes(mistake, message):
    with pytest.raises(jd.InputError, match=message) as error:
        mistake()
    assert "\n" not in str(error.value)


def test_numbers_may_be_of_any_kind():
    whole = jd.oracles.Gaussian.of(np.array([1, 2]), 0.25)
    np.testing.assert_array_equal(whole.variances, [0.25, 0.25])
    assert whole(X, LEVEL).x_0.dtype == jnp.float32
    large = jd.oracles.Gaussian.of(ZEROS, 1e4 * np.array([[2, 1], [1 + 1e-7, 2]]))
    np.testing.assert_allclose(large.variances, [1e4, 3e4], rtol=1e-5)
    labels = np.array([0, 1, 0])
    np.testing.assert_array_equal(
        PAIR.bind(labels.astype(np.uint8))(X, LEVEL).x_0,
        PAIR.bind(labels)(X, LEVEL).x_0,
    )
