"""Continuous schedules: their papers' formulas, and their time grids."""

import dataclasses
import itertools
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad

import jaxdiff as jd
from jaxdiff.schedules import ScheduleOptions

CONTINUOUS: Any = [
    jd.schedules.VP(),
    jd.schedules.VP(beta_min=0.0, beta_max=15.0, t_min=1e-3),
    jd.schedules.VE(),
    jd.schedules.VE(sigma_min=0.01, sigma_max=50.0, rho=3.0, time_scale=1.0),
    jd.schedules.RectifiedFlow(),
    jd.schedules.RectifiedFlow(t_min=2**-7, shift=3.0),
]
DISCRETE = [
    option
    for option in get_args(ScheduleOptions)
    if not issubclass(option, jd.schedules.ContinuousSchedule)
]
every_schedule = pytest.mark.parametrize(
    "schedule", CONTINUOUS, ids=lambda schedule: type(schedule).__name__
)
every_discrete = pytest.mark.parametrize("options", DISCRETE)
U = np.linspace(0, 1, 41)


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def formula(schedule: Any, u: float) -> tuple[float, float, float]:
    """Returns the network's time input, alpha and sigma, in float64."""
    if isinstance(schedule, jd.schedules.VE):
        low, high = (
            s ** (1 / schedule.rho) for s in (schedule.sigma_min, schedule.sigma_max)
        )
        sigma = (high + (1 - u) * (low - high)) ** schedule.rho
        return schedule.time_scale / 4 * np.log(sigma), 1.0, sigma
    t = schedule.t_min + (1 - schedule.t_min) * u
    if isinstance(schedule, jd.schedules.RectifiedFlow):
        odds = schedule.shift * t / (1 - t) if t < 1 else np.inf  # of Esser et al.
        t = 1 / (1 + 1 / odds)
        return 1000 * t, 1 - t, t
    beta = lambda s: schedule.beta_min + s * (schedule.beta_max - schedule.beta_min)  # noqa: E731
    integral = quad(beta, 0, t)[0]
    return 1000 * t, np.exp(-integral / 2), np.sqrt(-np.expm1(-integral))


def test_every_continuous_schedule_is_tested():
    kinds = set(get_args(ScheduleOptions)) - set(DISCRETE)
    assert kinds == {type(schedule) for schedule in CONTINUOUS}


@every_schedule
def test_levels_are_the_formula(schedule):
    """Levels have the digits of their precision; alpha near 0 is a difference."""
    expected = np.transpose([formula(schedule, u) for u in U])
    single = schedule.build().level(jnp.asarray(U, jnp.float32))
    for a, b, atol in zip(single, expected, (1e-3, 1e-7, 1e-7), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=atol)
    with jax.enable_x64(True):
        double = schedule.build().level(jnp.asarray(U))
        again = schedule.level(jnp.asarray(U, jnp.float32))
    np.testing.assert_allclose(jnp.stack(double), expected, rtol=1e-12, atol=1e-15)
    assert {a.dtype for a in double} == {jnp.dtype("float64")}
    assert {a.dtype for a in (*single, *again)} == {jnp.dtype("float32")}


@every_schedule
def test_noise_grows_to_the_prior(schedule, x64):
    level = schedule.level(schedule.times)
    assert (np.diff(level.sigma) > 0).all()
    assert (np.diff(level.alpha) <= 0).all()
    assert (np.diff(level.t) > 0).all()
    # Sampling starts with the deviation of x_1, for data of unit variance.
    last = np.hypot(level.alpha[-1], level.sigma[-1])
    np.testing.assert_allclose(schedule.prior_scale, last, rtol=1e-3)
    assert schedule.has_terminal_signal == (level.alpha[-1] > 0)
    if isinstance(schedule, jd.schedules.VP):
        np.testing.assert_allclose(level.alpha**2 + level.sigma**2, 1, rtol=1e-12)


def test_18_steps_of_edm():
    """Karras et al. 2022, equation 5 with N = 18, in float64 to 6 digits."""
    sigmas = [
        80, 57.586, 40.7856, 28.3746, 19.3525, 12.9101, 8.40094, 5.31519, 3.25682,
        1.92334, 1.08817, 0.585348, 0.296442, 0.139516, 0.0599473, 0.0229345,
        0.00752802, 0.002, 0,
    ]  # fmt: skip
    grid = jd.DDPM().grid(jd.schedules.VE(num_steps=18).build())
    np.testing.assert_allclose(grid.sigma, sigmas, rtol=1e-5)
    np.testing.assert_array_equal(grid.alpha, np.ones(19))
    c_noise = np.log(sigmas[:-1]) / 4
    np.testing.assert_allclose(grid.t[:-1], 1000 * c_noise, rtol=1e-5, atol=1e-3)


