"""Ancestral sampling of Gaussian data has the moments of a linear recursion."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from tests.helpers.compilations import OPTIMISED

MEAN = np.array([0.3, -0.5])
COVARIANCE = np.array([[0.3, 0.15], [0.15, 0.2]])
NUM, ROW = 100_000, 1000


def scaled_betas(num_steps):
    """Returns DDPM's linear betas, scaled from 1000 steps to `num_steps`."""
    betas = np.linspace(1e-4, 0.02, num_steps) * (1000 / num_steps)
    return np.minimum(betas, 0.999)


def small(beta, tilde, bar, spread):
    return tilde


def large(beta, tilde, bar, spread):
    return beta


def learned(beta, tilde, bar, spread):
    """Returns the variance of the learned range for the fraction alphas_bar."""
    return np.exp(bar * np.log(beta) + (1 - bar) * np.log(tilde))


def best(beta, tilde, bar, spread):
    """Returns the variance of q(x_{t-1} | x_t), which the range can reach."""
    return tilde + spread


def marginal(beta, tilde, bar, spread):
    return 1 - bar


def recursion(betas, mean, data_variance, variance):
    """Returns mean and variance of the images along each eigenvector, in float64.

    With the oracle's x_0-hat = mean + k (x_t - sqrt(alphas_bar) mean), every step is
    linear in x_t.
    """
    bars = np.append(1.0, np.cumprod(1 - betas))
    m, v = np.zeros_like(mean), np.ones_like(mean)
    for beta, bar, bar_s in zip(betas[::-1], bars[:0:-1], bars[-2::-1], strict=True):
        total = bar * data_variance + 1 - bar
        k = np.sqrt(bar) * data_variance / total
        of_x_t = np.sqrt(1 - beta) * (1 - bar_s) / (1 - bar)
        of_x_0 = np.sqrt(bar_s) * beta / (1 - bar)
        m = (of_x_t + of_x_0 * k) * m + of_x_0 * (1 - k * np.sqrt(bar)) * mean
        v = (of_x_t + of_x_0 * k) ** 2 * v
        if bar_s < 1:  # no noise in the last step
            spread = of_x_0**2 * data_variance * (1 - bar) / total
            v = v + variance(beta, beta * (1 - bar_s) / (1 - bar), bar, spread)
    return m, v


def final_variance(betas, variance, data_variance):
    return recursion(betas, np.zeros(1), np.full(1, data_variance), variance)[1][0]


