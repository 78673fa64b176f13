"""Bits per dimension at the oracle: the bound's terms, and the exact density."""

import math
from functools import partial
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import kstest, norm

import jaxdiff as jd
from jaxdiff import rng
from jaxdiff.evaluation import likelihood
from jaxdiff.schedules import ScheduleOptions, forward
from tests.helpers.long_parameters import long_where

BIN = 2 / 255
MEAN = np.array([0.6, -0.2, 0.0, -0.8])
ROOT = np.array([[3, 0, 0, 0], [1, 2, 0, 0], [-1, 1, 4, 0], [0, 2, 1, 3]]) / 10
COVARIANCES = {"diagonal": np.diag([0.04, 0.2, 0.3, 0.1]), "full": ROOT @ ROOT.T}
VARIANCES = (
    jd.samplers.FixedSmall(),
    jd.samplers.FixedLarge(),
    jd.samplers.LearnedRange(),
)
SCHEDULES = [
    jd.Linear(),
    jd.Cosine(num_steps=200),
    jd.schedules.VP(num_steps=100, t_min=0.01),
    jd.schedules.VE(num_steps=100, sigma_min=0.02),
]


def grey(x):
    return jnp.clip(jnp.round((x + 1) / BIN), 0, 255) * BIN - 1


def gaussian(kind):
    covariance = jnp.float32(COVARIANCES[kind])
    if kind == "diagonal":
        covariance = jnp.diag(covariance).reshape(2, 2, 1)
    return jd.oracles.Gaussian.of(jnp.float32(MEAN).reshape(2, 2, 1), covariance)


def informed(oracle, x_t, level):
    """Returns the oracle's estimate with the variance fraction 0.3 + 0.4 alpha^2."""
    alpha, _ = level.scales(x_t)
    fraction = jnp.broadcast_to(0.3 + 0.4 * alpha**2, x_t.shape)
    return oracle(x_t, level)._replace(variance_fraction=fraction)


def bound_of(variances, oracle, schedule, x_0, key, indices=None):
    return likelihood.variational_bound(
        partial(informed, oracle), schedule, x_0, key, variances, indices=indices
    )


bound = jax.jit(partial(bound_of, VARIANCES))


def scales(schedule):
    """Returns alpha, sigma [T] and the prior's scale, in float64."""
    u = np.linspace(0, 1, schedule.num_steps)
    if isinstance(schedule, jd.schedules.VE):
        sigma = (0.02 ** (1 / 7) + u * (80 ** (1 / 7) - 0.02 ** (1 / 7))) ** 7
        return np.ones_like(u), sigma, 80.0
    if isinstance(schedule, jd.schedules.VP):
        t = 0.01 + 0.99 * u
        bars = np.exp(-(t**2) * 19.9 / 2 - t * 0.1)
    else:
        bars = np.cumprod(1 - np.asarray(schedule.betas, np.float64))
    return np.sqrt(bars), np.sqrt(1 - bars), 1.0


def log_mass(x, mean, deviation):
    """Returns the log mass of x's bin; the outermost bins are open."""
    a = np.where(x < -0.999, -np.inf, (x - BIN / 2 - mean) / deviation)
    b = np.where(x > 0.999, np.inf, (x + BIN / 2 - mean) / deviation)
    a, b = np.minimum(a, -b), np.minimum(b, -a)  # in the lower tail
    return norm.logcdf(b) + np.log1p(-np.exp(norm.logcdf(a) - norm.logcdf(b)))


