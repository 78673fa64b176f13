"""Terms of the bound against closed forms in float64, far into the decoder's tails."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

import jaxdiff as jd
from jaxdiff.losses.variational import (
    bound_term,
    discretised_log_likelihood,
    prior_term,
)
from jaxdiff.schedules.forward import variance_floor

GREYS = np.float32(np.arange(256) * (2 / 255) - 1)
MEANS = [-1000.0, -40.0, -1 - 1 / 255, -1.0, -0.37, 1 / 255, 0.5, 1.0, 3.0, 40.0]
DEVIATIONS = [1e-6, 1e-4, 1e-3, 0.01, 0.1, 1.0]
VARIANCES = [
    jd.samplers.FixedSmall(),
    jd.samplers.FixedLarge(),
    jd.samplers.LearnedRange(),
    jd.samplers.MarginalNoise(),
]

log_likelihood = jax.jit(discretised_log_likelihood)


def grid(deviations):
    """Returns grey levels, means and deviations, each [means, deviations, 256]."""
    means, deviations = (np.array(a, np.float32) for a in (MEANS, deviations))
    return np.broadcast_arrays(GREYS, means[:, None, None], deviations[:, None])


def edges(x, mean, deviation):
    """Returns the bins' edges in deviations; the outermost bins are open."""
    x, mean, deviation = np.float64(x), np.float64(mean), np.float64(deviation)
    lower = np.where(x < -0.999, -np.inf, (x - 1 / 255 - mean) / deviation)
    return lower, np.where(x > 0.999, np.inf, (x + 1 / 255 - mean) / deviation)


def log_mass(x, mean, deviation):
    lower, upper = edges(x, mean, deviation)
    mirrored = lower + upper > 0
    high = np.where(mirrored, norm.logsf(lower), norm.logcdf(upper))
    low = np.where(mirrored, norm.logsf(upper), norm.logcdf(lower))
    return high + np.log(-np.expm1(low - high))


def test_masses_of_all_grey_levels_sum_to_one():
    args = grid([*DEVIATIONS, 10.0, 1e2, 1e4])
    masses = np.exp(np.asarray(log_likelihood(*args), np.float64))
    np.testing.assert_allclose(masses.sum(axis=-1), 1, atol=1e-6)


def test_masses_are_scipys_far_into_the_tails():
    args = grid(DEVIATIONS)
    expected = log_mass(*args)
    assert expected.min() < -1e17
    got = np.asarray(log_likelihood(*args), np.float64)
    np.testing.assert_allclose(got, expected, rtol=5e-6, atol=1e-4)
    # The outermost bins are open: far outside, they hold all the mass.
    assert (got[1, :, 0] == 0).all()
    assert (got[-1, :, 255] == 0).all()


def test_gradients_are_finite_and_the_densities_at_the_edges():
    @jax.jit
    def gradients(*args):
        return jax.grad(lambda *a: discretised_log_likelihood(*a).sum(), (1, 2))(*args)

    for gradient in gradients(*grid([*DEVIATIONS, 10.0, 1e2, 1e4, 1e6])):
        assert np.isfinite(gradient).all()
    args = grid([0.01, 0.1, 1.0])
    below, above = (np.exp(norm.logpdf(e) - log_mass(*args)) for e in edges(*args))
    near = np.min(np.abs(edges(*args)), axis=0) < 30
    lower, upper = (np.where(np.isinf(e), 0, e) for e in edges(*args))
    laws = [
        (below - above, below + above),
        (lower * below - upper * above, abs(lower) * below + abs(upper) * above),
    ]
    for gradient, (law, scale) in zip(gradients(*args), laws, strict=True):
        error = abs(args[2] * np.float64(gradient) - law)
        assert (error < 1e-4 * scale + 1e-6)[near].all()


def levels(schedule):
    """Returns alpha^2 [T] and sigma^2 [T] of each level and the next, in float64."""
    bars = np.cumprod(1 - np.asarray(schedule.betas, np.float64))
    before = np.append(1.0, bars[:-1])
    return bars, 1 - bars, before, 1 - before


@pytest.fixture(scope="module")
def guess():
    """Grey images [20, 3], noise for the times 0..19, and a wrong estimate."""
    keys = jax.random.split(jax.random.key(0), 3)
    x_0 = jnp.asarray(GREYS)[jax.random.randint(keys[0], (20, 3), 0, 256)]
    eps = jax.random.normal(keys[1], (20, 3))
    wrong = x_0 + 0.05 * jax.random.normal(keys[2], (20, 3))
    fraction = jnp.linspace(0, 1, 60).reshape(20, 3)
    return x_0, eps, jd.Estimate(wrong, eps, fraction)


@jax.jit(static_argnums=4)
def terms(schedule, x_0, eps, estimate, variance, floor):
    """Returns the term of every time, with one example per time: a batch of levels."""
    times = schedule.times
    x_t = jd.q_sample(schedule, x_0, times, eps)
    level, after = schedule.level(times), schedule.next_level(times)
    return bound_term(estimate, x_0, x_t, level, after, variance, floor)