@every_schedule
@pytest.mark.parametrize("num_steps", [2, 1000])
def test_next_level_is_a_step_down_the_grid(schedule, num_steps):
    schedule = dataclasses.replace(schedule, num_steps=num_steps).build()
    assert schedule.times.shape == (num_steps,)
    level, after = (f(schedule.times) for f in (schedule.level, schedule.next_level))
    assert (after.alpha[0], after.sigma[0]) == (1, 0)
    for a, b in zip(after, level, strict=True):
        np.testing.assert_allclose(a[1:], b[:-1], rtol=1e-4, atol=1e-6)


@every_schedule
def test_next_level_between_the_grids_times(schedule, x64):
    schedule = dataclasses.replace(schedule, num_steps=11).build()
    after = schedule.next_level(jnp.asarray([0.04, 0.14, 0.55, 0.99]))
    below = schedule.level(jnp.asarray([0.04, 0.45, 0.89]))
    assert (after.alpha[0], after.sigma[0]) == (1, 0)
    for a, b in zip(after, below, strict=True):
        np.testing.assert_allclose(a[1:], b, rtol=1e-9)


@every_schedule
def test_fraction_inverts_the_log_snr(schedule, x64):
    u = jnp.asarray(U)
    log_snr = jd.schedules.log_snr(schedule.level(u))
    np.testing.assert_allclose(schedule.fraction_of_log_snr(log_snr), u, atol=1e-9)
    np.testing.assert_array_equal(schedule.time(u), u)
    asked = log_snr[:-1] + 0.3 * jnp.diff(jnp.maximum(log_snr, -10.0))
    level = schedule.level_of_log_snr(asked)
    np.testing.assert_allclose(jd.schedules.log_snr(level), asked, rtol=1e-9)
    for a, b in zip(
        level, schedule.level(schedule.fraction_of_log_snr(asked)), strict=True
    ):
        np.testing.assert_array_equal(a, b)


@every_schedule
def test_log_snr_out_of_range_is_cut_off(schedule):
    asked = jnp.asarray([-np.inf, -1e38, -200.0, 200.0, 1e38, np.inf])
    ends = jnp.asarray([1.0, 1, 1, 0, 0, 0])
    np.testing.assert_array_equal(schedule.fraction_of_log_snr(asked), ends)
    for a, b in zip(
        schedule.level_of_log_snr(asked), schedule.level(ends), strict=True
    ):
        np.testing.assert_array_equal(a, b)


@jax.jit
def discrete(schedule, log_snr):
    """Returns the time nearest to a log-SNR, and the level at the log-SNR."""
    return schedule.time(
        schedule.fraction_of_log_snr(log_snr)
    ), schedule.level_of_log_snr(log_snr)


@every_discrete
def test_discrete_fraction_is_the_nearest_time(options):
    schedule, t = options().build(), np.array([0, 1, 5, 100, 500, 900, 997])
    table = np.asarray(jd.schedules.log_snr(schedule.level(np.arange(1000))))
    shares = np.array([[0.1], [0.4], [0.6], [0.9]], np.float32)
    between = (1 - shares) * table[t] + shares * table[t + 1]
    out = np.array([-np.inf, -200, 200, np.inf], np.float32)
    got, _ = discrete(schedule, np.concatenate([table, between.ravel(), out]))
    np.testing.assert_array_equal(got[:1000], np.arange(1000))
    expected = t + np.round(shares).astype(int)
    np.testing.assert_array_equal(got[1000:-4].reshape(4, 7), expected)
    np.testing.assert_array_equal(got[-4:], [999, 999, 0, 0])