def expected_bound(covariance, schedule, x_0, key):
    """Returns L_T [batch] and L_t [variances, batch, T], by NumPy in float64."""
    alpha, sigma, prior_scale = scales(schedule)
    num_steps, size = len(alpha), x_0[0].size
    keys = rng.example_keys(key, jnp.arange(len(x_0)))
    draw = jax.vmap(lambda t: rng.normal(rng.fold(keys, t), (size,)))
    eps = np.asarray(draw(jnp.arange(num_steps)), np.float64)
    x_0 = np.asarray(x_0, np.float64).reshape(len(x_0), size)

    ratio = (sigma[-1] / prior_scale) ** 2
    x = alpha[-1] * x_0 / prior_scale
    prior = ((ratio - 1 - np.log(ratio) + x**2) / 2).mean(axis=1) / np.log(2)

    small, terms = 0.0, []
    for t in reversed(range(num_steps)):
        a_t, v_t = alpha[t], sigma[t] ** 2
        a_s, v_s = (alpha[t - 1], sigma[t - 1] ** 2) if t else (1.0, 0.0)
        beta = v_t - (a_t / a_s) ** 2 * v_s
        x_t = a_t * x_0 + sigma[t] * eps[t]
        whole = a_t**2 * covariance + v_t * np.eye(size)
        gain = a_t * covariance @ np.linalg.inv(whole)
        estimate = MEAN + (x_t - a_t * MEAN) @ gain.T
        # The last step has the smaller variance of the step before.
        small = beta * v_s / v_t if t else small
        fraction = 0.3 + 0.4 * a_t**2
        for var in (small, beta, beta**fraction * small ** (1 - fraction)):
            apart = a_s * beta / v_t * (x_0 - estimate)
            kl = (small / var - 1 - np.log(small / var) + apart**2 / var) / 2
            nats = kl if t else -log_mass(x_0, estimate, np.sqrt(var))
            terms.append(nats.mean(axis=1) / np.log(2))
    return prior, np.reshape(terms, (num_steps, 3, -1))[::-1].transpose(1, 2, 0)


def difference(got, expected):
    """Returns the largest difference of the prior's term, other terms and total."""
    prior, every = expected
    worst = []
    for one, terms in zip(got, every, strict=True):
        total = prior + terms.sum(axis=1)
        pairs = ((one.prior, prior), (one.terms, terms), (one.total, total))
        worst += [abs(np.asarray(a, np.float64) - b).max() for a, b in pairs]
    return max(worst)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("diagonal", SCHEDULES[0]),
        ("full", SCHEDULES[0]),
        *(pytest.param("full", s, marks=pytest.mark.long) for s in SCHEDULES[1:]),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_bound_is_that_of_float64(kind, options):
    schedule, oracle, key = options.build(), gaussian(kind), jax.random.key(1)
    x_0 = grey(oracle.draw(jax.random.key(0), 4))
    assert abs(x_0).max() == 1  # the outermost bins count
    expected = expected_bound(COVARIANCES[kind], schedule, x_0, key)
    assert difference(bound(oracle, schedule, x_0, key), expected) < 1e-4


def continuous(x, mean, deviation):
    return jax.scipy.stats.norm.logpdf(x, mean, deviation) + math.log(BIN)


def closed(x, mean, deviation):
    edges = [(x + side - mean) / deviation for side in (BIN / 2, -BIN / 2)]
    above, below = (jax.scipy.stats.norm.cdf(edge) for edge in edges)
    return jnp.log(above - below)


def opposite(x_0, x_t, level, next_level):
    mean, variance = forward.posterior(x_0, x_t, level, next_level)
    return -mean, variance


@pytest.mark.parametrize(
    ("broken", "by"),
    [
        ("losses.variational.BIN", BIN),  # unchanged: the test itself passes
        ("losses.variational.BIN", 2 / 256),
        ("losses.variational.discretised_log_likelihood", continuous),
        ("losses.variational.discretised_log_likelihood", closed),
        ("losses.variational.posterior", opposite),
        ("evaluation.likelihood.prior_term", lambda schedule, x_0: jnp.zeros(len(x_0))),
        ("evaluation.likelihood.variance_floor", lambda schedule: 1e-20),
        ("evaluation.likelihood.variance_floor", lambda schedule: schedule.betas[0]),
    ],
)
def test_no_wrong_term_would_pass(monkeypatch, broken, by):
    schedule = jd.Schedule.from_betas(np.linspace(0.004, 0.25, 50))
    oracle, key = gaussian("diagonal"), jax.random.key(1)
    x_0 = grey(oracle.draw(jax.random.key(0), 4))
    prior, every = expected_bound(COVARIANCES["diagonal"], schedule, x_0, key)
    monkeypatch.setattr(f"jaxdiff.{broken}", by)
    small = jax.jit(partial(bound_of, VARIANCES[:1]))
    got = small(oracle, schedule, x_0, key)
    assert (difference(got, (prior, every[:1])) < 1e-4) == (by == BIN)


