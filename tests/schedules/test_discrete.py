"""Discrete schedules against published constants and their own definitions."""

import warnings
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.schedules import ScheduleOptions

OPTIONS = [
    option
    for option in get_args(ScheduleOptions)
    if not issubclass(
        option,
        jd.schedules.ContinuousSchedule
        | jd.schedules.ZeroTerminalSNR
        | jd.schedules.Betas,
    )
]


def test_linear_constants():
    schedule = jd.Linear().build()
    got = schedule.alphas_bar[jnp.array([0, 1, 499, 999])]
    expected = [0.9999, 0.9997800921, 0.07858724288, 4.035829765e-5]
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_cosine_constants():
    schedule = jd.Cosine().build()
    got = schedule.betas[jnp.array([0, 500, 999])]
    np.testing.assert_allclose(got, [4.128422482e-5, 0.003155691442, 0.999], rtol=1e-6)
    np.testing.assert_allclose(schedule.alphas_bar[999], 2.42877e-9, rtol=1e-5)


def test_betas_are_those_given():
    given = (0.1, 0.3, 0.9)
    schedule = jd.schedules.Betas(betas=given).build()
    np.testing.assert_allclose(schedule.alphas_bar, [0.9, 0.63, 0.063], rtol=1e-6)
    usual, ddpm = jd.schedules.Betas().build(), jd.Linear().build()
    np.testing.assert_array_equal(usual.betas, ddpm.betas)


def test_quadratic_is_linear_in_the_square_root():
    roots = np.sqrt(np.asarray(jd.Quadratic().build().betas, np.float64))
    np.testing.assert_allclose(np.diff(roots), np.diff(roots)[0], rtol=1e-4)
    np.testing.assert_allclose(roots[[0, -1]] ** 2, [1e-4, 0.02], rtol=1e-6)


def test_sigmoid_follows_its_formula():
    start, end, tau, num_steps = -2.0, 4.0, 0.7, 100
    options = jd.Sigmoid(num_steps=num_steps, start=start, end=end, tau=tau)
    u = np.arange(1, num_steps) / num_steps
    sigmoid = lambda x: 1 / (1 + np.exp(-x / tau))  # noqa: E731
    expected = (sigmoid(end) - sigmoid(start + u * (end - start))) / (
        sigmoid(end) - sigmoid(start)
    )
    np.testing.assert_allclose(options.build().alphas_bar[:-1], expected, rtol=1e-5)