def draw(oracle, variance, betas, fractions=None, num=NUM):
    """Draws `num` points, ROW per image; `fractions` gives the fraction of each t."""
    schedule = jd.Schedule.from_betas(betas)
    table = schedule.alphas_bar if fractions is None else jnp.float32(fractions)

    def denoiser(x_t, level):
        estimate = oracle(x_t.reshape(-1, 2), level)
        x_0, eps = (a.reshape(x_t.shape) for a in estimate[:2])
        return jd.Estimate(x_0, eps, jnp.broadcast_to(table[level.t], x_t.shape))

    def run(key):
        shape = (num // ROW, ROW, 2)
        return jd.sample(denoiser, jd.DDPM(variance=variance), schedule, key, shape)

    x = jax.jit(run, compiler_options=OPTIMISED)(jax.random.key(0))
    return np.asarray(x, np.float64).reshape(-1, 2)


def assert_moments(x, mean, covariance):
    """Checks the moments of a sample, to 4 standard errors of a Gaussian."""
    num, variances = len(x), np.diag(covariance)
    assert (abs(x.mean(axis=0) - mean) < 4 * np.sqrt(variances / num)).all()
    error = np.sqrt((np.outer(variances, variances) + covariance**2) / num)
    assert (abs(np.cov(x.T) - covariance) < 4 * error).all()


CHAINS = [
    (jd.samplers.FixedSmall(), small),
    (jd.samplers.FixedLarge(), large),
    (jd.samplers.LearnedRange(), learned),
]
"""Variances and their recursions. With 1000 steps, the first variance gives up to
2.5% too little."""


@pytest.mark.parametrize(
    ("num_steps", "variance", "law"),
    [
        *((20, *chain) for chain in CHAINS),
        *(pytest.param(1000, *chain, marks=pytest.mark.long) for chain in CHAINS),
    ],
)
def test_chain_follows_the_recursion(num_steps, variance, law):
    betas = scaled_betas(num_steps)
    values, basis = np.linalg.eigh(COVARIANCE)
    m, v = recursion(betas, basis.T @ MEAN, values, law)
    oracle = jd.oracles.Gaussian.of(jnp.float32(MEAN), jnp.float32(COVARIANCE))
    x = draw(oracle, variance, betas)
    assert_moments(x, basis @ m, (basis * v) @ basis.T)


def test_fixed_small_ends_one_percent_too_narrow():
    betas = scaled_betas(1000)
    assert abs(final_variance(betas, small, 1.0) - 0.991067) < 1e-6
    # Fixed large is exact there, except for the last step, which adds no noise.
    assert abs(final_variance(betas, large, 1.0) - (1 - betas[0])) < 1e-6


@pytest.mark.parametrize(
    ("law", "data_variance"), [(small, 1.0), (small, 0.25), (large, 0.25)]
)
def test_bias_of_the_fixed_variances_falls_as_one_over_the_steps(law, data_variance):
    steps = [10, 30, 100, 300, 1000]
    final = [final_variance(scaled_betas(n), law, data_variance) for n in steps]
    bias = np.array(final) / data_variance - 1
    assert (bias < 0).all() if law is small else (bias > 0).all()
    orders = -np.diff(np.log(abs(bias))) / np.diff(np.log(steps))
    assert (orders > 0.6).all()
    assert abs(orders[2:] - 1).max() < 0.15


@pytest.mark.parametrize("num_steps", [20, 1000])
def test_the_range_reaches_what_neither_fixed_variance_does(num_steps):
    """Fixed small is too narrow for N(0, 0.25) data, and fixed large is too wide."""
    betas, data_variance = scaled_betas(num_steps), 0.25
    narrow, wide, reached = (
        final_variance(betas, law, data_variance) / data_variance - 1
        for law in (small, large, best)
    )
    assert narrow < 5 * reached < 0 < -5 * reached < wide


def test_chain_with_the_best_fraction():
    """Sampling with the fraction of the true reverse variance follows `best`."""
    betas, data_variance = scaled_betas(20), 0.25
    bars, beta = np.cumprod(1 - betas), betas[1:]
    bar, bar_s = bars[1:], bars[:-1]
    tilde = beta * (1 - bar_s) / (1 - bar)
    of_x_0 = np.sqrt(bar_s) * beta / (1 - bar)
    spread = of_x_0**2 * data_variance * (1 - bar) / (bar * data_variance + 1 - bar)
    fractions = np.append(0, np.log(1 + spread / tilde) / np.log(beta / tilde))
    assert (fractions[1:] > 0).all()
    assert (fractions < 1).all()
    oracle = jd.oracles.Gaussian.of(jnp.zeros(2), data_variance)
    x = draw(oracle, jd.samplers.LearnedRange(), betas, fractions)
    v = final_variance(betas, best, data_variance)
    assert_moments(x, 0.0, v * np.eye(2))


@pytest.mark.parametrize(
    ("data_variance", "times"), [(1.0, 82.557), (0.25, 65.121), (0.04, 37.708)]
)
def test_marginal_noise_blows_up(data_variance, times):
    """A common mistake: sqrt(1 - alphas_bar_t) as the deviation of the reverse step."""
    v = final_variance(scaled_betas(1000), marginal, data_variance)
    assert abs(v / data_variance - times) < 1e-3


def test_a_chain_with_marginal_noise_blows_up():
    oracle = jd.oracles.Gaussian.of(jnp.zeros(2), 1.0)
    x = draw(oracle, jd.samplers.MarginalNoise(), scaled_betas(1000), num=20_000)
    assert_moments(x, 0.0, 82.557 * np.eye(2))
