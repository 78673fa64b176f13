"""Forward process: its steps, its closed form and Bayes' rule agree."""

from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.schedules import ScheduleOptions


def moments_of_the_chain(schedule, x_0, t):
    """Returns mean and variance of x_t from q_step alone, by its linearity."""
    mean, variance = x_0, jnp.zeros_like(x_0)
    zero, one = jnp.zeros_like(x_0), jnp.ones_like(x_0)
    for s in range(t + 1):
        mean = jd.q_step(schedule, mean, s, zero)
        gain = jd.q_step(schedule, one, s, zero)
        variance = gain**2 * variance + jd.q_step(schedule, zero, s, one) ** 2
    return mean, variance


@pytest.mark.parametrize("t", [0, 1, 9, 19])
def test_steps_compose_to_the_closed_form(short, t):
    x_0 = jnp.linspace(-1, 1, 12).reshape(1, 2, 3, 2)
    mean, variance = moments_of_the_chain(short, x_0, t)
    zero, one = jnp.zeros_like(x_0), jnp.ones_like(x_0)
    np.testing.assert_allclose(jd.q_sample(short, x_0, t, zero), mean, rtol=1e-5)
    noise_only = jd.q_sample(short, zero, t, one)
    np.testing.assert_allclose(noise_only, variance**0.5, rtol=1e-5)


def test_sampled_chain_has_the_closed_forms_moments(short):
    num = 50_000
    x_0 = jnp.full((num,), 0.7)
    keys = jax.random.split(jax.random.key(0), short.num_steps)

    def step(x, now):
        t, key = now
        return jd.q_step(short, x, t, jax.random.normal(key, x.shape)), None

    x_t, _ = jax.lax.scan(step, x_0, (jnp.arange(10), keys[:10]))
    alphas_bar = float(short.alphas_bar[9])
    sigma = (1 - alphas_bar) ** 0.5
    error = abs(float(x_t.mean()) - alphas_bar**0.5 * 0.7)
    assert error < 4 * sigma / num**0.5
    assert abs(float(x_t.var()) / sigma**2 - 1) < 4 * (2 / num) ** 0.5


@pytest.mark.parametrize("options", get_args(ScheduleOptions)[:5])
@pytest.mark.parametrize("t", [1, 2, 500, 999])
def test_posterior_is_bayes_rule(options, t):
    """q(x_{t-1} | x_t, x_0) is proportional to q(x_t | x_{t-1}) q(x_{t-1} | x_0)."""
    schedule = options().build()
    betas = np.asarray(schedule.betas, np.float64)
    alphas_bar = np.cumprod(1 - betas)
    x_0, x_t = 0.3, -1.2
    likelihood = (1 - betas[t]) / betas[t]  # precision of x_{t-1} from x_t
    prior = 1 / (1 - alphas_bar[t - 1])
    variance = 1 / (likelihood + prior)
    mean = variance * (
        np.sqrt(1 - betas[t]) / betas[t] * x_t
        + prior * np.sqrt(alphas_bar[t - 1]) * x_0
    )
    got = jd.q_posterior(schedule, jnp.full((1, 1), x_0), jnp.full((1, 1), x_t), t)
    np.testing.assert_allclose(got.mean, [[mean]], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(got.variance, [[variance]], rtol=1e-4)
    np.testing.assert_allclose(got.log_variance, np.log([[variance]]), atol=1e-4)


def test_posterior_at_the_ends():
    schedule = jd.Linear().build()
    x = jnp.ones((3, 1))
    one = jd.q_posterior(schedule, x, x, 1)
    np.testing.assert_allclose(one.variance, [[5.4531876613e-5]], rtol=1e-6)
    zero = jd.q_posterior(schedule, 0.5 * x, x, 0)
    np.testing.assert_array_equal(zero.mean, 0.5 * x)
    np.testing.assert_array_equal(zero.variance, 0)
    np.testing.assert_array_equal(zero.log_variance, one.log_variance)
    mixed = jd.q_posterior(schedule, x, x, jnp.array([0, 1, 999]))
    np.testing.assert_array_equal(
        mixed.log_variance[:2], [[one.log_variance[0, 0]]] * 2
    )
    assert np.isfinite(mixed.log_variance).all()


@pytest.mark.filterwarnings("ignore:the last step keeps")
def test_posterior_of_a_single_step():
    schedule = jd.Linear(num_steps=1).build()
    got = jd.q_posterior(schedule, jnp.ones((1, 1)), jnp.ones((1, 1)), 0)
    np.testing.assert_allclose(got.log_variance, np.log(1e-4), rtol=1e-6)


def test_signal_to_noise_ratio(short):
    level = short.level(jnp.arange(20))
    alphas_bar = np.asarray(short.alphas_bar, np.float64)
    expected = alphas_bar / (1 - alphas_bar)
    np.testing.assert_allclose(jd.schedules.snr(level), expected, rtol=1e-3)
    np.testing.assert_allclose(jd.schedules.log_snr(level), np.log(expected), atol=1e-3)
    assert (np.diff(jd.schedules.log_snr(level)) < 0).all()


@pytest.mark.parametrize("shape", [(4, 8, 8, 1), (4, 5, 3, 3), (4, 7), (4,)])
def test_any_shape_and_time_per_example(short, shape):
    x_0, noise = jax.random.normal(jax.random.key(0), (2, *shape))
    t = jnp.array([0, 3, 10, 19])
    whole = jax.jit(jd.q_sample)(short, x_0, t, noise)
    for i in range(4):
        one = jd.q_sample(short, x_0[i : i + 1], int(t[i]), noise[i : i + 1])
        np.testing.assert_allclose(whole[i : i + 1], one, rtol=1e-5, atol=1e-6)
    mapped = jax.vmap(jd.q_sample, (None, 0, 0, 0))(short, x_0, t, noise)
    np.testing.assert_allclose(mapped, whole, rtol=1e-5, atol=1e-6)


def test_differentiable(short):
    noise = jnp.ones((1, 2))
    gradient = jax.grad(lambda x: jd.q_sample(short, x, 5, noise).sum())(noise)
    np.testing.assert_allclose(gradient, short.sqrt_alphas_bar[5] * noise)