@pytest.mark.parametrize("variance", VARIANCES)
def test_terms_are_divergences_and_the_decoder(short, guess, variance):
    x_0, eps, estimate = guess
    got = terms(short, x_0, eps, estimate, variance, variance_floor(short))
    bar, noise, bar_s, noise_s = (a[:, None] for a in levels(short))
    beta = 1 - bar / bar_s
    small = beta * noise_s / noise
    floor = np.where(small > 0, small, small[1])
    fraction = np.float64(estimate.variance_fraction)
    var = {
        jd.samplers.FixedSmall: floor,
        jd.samplers.FixedLarge: beta,
        jd.samplers.LearnedRange: beta**fraction * floor ** (1 - fraction),
        jd.samplers.MarginalNoise: noise,
    }[type(variance)]
    x_0, wrong = np.float64(x_0), np.float64(estimate.x_0)
    apart = np.sqrt(bar_s) * beta / noise * (x_0 - wrong)
    with np.errstate(divide="ignore"):
        nats = np.log(var / small) / 2 + (small + apart**2) / (2 * var) - 1 / 2
    nats[0] = -log_mass(x_0, wrong, np.sqrt(var) + 0 * wrong)[0]
    np.testing.assert_allclose(got, nats.mean(axis=1) / np.log(2), rtol=1e-4)


def test_nothing_is_lost_by_a_denoiser_that_knows_the_data(short, guess):
    x_0, eps, estimate = guess
    knows = estimate._replace(x_0=x_0)
    got = terms(short, x_0, eps, knows, jd.samplers.FixedSmall(), 1e-12)
    assert abs(got).max() < 1e-6
    for variance in (jd.samplers.FixedLarge(), jd.samplers.MarginalNoise()):
        got = terms(short, x_0, eps, knows, variance, 1e-12)
        assert (got[1:5] > 0.05).all()


def test_terms_have_finite_gradients(short, guess):
    x_0, eps, estimate = guess
    for variance in VARIANCES:
        gradient = jax.grad(
            lambda e, v=variance: terms(short, x_0, eps, e, v, 1e-4).sum()
        )(estimate)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
        assert (gradient.x_0 != 0).all()
        learned = isinstance(variance, jd.samplers.LearnedRange)
        assert (gradient.variance_fraction != 0).any() == learned


def test_last_step_has_the_variance_of_the_one_before():
    """A variance of 1e-20, as clamping 0 would give, costs over 50 bits per pixel."""
    schedule = jd.Linear().build()
    floor = variance_floor(schedule)
    x = jnp.ones((1, 1))
    one, zero = (jd.q_posterior(schedule, x, x, t) for t in (1, 0))
    np.testing.assert_allclose(floor, one.variance[0, 0], rtol=1e-6)
    np.testing.assert_allclose(zero.log_variance, one.log_variance, rtol=1e-6)
    single = jd.Schedule.from_betas(np.array([0.999]))
    np.testing.assert_allclose(variance_floor(single), 0.999, rtol=1e-6)

    x_0 = jnp.asarray(GREYS)[:, None]
    level, data = schedule.level(0), schedule.next_level(0)
    oracle = jd.oracles.Gaussian.of(jnp.zeros(1), 0.25)
    x_t = level.alpha * x_0 + level.sigma * jax.random.normal(
        jax.random.key(0), (256, 1)
    )
    estimate = oracle(x_t, level)
    term = jax.jit(bound_term, static_argnums=5)
    sane, insane = (
        term(estimate, x_0, x_t, level, data, jd.samplers.FixedSmall(), f)
        for f in (floor, jnp.float32(1e-20))
    )
    expected = -log_mass(x_0, estimate.x_0, np.sqrt(5.4531876613e-5)) / np.log(2)
    np.testing.assert_allclose(sane, expected[:, 0], rtol=1e-4, atol=1e-4)
    assert sane.mean() < 3
    assert insane.mean() > 50


@pytest.mark.parametrize(
    "options", [jd.Linear(num_steps=100), jd.schedules.VE(num_steps=100)]
)
@pytest.mark.filterwarnings("ignore:the last step keeps")
def test_prior_term(options):
    schedule = options.build()
    x_0 = jnp.linspace(-1, 1, 12).reshape(3, 2, 2)
    if isinstance(options, jd.schedules.VE):
        alpha, sigma, scale = 1.0, 80.0, 80.0
    else:
        bar = levels(schedule)[0][-1]
        alpha, sigma, scale = bar**0.5, (1 - bar) ** 0.5, 1.0
    x = np.float64(x_0)
    nats = np.log(scale / sigma) + (sigma**2 + (alpha * x) ** 2) / (2 * scale**2) - 0.5
    expected = nats.mean(axis=(1, 2)) / np.log(2)
    np.testing.assert_allclose(
        prior_term(schedule, x_0), expected, rtol=1e-4, atol=2e-7
    )
