"""Time grids: each level once, in order, for any number of steps."""

import itertools
import typing
import warnings
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

import jaxdiff as jd
from jaxdiff.samplers.base import prior_scale
from jaxdiff.samplers.published_grids import beta_quantile
from jaxdiff.samplers.spacing import MOST_NOISE, Spacing
from jaxdiff.schedules import ScheduleOptions
from tests.helpers.long_parameters import long_where

T = 1000
COUNTS = range(1, T + 1)
OPTIONS: Any = typing.get_args(ScheduleOptions)
SPACINGS: Any = [
    spacing
    for spacing in typing.get_args(Spacing)
    if spacing is not jd.spacing.DiffusersGrid  # see tests/pretrained/test_folders.py
]
ONE_KIND = {"LCMTimes": jd.Schedule, "FlowMatchGrid": jd.schedules.RectifiedFlow}
"""Kind of schedule of the spacings that take no other."""
EXPLODING = jd.schedules.VE().build()
# Karras et al. 2022, equation 5 with the numbers of its table 1 and 18 steps.
EDM_SIGMAS = [
    80, 57.586, 40.7856, 28.3746, 19.3525, 12.9101, 8.40094, 5.31519, 3.25682,
    1.92334, 1.08817, 0.585348, 0.296442, 0.139516, 0.0599473, 0.0229345, 0.00752802,
    0.002, 0,
]  # fmt: skip


class Recorder:
    """Stand-in for a discrete schedule that returns the times instead of levels."""

    num_steps = T
    times = np.arange(T)

    def level(self, t):
        assert t.dtype == np.int32
        return t


def visited(spacing, count):
    """Returns the times of `count` steps, noisiest first."""
    schedule: Any = Recorder()
    return spacing.visited(schedule, count)


def build(option):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # some schedules keep signal
        return option.build()


def make(spacing, schedule, num_steps, to_data=True):
    """Returns a spacing of `num_steps` steps on a schedule."""
    if spacing is jd.spacing.AllTimes:
        return spacing()
    if spacing is jd.spacing.Times:
        times = np.linspace(1, 0, num_steps + (not to_data)) ** 2
        if is_discrete(schedule):
            times = (times * (schedule.num_steps - 1)).astype(int)
        return spacing(times=tuple(times.tolist()), to_data=to_data)
    return spacing(num_steps=num_steps, to_data=to_data)


def is_discrete(schedule):
    return isinstance(schedule, jd.Schedule)


def half_log_snr(level):
    with np.errstate(divide="ignore"):
        return np.log(level.alpha) - np.log(level.sigma)


def test_beta_quantiles_are_scipys():
    share = np.concatenate([np.linspace(0, 1, 1001), [1e-12, 1e-6]])
    expected = special.betaincinv(0.6, 0.6, share)
    np.testing.assert_allclose(beta_quantile(share), expected, rtol=0, atol=1e-14)


@pytest.fixture(
    scope="module",
    params=long_where(lambda option: option is jd.schedules.Betas, OPTIONS),
    ids=lambda option: option.__name__,
)
def schedule(request):
    return build(request.param())


@pytest.mark.parametrize("spacing", SPACINGS, ids=lambda spacing: spacing.__name__)
def test_every_grid_falls_to_the_data(schedule, spacing):
    num_steps = schedule.num_steps if spacing is jd.spacing.AllTimes else 12
    kind: Any = ONE_KIND.get(spacing.__name__, object)
    if not isinstance(schedule, kind):
        with pytest.raises(jd.InputError, match=r"schedule must be .* Choose another"):
            make(spacing, schedule, num_steps).levels(schedule)
        return
    grid = make(spacing, schedule, num_steps).levels(schedule)
    assert {field.shape for field in grid} == {(num_steps + 1,)}
    assert (grid.alpha[-1], grid.sigma[-1]) == (1, 0)
    assert all(np.isfinite(field).all() for field in grid)
    assert (np.diff(half_log_snr(grid)) > 0).all()
    assert (np.diff(grid.t[:-1]) < 0).all()
    first, last = (schedule.level(schedule.times[i]).t for i in (-1, 0))
    times = np.asarray(grid.t)
    assert ((times >= np.asarray(last)) & (times <= np.asarray(first))).all()
    if spacing is jd.spacing.AllTimes:
        return
    # Without the data, the times are the same as with one step more.
    longer = make(spacing, schedule, num_steps + 1).levels(schedule)
    ended = make(spacing, schedule, num_steps, to_data=False).levels(schedule)
    for a, b in zip(ended, longer, strict=True):
        np.testing.assert_allclose(a, b[:-1], rtol=1e-6)
    assert ended.sigma[-1] > 0
    if spacing is jd.spacing.Times:
        return
    # With `skip_last`, the data follow the times before the last one.
    skipping = spacing(num_steps=num_steps, skip_last=True).levels(schedule)
    for a, b in zip(skipping, longer, strict=True):
        np.testing.assert_array_equal(a[:-1], b[:-2])
    assert (skipping.alpha[-1], skipping.sigma[-1]) == (1, 0)