@pytest.mark.parametrize("options", OPTIONS)
def test_tables_agree_in_float64(options):
    schedule = options().build()
    betas = np.asarray(schedule.betas, np.float64)
    alphas_bar = np.cumprod(1 - betas)
    assert schedule.num_steps == 1000
    assert all(table.dtype == jnp.float32 for table in schedule)
    assert ((betas > 0) & (betas < 1)).all()
    np.testing.assert_allclose(schedule.alphas, 1 - betas, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(schedule.alphas_bar, alphas_bar, rtol=1e-4)
    signal = np.asarray(schedule.sqrt_alphas_bar, np.float64)
    noise = np.asarray(schedule.sqrt_one_minus_alphas_bar, np.float64)
    np.testing.assert_allclose(signal**2 + noise**2, 1, rtol=1e-6)
    # From float64: 1 - float32(alphas_bar) would be off by up to 3e-4 at t = 0.
    np.testing.assert_allclose(noise[0] ** 2, betas[0], rtol=1e-6)


@pytest.mark.parametrize("options", OPTIONS)
def test_one_step_is_enough_to_build(options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        assert options(num_steps=1).build().betas.shape == (1,)


@pytest.mark.parametrize("base", OPTIONS)
def test_zero_terminal_snr_is_lins_algorithm(base):
    """Lin et al. 2024, algorithm 1: shift the signal to end at 0, then stretch it."""
    before = base().build()
    after = jd.schedules.ZeroTerminalSNR(base=base()).build()
    root = np.cumprod(1 - np.asarray(before.betas, np.float64)) ** 0.5
    first, last = root[0], root[-1]
    root = (root - last) * first / (first - last)
    alphas = np.append(root[:1] ** 2, root[1:] ** 2 / root[:-1] ** 2)
    np.testing.assert_allclose(after.sqrt_alphas_bar, root, rtol=1e-6)
    np.testing.assert_allclose(after.betas, 1 - alphas, rtol=1e-5)
    assert after.sqrt_alphas_bar[0] == before.sqrt_alphas_bar[0]
    assert (after.alphas_bar[-1], after.alphas[-1], after.betas[-1]) == (0, 0, 1)
    assert after.sqrt_one_minus_alphas_bar[-1] == 1
    assert (before.has_terminal_signal, after.has_terminal_signal) == (True, False)
    # A second rescaling changes nothing.
    again = jd.schedules.rescale_zero_terminal_snr(after)
    for a, b in zip(again, after, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7)


POSTERIOR = jax.jit(jd.q_posterior)


@pytest.mark.parametrize("base", OPTIONS)
def test_posterior_is_finite_without_signal(base):
    schedule = jd.schedules.ZeroTerminalSNR(base=base()).build()
    x_0, x_t = jnp.linspace(-1, 1, 1000), jnp.linspace(3, -3, 1000)
    posterior = POSTERIOR(schedule, x_0, x_t, schedule.times)
    assert all(np.isfinite(array).all() for array in posterior)
    assert (np.diff(posterior.variance) > 0).all()
    # Pure noise has no information: the step from it draws x_{T-2} from x_0.
    level = schedule.level(998)
    np.testing.assert_allclose(posterior.mean[-1], level.alpha * x_0[-1], rtol=1e-6)
    np.testing.assert_allclose(posterior.variance[-1], level.sigma**2, rtol=1e-6)


def test_zero_terminal_snr_of_few_steps():
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the rescaling removes the base's signal
        schedule = jd.schedules.ZeroTerminalSNR(base=jd.Linear(num_steps=2)).build()
    np.testing.assert_allclose(schedule.betas, [1e-4, 1], rtol=1e-6)
    with pytest.raises(jd.InputError, match=r"at least 2 to reach .*, got 1"):
        jd.schedules.ZeroTerminalSNR(base=jd.Linear(num_steps=1)).build()


def test_levels_are_the_tables_rows(short):
    t = jnp.array([0, 7, 19])
    level = short.level(t)
    np.testing.assert_array_equal(level.alpha, short.sqrt_alphas_bar[t])
    np.testing.assert_array_equal(level.sigma, short.sqrt_one_minus_alphas_bar[t])
    after = short.next_level(t)
    np.testing.assert_array_equal(after.alpha[1:], short.sqrt_alphas_bar[t[1:] - 1])
    assert (after.alpha[0], after.sigma[0]) == (1, 0)
    assert jax.jit(short.level)(3).alpha == short.level(3).alpha


def test_uniform_numbers_make_uniform_times(short):
    u = jnp.asarray((np.arange(2000) + 0.5) / 2000, jnp.float32)
    counts = np.bincount(short.time(u), minlength=20)
    np.testing.assert_array_equal(counts, 100)
    last = jnp.nextafter(jnp.float32(1), jnp.float32(0))
    assert jd.Linear().build().time(last) == 999


def test_visible_signal_warns_with_the_number():
    with pytest.warns(UserWarning, match=r"keeps 0\.951 of the signal.*0\.904"):
        jd.Linear(num_steps=10).build()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for options in OPTIONS:
            options().build()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (jd.Linear(num_steps=0), "num_steps must be at least 1, got 0"),
        (jd.Linear(beta_start=0.0), r"beta_start must lie in \(0, 1\), got 0"),
        (jd.Linear(beta_end=1.0), r"beta_end must lie in \(0, 1\), got 1"),
        (jd.Quadratic(beta_start=-0.1), "beta_start .* got -0.1"),
        (jd.Linear(num_steps=20_000), r"signal .* t = 18\d\d\d of 20000 steps on"),
        (jd.Cosine(offset=-1.0), "offset must be at least 0, got -1"),
        (jd.Cosine(max_beta=1.0), r"max_beta must lie in \(0, 1\), got 1"),
        (jd.Sigmoid(start=3.0), "start must be less than end, got 3 and 3"),
        (jd.Sigmoid(tau=0.0), "tau must be above 0, got 0"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        options.build()


def test_a_level_at_a_ratio_out_of_range_is_the_last_one(short):
    for log_snr, t in ((200.0, 0), (-200.0, 19)):
        at, level = short.level_of_log_snr(jnp.float32(log_snr)), short.level(t)
        np.testing.assert_allclose(at, jax.tree.map(float, level), rtol=1e-5)


def test_visible_signal_warns_of_continuous_schedules_too():
    with pytest.warns(UserWarning, match=r"keeps 0\.76 of the signal"):
        jd.schedules.VP(beta_max=1.0).build()
    with pytest.warns(UserWarning, match=r"keeps 0\.707 of the signal"):
        jd.schedules.VE(sigma_max=1.0).build()