def scaled(num_steps):
    """Returns DDPM's linear schedule, scaled to the same noise in other steps."""
    betas = np.linspace(1e-4, 0.02, num_steps) * (1000 / num_steps)
    return jd.Schedule.from_betas(np.minimum(betas, 0.999))


def test_bound_bounds_and_approaches_the_truth():
    """The mean bound is not below the truth, and more steps bring the two together."""
    mean, deviation = MEAN / 4, 0.1
    oracle = jd.oracles.Gaussian.of(jnp.float32(mean).reshape(2, 2, 1), deviation**2)
    x_0 = grey(oracle.draw(jax.random.key(0), 1000))
    x = np.asarray(x_0, np.float64).reshape(-1, 4)
    truth = -log_mass(x, mean, deviation).mean(axis=1) / np.log(2)
    gaps = []
    for num_steps in (10, 100, 1000):
        bounds = bound(oracle, scaled(num_steps), x_0, jax.random.key(1))
        gap = np.array([one.total - truth for one in bounds])
        error = gap.std(axis=1) / len(x) ** 0.5
        assert (gap.mean(axis=1) > (4 * error if num_steps < 1000 else -error)).all()
        gaps.append(gap.mean(axis=1))
    _, large, learned = np.transpose(gaps)
    assert 4 * large[1] < large[0]
    assert 4 * learned[1] < learned[0]
    assert abs(large[2]) < 0.06
    assert abs(learned[2]) < 0.06


def test_value_of_an_example_depends_on_the_key_and_its_index_alone(short):
    oracle = gaussian("full")
    x = grey(oracle.draw(jax.random.key(0), 4))

    @jax.jit
    def values(x, key, indices=None):
        (terms,) = bound_of(VARIANCES[:1], oracle, short, x, key, indices)
        density = likelihood.ode_log_density(
            oracle, short, x, key, num_steps=4, indices=indices
        )
        return terms.terms, density, likelihood.dequantise(x, key, indices)

    whole, other = values(x, jax.random.key(1)), values(x, jax.random.key(2))
    alone = values(x[2:3], jax.random.key(1), jnp.array([2]))
    for every, one, no in zip(whole, alone, other, strict=True):
        np.testing.assert_allclose(one[0], every[2], rtol=1e-5, atol=1e-5)
        assert abs(no - every).max() > 1e-3
    np.testing.assert_array_equal(alone[-1][0], whole[-1][2])


def mixture(dtype=np.float32):
    means = np.array([[0.6, -0.3], [-0.5, 0.4]], dtype)
    covariances = np.array([[[0.3, 0.1], [0.1, 0.25]], [[0.36, 0], [0, 0.28]]], dtype)
    parts = [
        jd.oracles.Gaussian.of(*pair) for pair in zip(means, covariances, strict=True)
    ]
    return jd.oracles.GaussianMixture.of(np.array([0.4, 0.6], dtype), parts)


density = jax.jit(
    partial(likelihood.ode_log_density, exact_trace=True), static_argnames="num_steps"
)


@pytest.mark.parametrize("options", get_args(ScheduleOptions))
def test_ode_gives_a_mixtures_density(options):
    oracle, schedule = mixture(), options().build()
    x = oracle.draw(jax.random.key(0), 512)
    got = density(oracle, schedule, x, jax.random.key(1))
    error = np.asarray(got - oracle.log_density(x)) / (2 * math.log(2))
    assert abs(error.mean()) < 1e-3
    assert (error**2).mean() ** 0.5 < 5e-3