def test_trailing_for_every_number_of_steps():
    for count in COUNTS:
        times = visited(jd.spacing.Trailing(), count)
        assert (times[0], len(set(times.tolist()))) == (T - 1, count)
        assert times.min() >= 0
        # Python rounds a fraction half to even.
        expected = [round(Fraction(k * T, count)) - 1 for k in range(count, 0, -1)]
        np.testing.assert_array_equal(times, expected)


def test_trailing_where_a_grid_of_floats_is_too_long():
    floats = {count: np.arange(T, 0, -T / count) for count in COUNTS}
    wrong = {count: grid for count, grid in floats.items() if len(grid) != count}
    assert len(wrong) > 50
    for count, grid in wrong.items():
        assert round(grid[-1]) - 1 == -1  # an invalid time
        assert len(visited(jd.spacing.Trailing(), count)) == count


def test_leading_for_every_number_of_steps():
    for count in COUNTS:
        room = T - 1 - (count - 1) * (T // count)
        for offset in {0, min(1, room), room}:
            times = visited(jd.spacing.Leading(offset=offset), count)
            expected = [k * (T // count) + offset for k in reversed(range(count))]
            np.testing.assert_array_equal(times, expected)
        assert times[0] == T - 1
        assert count == T or visited(jd.spacing.Leading(), count)[0] < T - 1


def test_linspace_for_every_number_of_steps():
    assert visited(jd.spacing.Linspace(), 1).tolist() == [T - 1]
    for count in COUNTS[1:]:
        times = visited(jd.spacing.Linspace(), count)
        exact = [Fraction(k * (T - 1), count - 1) for k in reversed(range(count))]
        np.testing.assert_array_equal(times, [round(time) for time in exact])
        # np.linspace rounds one tie the other way: 27 steps, 499.5.
        near = abs(times - np.linspace(T - 1, 0, count))
        assert near.max() < 0.5 + 1e-9
        assert (np.diff(times) < 0).all()


def test_quadratic_for_every_number_of_steps():
    assert visited(jd.spacing.QuadraticTimes(), 1).tolist() == [T - 1]
    repeating = 0
    for count in COUNTS[1:]:
        times = visited(jd.spacing.QuadraticTimes(), count)[::-1]
        squares = [Fraction(k**2 * (T - 1), (count - 1) ** 2) for k in range(count)]
        rounded = [round(square) for square in squares]
        repeating += len(set(rounded)) < count
        expected = [0]
        for time in rounded[1:]:
            expected.append(max(time, expected[-1] + 1))
        np.testing.assert_array_equal(times, expected)
        assert (times[0], times[-1], len(set(times.tolist()))) == (0, T - 1, count)
    assert repeating > 900  # plain rounding would repeat times


@pytest.mark.parametrize("count", [1, 7, 62])
@pytest.mark.parametrize(
    ("spacing", "fractions"),
    [
        (jd.spacing.Leading, lambda n: np.arange(n)[::-1] / n),
        (jd.spacing.Trailing, lambda n: np.arange(n, 0, -1) / n),
        (jd.spacing.Linspace, lambda n: np.linspace(1, 0, n)),
        (jd.spacing.QuadraticTimes, lambda n: np.linspace(1, 0, n) ** 2),
    ],
)
def test_fractions_of_a_continuous_schedule(spacing, fractions, count):
    schedule = jd.schedules.RectifiedFlow().build()
    grid = spacing(num_steps=count).levels(schedule)
    expected = 1e-3 + (1 - 1e-3) * fractions(count)
    np.testing.assert_allclose(grid.sigma[:-1], expected, rtol=1e-5)


def test_karras_gives_edms_levels():
    for grid in (
        jd.spacing.Karras(num_steps=18).levels(EXPLODING),
        jd.Heun().grid(EXPLODING),
        # The schedule's own times follow the same formula.
        jd.spacing.Linspace(num_steps=18).levels(EXPLODING),
    ):
        np.testing.assert_allclose(grid.sigma, EDM_SIGMAS, rtol=1e-5)


def test_karras_in_any_schedule_between_given_scales(schedule):
    spacing = jd.spacing.Karras(num_steps=9, rho=3.0, sigma_min=0.1, sigma_max=20.0)
    grid = spacing.levels(schedule)
    expected = np.linspace(20 ** (1 / 3), 0.1 ** (1 / 3), 9) ** 3
    np.testing.assert_allclose(grid.sigma[:-1] / grid.alpha[:-1], expected, rtol=1e-3)
    # The network's input is the time of the level.
    inner = jax.tree.map(lambda a: a[:-1], grid)
    if is_discrete(schedule):
        table = half_log_snr(schedule.level(schedule.times))
        at_times = np.interp(inner.t, np.arange(T), table)
        np.testing.assert_allclose(at_times, half_log_snr(inner), atol=1e-3)
    else:
        u = schedule.fraction_of_log_snr(jd.schedules.log_snr(inner))
        np.testing.assert_allclose(schedule.level(u).t, inner.t, rtol=1e-3)


@pytest.mark.parametrize(
    "scales", [{"sigma_max": 1e4}, {"sigma_min": 1e-4}, {"sigma_min": 2e3}]
)
def test_karras_beyond_the_schedule_repeats_no_level(schedule, scales):
    """A multistep method divides by 0 between two equal levels."""
    try:
        grid = jd.spacing.Karras(num_steps=9, **scales).levels(schedule)
    except jd.InputError:
        return
    assert (np.diff(half_log_snr(grid)) > 0).all()


@pytest.mark.parametrize("spacing", [jd.spacing.Karras, jd.spacing.UniformLogSNR])
def test_ends_are_the_schedules(schedule, spacing):
    grid = spacing(num_steps=9).levels(schedule)
    ends = half_log_snr(schedule.level(schedule.times[jnp.array([-1, 0])]))
    expected = np.maximum(ends, -np.log(MOST_NOISE))
    np.testing.assert_allclose(half_log_snr(grid)[[0, -2]], expected, atol=2e-3)


def test_uniform_log_snr_is_even(schedule):
    steps = np.diff(
        half_log_snr(jd.spacing.UniformLogSNR(num_steps=30).levels(schedule))[:-1]
    )
    np.testing.assert_allclose(steps, steps.mean(), rtol=5e-3)


def shrink(x_t, level):
    return jd.predictions.Eps().estimate(level.scales(x_t)[1] * x_t, x_t, level)


@pytest.mark.parametrize("to_data", [True, False])
def test_each_steps_next_level_is_the_grids(short, to_data):
    times = (19, 12, 11, 5, 2)
    x = x_T = jax.random.normal(jax.random.key(0), (3, 2))
    levels = [short.level(t) for t in times]
    if to_data:
        levels.append(jd.Level(jnp.array(0), jnp.ones(()), jnp.zeros(())))
    for level, after in itertools.pairwise(levels):
        estimate = shrink(x, level)
        x = after.alpha * estimate.x_0 + after.sigma * estimate.eps
    sampler = jd.DDIM(spacing=jd.spacing.Times(times=times, to_data=to_data))
    images = jd.sample(shrink, sampler, short, jax.random.key(1), x.shape, x_T=x_T)
    np.testing.assert_allclose(images, x, rtol=1e-5)


def test_chain_starts_from_the_first_levels_noise(schedule):
    whole = jd.spacing.Trailing(num_steps=3).levels(schedule)
    np.testing.assert_allclose(prior_scale(schedule, whole), schedule.prior_scale)
    grid = jd.spacing.Karras(num_steps=3, sigma_max=10.0).levels(schedule)
    # The deviation of x_t for data of unit variance.
    deviation = np.hypot(grid.alpha[0], grid.sigma[0])
    np.testing.assert_allclose(prior_scale(schedule, grid), deviation, rtol=1e-3)
    if schedule == EXPLODING:
        assert 10 < prior_scale(schedule, grid) < 10.1


def test_prior_scale_is_what_sample_draws():
    def start(spacing):
        sampler, key = jd.DDIM(spacing=spacing), jax.random.key(0)
        return jd.sample(shrink, sampler, EXPLODING, key, (2, 3), every=3)[0]

    x, low = (
        start(jd.spacing.Karras(num_steps=3)),
        start(jd.spacing.Karras(num_steps=3, sigma_max=9.0)),
    )
    np.testing.assert_allclose(low, x * (82 / 6401) ** 0.5, rtol=1e-5)


def refused(make_it, line):
    with pytest.raises(jd.InputError, match=line) as caught:
        make_it()
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("spacing", "line"),
    [
        (
            jd.spacing.Leading(num_steps=21),
            "at most the schedule's 20, got 21. Take fewer st",
        ),
        (
            jd.spacing.Trailing(num_steps=20, to_data=False),
            "at most the schedule's 20, got 21",
        ),
        (jd.spacing.Linspace(num_steps=30), "at most the schedule's 20, got 30"),
        (jd.spacing.QuadraticTimes(num_steps=21), "at most the schedule's 20, got 21"),
        (
            jd.spacing.Leading(num_steps=6, offset=5),
            r"offset must lie in 0\.\.4, got 5",
        ),
        (
            jd.spacing.Leading(num_steps=6, offset=-1),
            r"offset must lie in 0\.\.4, got -1",
        ),
        (jd.spacing.Times(), r"times must have 1 or more.*noisiest first, got \(\)"),
        (
            jd.spacing.Times(times=(3,), to_data=False),
            r"times must have 2 or more.*got \(3,\)",
        ),
        (jd.spacing.Times(times=(3, 3)), r"times must decrease, got \(3, 3\)"),
        (jd.spacing.Times(times=(3, 7)), r"times must decrease, got \(3, 7\)"),
        (
            jd.spacing.Times(times=(3.5, 1)),
            r"must be integers for a discrete.*got \(3.5, 1\)",
        ),
        (jd.spacing.Times(times=(20, 1)), r"t must lie in 0\.\.19, got 20"),
        (jd.spacing.Times(times=(7, -1)), r"t must lie in 0\.\.19, got -1"),
    ],
)
def test_grids_that_do_not_fit_the_schedule(short, spacing, line):
    refused(lambda: spacing.levels(short), line)


def test_times_of_a_continuous_schedule_in_range():
    refused(
        lambda: jd.spacing.Times(times=(1.5, 0.5)).levels(EXPLODING),
        r"t must lie in 0\.\.1, got 1.5",
    )


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"num_steps": 0}, "num_steps must be at least 1, got 0"),
        ({"rho": 0.0}, "rho must be at least 0.1, got 0"),
        ({"rho": 0.01}, "rho must be at least 0.1, got 0.01"),
        ({"sigma_min": -1.0}, "sigma_min must be above 0, got -1"),
        ({"sigma_max": float("inf")}, "sigma_max must be finite, got inf"),
        ({"sigma_min": 2.0, "sigma_max": 1.0}, "less than sigma_max, got 2 and 1"),
    ],
)
def test_options_out_of_range(options, line):
    refused(lambda: jd.spacing.Karras(**options), line)
    if "num_steps" in options:
        for spacing in (
            jd.spacing.Leading,
            jd.spacing.Trailing,
            jd.spacing.Linspace,
            jd.spacing.QuadraticTimes,
        ):
            refused(lambda kind=spacing: kind(**options), line)


@pytest.mark.parametrize(
    "grid",
    [
        jd.spacing.DiffusersGrid(num_steps=4, sigmas="karras", rounding="nearest"),
        jd.spacing.DiffusersGrid(
            num_steps=4, timestep_spacing="linspace", whole_times=False
        ),
    ],
)
def test_a_computed_grid_is_the_same_within_jit(grid):
    schedule = jd.Quadratic(num_steps=1000, beta_start=0.00085, beta_end=0.012).build()
    outside, inside = grid.levels(schedule), jax.jit(lambda: grid.levels(schedule))()
    for one, two in zip(outside, inside, strict=True):
        np.testing.assert_array_equal(one, two)
    with pytest.raises(jd.InputError, match="schedule must not be traced"):
        jax.jit(grid.levels)(schedule)