@every_discrete
def test_discrete_level_at_lies_between_two_times(options):
    schedule, t = options().build(), np.array([0, 1, 5, 100, 500, 900, 997])
    known = schedule.level(np.append(t, t + 1))
    table = np.asarray(jd.schedules.log_snr(known))
    asked = np.append(table[:7], 0.7 * table[:7] + 0.3 * table[7:])
    _, level = discrete(schedule, asked)
    np.testing.assert_allclose(level.t, np.append(t, t + 0.3), atol=0.02)
    np.testing.assert_allclose(jd.schedules.log_snr(level), asked, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(level.alpha**2 + level.sigma**2, 1, rtol=1e-6)
    np.testing.assert_allclose(level.alpha[:7], known.alpha[:7], rtol=1e-4)
    np.testing.assert_allclose(level.sigma[:7], known.sigma[:7], rtol=1e-4)


MEAN, VARIANCE = np.array([0.5, -1.0]), np.array([0.25, 1.5])


def recursion(schedule: Any) -> tuple[np.ndarray, np.ndarray]:
    """Returns the samples' mean and variance; Gaussian data makes each step linear."""
    times = np.linspace(1, 0, schedule.num_steps)
    levels = [formula(schedule, u)[1:] for u in times] + [(1.0, 0.0)]
    mean, variance = np.zeros(2), np.full(2, schedule.prior_scale**2)
    for (alpha, sigma), (alpha_s, sigma_s) in itertools.pairwise(levels):
        beta = sigma**2 - (alpha / alpha_s * sigma_s) ** 2
        gain = alpha * VARIANCE / (alpha**2 * VARIANCE + sigma**2)
        of_x_t = alpha / alpha_s * (sigma_s / sigma) ** 2
        of_x_0 = alpha_s * beta / sigma**2
        mean = of_x_t * mean + of_x_0 * (MEAN + gain * (mean - alpha * MEAN))
        variance = (of_x_t + of_x_0 * gain) ** 2 * variance + beta * (sigma_s > 0)
    return mean, variance


@every_schedule
def test_chain_reaches_the_datas_moments(schedule):
    """The error halves with the step size; samples are within 4 standard errors."""
    schedule = dataclasses.replace(schedule, num_steps=100).build()
    mean, variance = recursion(schedule)
    finer = recursion(dataclasses.replace(schedule, num_steps=200))
    np.testing.assert_allclose(mean, MEAN, atol=0.1)
    errors = abs(variance - VARIANCE), abs(finer[1] - VARIANCE)
    assert (errors[0] < 0.15 * VARIANCE).all()
    assert (errors[1] < 0.6 * errors[0]).all()

    # One example is 1000 data points of two numbers: one key draws them all.
    oracle = jd.oracles.Gaussian.of(
        np.tile(MEAN, (1000, 1)), np.tile(VARIANCE, (1000, 1))
    )
    sampler = jd.DDPM(variance=jd.samplers.FixedLarge())
    images = jd.sample(oracle, sampler, schedule, jax.random.key(0), (20, 1000, 2))
    data = np.asarray(images, np.float64).reshape(20_000, 2)
    assert (abs(data.mean(axis=0) - mean) < 4 * np.sqrt(variance / len(data))).all()
    spread = abs(data.var(axis=0) / variance - 1)
    assert (spread < 4 * np.sqrt(2 / len(data))).all()


NOISE: Any = jax.jit(jd.q_sample)


@every_schedule
def test_noising_at_any_times(schedule):
    x_0, noise = jax.random.normal(jax.random.key(0), (2, 4, 3, 2))
    t = jnp.asarray([0.0, 0.123, 0.5, 1.0])
    whole = jd.q_sample(schedule, x_0, t, noise)
    scales = np.array([formula(schedule, float(u))[1:] for u in t], np.float32)
    alpha, sigma = scales.T.reshape(2, 4, 1, 1)
    close: Any = {"rtol": 1e-4, "atol": 1e-5}
    np.testing.assert_allclose(whole, alpha * x_0 + sigma * noise, **close)
    one = jd.q_sample(schedule, x_0, 0.123, noise)
    np.testing.assert_allclose(one[1], whole[1], **close)
    np.testing.assert_allclose(NOISE(schedule, x_0, t, noise), whole, **close)
    mapped = jax.vmap(jd.q_sample, (None, 0, 0, 0))(schedule, x_0, t, noise)
    np.testing.assert_allclose(mapped, whole, **close)
    compiled = NOISE._cache_size()
    NOISE(dataclasses.replace(schedule), x_0, t, noise)  # equal, so not recompiled
    assert NOISE._cache_size() == compiled


@every_schedule
@pytest.mark.parametrize(
    ("t", "got"), [(-0.1, "-0.1"), (1.01, "1.01"), ([0.5, 3.0], "3"), (np.nan, "nan")]
)
def test_times_out_of_range(schedule, t, got):
    with pytest.raises(jd.InputError, match=rf"t must lie in 0\.\.1, got {got}$"):
        schedule.level(np.asarray(t, np.float32))


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        *(
            (option(num_steps=1), "num_steps must be at least 2, got 1")
            for option in get_args(ScheduleOptions)
            if option not in DISCRETE
        ),
        (
            jd.schedules.VP(beta_min=-1.0),
            r"beta_min must lie in .* got -1 and 20",
        ),
        (
            jd.schedules.VP(beta_max=0.1),
            r"beta_min must lie in .* got 0\.1 and 0\.1",
        ),
        (jd.schedules.VP(beta_min=np.nan), "beta_min must lie in .* got nan"),
        (jd.schedules.VP(t_min=0.0), r"t_min must lie in \(0, 1\), got 0"),
        (jd.schedules.VP(t_min=1.0), r"t_min must lie in \(0, 1\), got 1"),
        (jd.schedules.VE(sigma_min=0.0), r"sigma_min must lie in .* got 0 and 80"),
        (jd.schedules.VE(sigma_max=0.001), r"sigma_min .* got 0\.002 and 0\.001"),
        (jd.schedules.VE(rho=0.0), "rho must be above 0, got 0"),
        (
            jd.schedules.RectifiedFlow(t_min=-0.1),
            r"t_min must lie in \(0, 1\), got -0\.1",
        ),
        (jd.schedules.RectifiedFlow(t_min=1.0), r"t_min must lie in \(0, 1\), got 1"),
    ],
)
def test_options_out_of_range(schedule, message):
    with pytest.raises(jd.InputError, match=message):
        schedule.build()