def test_ode_given_labels_gives_the_classs_density():
    labels = jnp.arange(512) % 2
    oracle, schedule = mixture(), jd.Linear().build()
    x = oracle.bind(labels).draw(jax.random.key(0), 512)
    got = density(oracle.bind(labels), schedule, x, jax.random.key(1))
    of_each = jax.vmap(lambda part: part.log_density(x))(oracle.components)
    error = np.asarray(got - jnp.where(labels == 0, *of_each)) / (2 * math.log(2))
    assert abs(error.mean()) < 1e-3
    assert (error**2).mean() ** 0.5 < 5e-3


def test_ode_is_solved_to_fourth_order():
    schedule = jd.schedules.VE().build()
    with jax.enable_x64(True):
        oracle, key = mixture(np.float64), jax.random.key(1)
        x = oracle.draw(jax.random.key(0), 64)
        coarse, finer, fine = (
            density(oracle, schedule, x, key, num_steps=n) for n in (16, 64, 256)
        )
        assert fine.dtype == jnp.float64
        errors = [float(abs(one - fine).mean()) for one in (coarse, finer)]
    assert 3.4 < math.log(errors[0] / errors[1], 4) < 4.3


def test_random_signs_are_unbiased():
    oracle, schedule = gaussian("full"), jd.schedules.VP().build()
    x = jnp.repeat(oracle.draw(jax.random.key(0), 2), 2048, axis=0)
    run = jax.jit(partial(likelihood.ode_log_density, num_steps=8))
    estimates = np.asarray(run(oracle, schedule, x, jax.random.key(1)), np.float64)
    exact = density(oracle, schedule, x[::2048], jax.random.key(1), num_steps=8)
    for values, one in zip(estimates.reshape(2, 2048), exact, strict=True):
        assert values.std() > 0.1
        assert abs(values.mean() - one) < 4 * values.std() / 2048**0.5


def test_dequantised_images_are_uniform_in_their_bins():
    images = grey(jnp.linspace(-1, 1, 4096).reshape(256, 4, 4))
    noise = np.asarray(likelihood.dequantise(images, jax.random.key(0)) - images)
    assert abs(noise).max() < BIN / 2 + 1e-6
    assert kstest(noise.ravel() / BIN + 0.5, "uniform").pvalue > 0.01


def test_bits_per_dim_of_a_uniform_density_are_eight():
    """Dequantised 8-bit images range from -1 - 1/255 to 1 + 1/255."""
    log_density = -12 * jnp.log(2 + jnp.full(3, BIN))
    got = likelihood.bits_per_dim(log_density, 12)
    np.testing.assert_allclose(got, np.full(3, 8.0), rtol=1e-6)


def test_dequantised_bits_bound_the_discretised():
    """Jensen's inequality gives the sign of the gap, and the curvature its size."""
    deviation = 0.02
    oracle = jd.oracles.Gaussian.of(jnp.zeros(4), deviation**2)
    x = grey(oracle.draw(jax.random.key(0), 8192))
    noisy = likelihood.dequantise(x, jax.random.key(1))
    bits = likelihood.bits_per_dim(oracle.log_density(noisy), 4)
    discretised = -log_mass(np.float64(x), 0, deviation).mean(axis=1) / np.log(2)
    gap = np.float64(bits) - discretised
    error = gap.std() / len(gap) ** 0.5
    assert gap.mean() > 4 * error
    assert abs(gap.mean() - (BIN / deviation) ** 2 / 24 / np.log(2)) < 4 * error


# The bound from some of its terms.


@pytest.mark.parametrize(
    "schedule",
    long_where(lambda s: not isinstance(s, jd.Cosine), SCHEDULES),
    ids=lambda s: type(s).__name__,
)  # fmt: skip
def test_some_terms_estimate_the_bound(schedule):
    """Averaged over copies of an image, each part is the sum of its terms."""
    schedule, oracle = schedule.build(), gaussian("full")
    x_0 = jnp.repeat(grey(oracle.draw(jax.random.key(5), 1)), 4096, axis=0)
    some = likelihood.variational_bound(
        partial(informed, oracle), schedule, x_0, jax.random.key(1), VARIANCES,
        num_terms=8,
    )  # fmt: skip
    every = bound_of(VARIANCES, oracle, schedule, x_0[:1024], jax.random.key(2))
    edges = likelihood.bound_parts(schedule.num_steps, 8)
    for one, whole in zip(some, every, strict=True):
        got = np.asarray(one.terms, np.float64)
        terms = np.asarray(whole.terms, np.float64)
        expected = np.add.reduceat(terms, edges[:-1], axis=1)
        assert got.shape == (4096, 8)
        error = np.hypot(got.std(axis=0) / 64, expected.std(axis=0) / 32)
        apart = abs(got.mean(axis=0) - expected.mean(axis=0))
        np.testing.assert_array_less(apart, 4.5 * error + 1e-5)
        np.testing.assert_array_equal(one.prior[0], whole.prior[0])


@pytest.mark.parametrize(("num_steps", "num_terms"), [(2, 2), (9, 7), (1000, 20)])
def test_the_parts_of_the_bound(num_steps, num_terms):
    """The parts cover all times once; none is empty, and the last is the widest."""
    edges = likelihood.bound_parts(num_steps, num_terms)
    assert (edges[0], edges[1], edges[-1]) == (0, 1, num_steps)
    sizes = np.diff(edges)
    assert len(sizes) == num_terms
    assert (sizes >= 1).all()
    assert sizes[-1] == sizes.max()
    np.testing.assert_array_equal(
        likelihood.bound_parts(num_steps, num_steps), np.arange(num_steps + 1)
    )


@pytest.mark.parametrize("num_terms", [1, 0, 201])
def test_how_many_terms_there_are(num_terms):
    with pytest.raises(jd.InputError, match=rf"2\.\.200, got {num_terms}"):
        likelihood.bound_parts(200, num_terms)


def test_types_of_images(short):
    """Half precision is computed in float32; integers are refused."""
    oracle, key = gaussian("diagonal"), rng.key(0)
    x_0 = grey(oracle.draw(key, 3)).astype(jnp.bfloat16)
    whole = x_0.astype(jnp.float32)
    functions = [
        lambda x: bound_of(VARIANCES[:1], oracle, short, x, key)[0].total,
        lambda x: likelihood.ode_log_density(oracle, short, x, key, num_steps=2),
        lambda x: likelihood.dequantise(x, key),
        lambda x: jd.samplers.encode(oracle, jd.DPMSolver(), short, x),
    ]
    for function in functions:
        found = function(x_0)
        assert found.dtype == jnp.float32
        np.testing.assert_array_equal(found, function(whole))
        with pytest.raises(jd.InputError, match=r"floating point, got uint8\. Scale"):
            function(np.zeros((3, 2, 2, 1), np.uint8))


def test_large_variance_with_improved_ddpms_last_step(short):
    """Their fixed-large variance is the posterior's of step 1 in the last step."""
    oracle, key = gaussian("diagonal"), rng.key(0)
    x_0 = grey(oracle.draw(key, 8))
    variances = (
        jd.samplers.FixedSmall(),
        jd.samplers.FixedLarge(),
        jd.samplers.FixedLargeFloored(),
    )
    small, large, theirs = bound_of(variances, oracle, short, x_0, key)
    np.testing.assert_array_equal(theirs.terms[:, 0], small.terms[:, 0])
    np.testing.assert_array_equal(theirs.terms[:, 1:], large.terms[:, 1:])
    assert abs(theirs.total - large.total).max() > 0.01
