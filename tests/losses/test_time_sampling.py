"""Time sampling: the frequencies of the draws, and an unbiased loss."""

import dataclasses
import warnings
from functools import partial
from statistics import NormalDist
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxdiff as jd
from jaxdiff import rng
from jaxdiff.losses.time_sampling import History, TimesOptions
from jaxdiff.schedules import ScheduleOptions
from jaxdiff.storage.checkpoints import Checkpoints

U = (np.arange(2**16, dtype=np.float32) + 0.5) / 2**16  # uniform, and exact in float32
TIMES = jd.losses.LossHistory(bins=10, warmup_steps=3)


def built(options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return options.build()


def peaked():
    """Returns a history of losses e^2 to e^-4, with a bin that was never seen."""
    shares = np.ones(10, np.float32)
    shares[4] = 0
    sizes = np.exp(np.linspace(2, -4, 10)).astype(np.float32)
    return History(jnp.int32(100), jnp.asarray(shares * sizes**2), jnp.asarray(shares))


@partial(jax.jit, static_argnums=0)
def drawn_by(times, u, schedule, memory):
    return times.draw(u, schedule, memory)


def draw(times, u, schedule=None, memory=None):
    """Returns the fractions and the weights, in float64."""
    memory = times.init() if memory is None else memory
    drawn, weights = drawn_by(times, jnp.asarray(u), schedule, memory)
    assert drawn.shape == weights.shape == np.shape(u)
    assert drawn.dtype == weights.dtype == jnp.float32
    return np.asarray(drawn, np.float64), np.asarray(weights, np.float64)


@pytest.mark.parametrize("options", get_args(ScheduleOptions))
@pytest.mark.parametrize("times", get_args(TimesOptions))
def test_a_monotone_map_of_one_number(times, options):
    """Extreme numbers also become times that the schedule accepts."""
    schedule, times = built(options()), times()
    ends = np.array([0, 2**-149, 2**-24, 1 - 2**-23, 1 - 2**-24], np.float32)
    u = np.sort(np.concatenate([ends, U[::64]]))
    memories = [times.init()]
    if isinstance(times, jd.losses.LossHistory):
        seen = np.linspace(2, 0, times.bins, dtype=np.float32)
        memories.append(History(jnp.int32(10**6), jnp.asarray(seen), jnp.ones(100)))
    for memory in memories:
        drawn, weights = draw(times, u, schedule, memory)
        assert (np.diff(drawn) >= 0).all()
        assert 0 <= drawn[0] < 0.1
        assert 0.9 < drawn[-1] <= 1
        assert (weights > 0).all()
        t = schedule.time(jnp.asarray(drawn, jnp.float32))
        level = schedule.level(t)  # raises for a time out of range
        assert np.isfinite(level.sigma).all()
        assert (level.sigma > 0).all()
        some = np.array([3, 500, 1000])
        for x, y in zip(
            draw(times, u[some], schedule, memory), (drawn, weights), strict=True
        ):
            np.testing.assert_array_equal(x, y[some])


def test_uniform_times_leave_the_numbers():
    drawn, weights = draw(jd.losses.UniformTimes(), U)
    np.testing.assert_array_equal(drawn, U)
    np.testing.assert_array_equal(weights, 1)


# LossHistory.


def test_weighted_means_are_unbiased():
    """The mean of weight(u) f(u) is the mean of f under uniform u, for any f."""
    drawn, weights = draw(TIMES, U, memory=peaked())
    assert weights.max() / weights.min() > 100
    one = weights.max() / len(U)  # the error by a number at a bin's edge
    for f in (np.ones_like, np.exp, lambda x: x**3, lambda x: np.cos(9 * x)):
        even = f(U).mean()
        assert abs((weights * f(drawn)).mean() - even) < one
        assert f is np.ones_like or abs(f(drawn).mean() - even) > 0.05

    num = 50_000
    u = jax.random.uniform(jax.random.key(0), (num,))
    drawn, weights = draw(TIMES, u, memory=peaked())
    values = weights * np.exp(drawn)
    error = values.std() / num**0.5
    assert abs(values.mean() - (np.e - 1)) < 4 * error


def test_bins_come_up_as_often_as_their_probabilities_say():
    memory = peaked()
    p = np.asarray(TIMES.probabilities(memory), np.float64)
    drawn, weights = draw(TIMES, U, memory=memory)
    place = np.floor(drawn * 10).astype(int)
    counts = np.bincount(place, minlength=10)
    np.testing.assert_allclose(counts / len(U), p, atol=2 / len(U))
    np.testing.assert_allclose(p.sum(), 1, rtol=1e-6)
    np.testing.assert_allclose(weights, 1 / (10 * p[place]), rtol=1e-5)
    # The slope of u' -> u is 1 / p(u), also within a bin: the density is even.
    inside = (np.diff(place) == 0) & (drawn[1:] * 10 % 1 < 0.999)
    np.testing.assert_allclose(
        np.diff(drawn)[inside] * len(U), weights[1:][inside], rtol=0.02
    )


def test_probabilities_follow_the_root_of_the_mean_square():
    """Losses have one mean in all bins; larger losses are rarer, the others are 0."""
    times = jd.losses.LossHistory(
        bins=5, discount=0.9, warmup_steps=0, uniform_share=0.2
    )
    rarity = np.arange(5) + 1
    size = 2 * rarity**0.5  # the root of (2 rarity)^2 / rarity
    key = jax.random.key(0)

    @jax.jit
    def step(memory, key):
        keys = jax.random.split(key)
        u, _ = drawn_by(times, jax.random.uniform(keys[0], (4096,)), None, memory)
        rare = jnp.take(jnp.asarray(rarity, jnp.float32), (u * 5).astype(jnp.int32))
        hit = jax.random.uniform(keys[1], (4096,)) * rare < 1
        losses = jnp.where(hit, 2 * rare, 0.0)
        return times.update(memory, times.observe(u, losses)), losses.mean()

    memory, losses = jax.lax.scan(step, times.init(), jax.random.split(key, 100))
    np.testing.assert_allclose(losses.mean(), 2, rtol=0.01)
    expected = 0.2 / 5 + 0.8 * size / size.sum()
    np.testing.assert_allclose(times.probabilities(memory), expected, rtol=0.04)
    assert int(memory.steps) == 100
    # The history holds all examples of every step, with less weight for older steps.
    np.testing.assert_allclose(memory.shares.sum(), 10, rtol=1e-3)
    np.testing.assert_allclose(memory.squares, 10 * expected * size**2, rtol=0.1)


def test_the_history_forgets():
    times = dataclasses.replace(TIMES, warmup_steps=0, discount=0.5)
    u = jnp.asarray(U)
    memory = times.update(times.init(), times.observe(u, jnp.exp(5 * u)))
    new = times.observe(u, 1 + u)
    for _ in range(40):
        memory = times.update(memory, new)
    expected = times.probabilities(times.update(times.init(), new))
    np.testing.assert_allclose(times.probabilities(memory), expected, rtol=1e-5)
    assert 1.5 < expected[-1] / expected[0] < 2


def test_an_unseen_bin_counts_as_the_average_one():
    p = np.asarray(TIMES.probabilities(peaked()))
    np.testing.assert_allclose(p[4], 0.1, rtol=1e-5)
    sizes = np.exp(np.linspace(2, -4, 10))
    sizes[4] = np.delete(sizes, 4).mean()
    expected = 0.001 + 0.99 * sizes / sizes.sum()
    np.testing.assert_allclose(p, expected, rtol=1e-5)


def test_uniform_until_the_history_says_something():
    memory = TIMES.init()
    observed = TIMES.observe(jnp.asarray(U), jnp.exp(-5 * jnp.asarray(U)))
    for _ in range(TIMES.warmup_steps):
        np.testing.assert_allclose(TIMES.probabilities(memory), 0.1, rtol=1e-6)
        drawn, weights = draw(TIMES, U, memory=memory)
        np.testing.assert_allclose(drawn, U, atol=2e-5)
        np.testing.assert_allclose(weights, 1, rtol=1e-6)
        memory = TIMES.update(memory, observed)
    p = TIMES.probabilities(memory)
    assert p[0] > 0.3
    np.testing.assert_allclose(p[0] / p[1], np.exp(0.5), rtol=0.02)
    silent = History(memory.steps, jnp.zeros(10), memory.shares)
    np.testing.assert_allclose(TIMES.probabilities(silent), 0.1, rtol=1e-6)


class Linear:
    """Network with one parameter that outputs params * x_t, without classes."""

    num_classes: int | None = None

    def apply(self, variables: Any, x_t, t, labels=None, keys=None) -> Any:
        return variables["params"] * x_t


def test_the_loss_is_that_of_uniform_times():
    """Data 0 makes x_t = sigma eps, so the loss is the mean of (0.7 sigma - 1)^2."""
    schedule, num = jd.Linear().build(), 20_000
    memory, objective = peaked(), jd.losses.Simple(times=TIMES)
    batch = jd.Batch(jnp.zeros((num, 2, 2, 1)), None, jnp.arange(num))
    loss, metrics = jax.jit(jd.loss_fn, static_argnums=(1, 5, 6))(
        jnp.float32(0.7),
        Linear(),
        schedule,
        batch,
        jax.random.key(0),
        jd.predictions.Eps(),
        objective,
        memory,
    )
    sigma = np.asarray(schedule.sqrt_one_minus_alphas_bar, np.float64)
    exact = (0.7 * sigma - 1) ** 2
    # An example's loss is exact * (mean of 4 squared normals), of variance 1/2.
    p = np.asarray(TIMES.probabilities(memory), np.float64).repeat(100)
    second = (exact**2 * 1.5 / (10 * p)).mean() - exact.mean() ** 2
    assert abs(float(loss) - exact.mean()) < 4 * (second / num) ** 0.5
    share = metrics["share_by_quarter"]
    np.testing.assert_allclose(
        share, 0.25, atol=4 * (0.25 / (10 * p) / num).max() ** 0.5
    )
    np.testing.assert_allclose(metrics["loss_by_quarter"].sum(), loss, rtol=1e-5)
    # The history sees the draws, and losses without weights.
    squares, shares = metrics["seen"]
    p = p[::100]
    error = (p * (1 - p) / num) ** 0.5
    np.testing.assert_array_less(abs(shares - p), 4 * error)
    expected = (exact**2 * 1.5).reshape(10, 100).mean(axis=1)
    often = p > 0.05
    np.testing.assert_allclose(
        (squares / shares)[often], expected[often], rtol=0.15, atol=1e-6
    )


@pytest.mark.parametrize("bins", [1, 7, 1000])
def test_every_number_is_in_a_bin(bins):
    times = jd.losses.LossHistory(bins=bins, warmup_steps=0)
    u = np.append(U, np.float32(1 - 2**-24))
    memory = History(jnp.int32(1), jnp.linspace(9, 0, bins), jnp.ones(bins))
    drawn, _ = draw(times, u, memory=memory)
    assert 0 <= drawn.min() < drawn.max() < 1
    squares, shares = times.observe(jnp.asarray(drawn, jnp.float32), jnp.ones(len(u)))
    np.testing.assert_allclose(shares.sum(), 1, rtol=1e-4)
    p = times.probabilities(memory)
    np.testing.assert_allclose(shares, p, atol=1e-4)
    np.testing.assert_allclose(squares, shares, rtol=1e-6)


def test_the_variance_becomes_less():
    """A loss with a peak at little noise, as the bound has, gets less variance."""
    loss = lambda u: 1 / (0.01 + u)  # noqa: E731
    times = jd.losses.LossHistory(warmup_steps=0)
    u = jnp.asarray(U)
    memory = times.update(times.init(), times.observe(u, loss(u)))
    drawn, weights = draw(times, U, memory=memory)
    estimates = weights * loss(drawn)
    exact = np.log(1.01 / 0.01)
    np.testing.assert_allclose(estimates.mean(), exact, rtol=2e-3)
    assert estimates.var() < loss(U).var() / 20
    # No other drawing by bins has less variance: by Cauchy-Schwarz, the root of the
    # mean square gives the minimum.
    sizes = np.sqrt((loss(U).reshape(64, -1) ** 2).mean(axis=1))
    np.testing.assert_allclose((estimates**2).mean(), sizes.mean() ** 2, rtol=0.03)


@pytest.mark.parametrize("times", get_args(TimesOptions))
def test_the_mean_of_shards_is_the_whole_batch(times):
    times = times()
    keys = jax.random.split(jax.random.key(0))
    u = jax.random.uniform(keys[0], (64,))
    losses = jnp.exp(jax.random.normal(keys[1], (64,)))
    whole = times.observe(u, losses)
    shards = jax.vmap(times.observe)(u.reshape(8, 8), losses.reshape(8, 8))
    mean = jax.tree.map(lambda x: x.mean(axis=0), shards)
    memories = [times.update(times.init(), seen) for seen in (whole, mean)]
    assert type(memories[0]) is type(times.init())
    for x, y in zip(*map(jax.tree.leaves, memories), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5)


# LogNormal.


@pytest.mark.parametrize("options", get_args(ScheduleOptions))
def test_log_normal_levels(options):
    """log(sigma / alpha) has the quantiles of the requested normal distribution."""
    schedule = built(options())
    for mean, deviation in ((-1.2, 1.2), (0.0, 1.0), (0.3, 0.2)):
        times = jd.losses.LogNormal(mean=mean, deviation=deviation)
        u = U[::32] + np.float32(2**-12)
        drawn, weights = draw(times, u, schedule)
        level = schedule.level(schedule.time(jnp.asarray(drawn, jnp.float32)))
        got = np.asarray(jnp.log(level.sigma) - jnp.log(level.alpha), np.float64)
        normal = NormalDist(mean, deviation)
        expected = np.array([normal.inv_cdf(float(x)) for x in u])
        if isinstance(schedule, jd.Schedule):
            # A discrete schedule takes the time of the nearest level.
            every = schedule.level(schedule.times)
            table = np.asarray(jnp.log(every.sigma) - jnp.log(every.alpha))
            least = np.abs(expected[:, None] - table[None]).min(axis=1)
            np.testing.assert_allclose(np.abs(got - expected), least, atol=2e-3)
        else:
            ends = schedule.level(jnp.array([0.0, 1.0]))
            low, high = np.log(ends.sigma) - np.log(np.maximum(ends.alpha, 1e-30))
            np.testing.assert_allclose(got, expected.clip(low, high), atol=2e-3)
            assert np.mean(expected.clip(low, high) == expected) > 0.99
        np.testing.assert_array_equal(weights, 1)
        # The moments agree too, except for the part that the range cuts off.
        np.testing.assert_allclose(got.mean(), mean, atol=0.01)
        np.testing.assert_allclose(got.std(), deviation, rtol=0.01)


def test_logit_normal_on_the_straight_path():
    """Esser et al. 2024: logit(t) is standard normal; t is the share of noise."""
    schedule, num = jd.schedules.RectifiedFlow().build(), 4000
    u = jax.random.uniform(jax.random.key(0), (num,))
    drawn, _ = draw(jd.losses.LogNormal(mean=0.0, deviation=1.0), u, schedule)
    t = np.sort(schedule.level(drawn.astype(np.float32)).sigma.astype(float))
    expected = np.array([NormalDist().cdf(x) for x in np.log(t) - np.log1p(-t)])
    # Kolmogorov-Smirnov: above 1.95 / sqrt(n) once in a thousand.
    places = np.arange(num + 1) / num
    distance = max((expected - places[:-1]).max(), (places[1:] - expected).max())
    assert distance < 1.95 / num**0.5


# In training.


FEW = jd.losses.LossHistory(bins=8, warmup_steps=1, discount=0.5)


def trained(tiny, schedule, count):
    """Returns the state after two steps on `count` devices, and the histories."""
    network, params = tiny
    optimizer = optax.sgd(1e-2)
    parallel = jd.parallel.Pmap(num_devices=count)
    params = jax.tree.map(jnp.copy, params)  # the state is donated
    state = jd.TrainState.create(params, optimizer, FEW.init())
    state = jax.device_put(state, parallel.shardings(state))
    step = parallel.step(
        partial(
            jd.train_step,
            network=network,
            schedule=schedule,
            prediction=jd.predictions.Eps(),
            objective=jd.losses.Simple(times=FEW),
            optimizer=optimizer,
            ema_decay=0.9,
            seed=0,
        )
    )
    images = jax.random.uniform(jax.random.key(7), (16, 8, 8, 1), minval=-1)
    batch = jd.Batch(np.asarray(images), np.arange(16) % 10, np.arange(16))
    history = [jax.device_get(state.memory)]
    for _ in range(2):
        state, metrics = step(state, batch)
        assert "seen" not in metrics
        history.append(jax.device_get(state.memory))
    return state, history


@pytest.mark.long
def test_training_remembers(tiny, short, standard_promotion, tmp_path):
    """Two steps give one history on 1 and 8 devices; a checkpoint restores it."""
    state, history = trained(tiny, short, 1)
    assert [int(memory.steps) for memory in history] == [0, 1, 2]
    np.testing.assert_allclose([m.shares.sum() for m in history], [0, 1, 1.5])
    first, second = history[1:]
    assert (second.squares - 0.5 * first.squares >= 0).all()
    assert second.squares.sum() > 0.5 * first.squares.sum()
    # The second step draws its times by the history of the first step.
    key = jax.random.fold_in(jax.random.key(0), 1)
    u = rng.uniform(rng.fold(rng.example_keys(key, jnp.arange(16)), 0))
    drawn, _ = draw(FEW, u, short, first)
    even, counts = (
        np.bincount(np.floor(x * 8).astype(int), minlength=8) for x in (u, drawn)
    )
    assert (counts != even).any()
    np.testing.assert_allclose((second.shares - 0.5 * first.shares) * 16, counts)

    shared, histories = trained(tiny, short, 8)
    for ours, theirs in zip(history, histories, strict=True):
        for x, y in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-4)
    for x, y in zip(*map(jax.tree.leaves, (state, shared)), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)

    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(2, shared)
        restored = checkpoints.restore(jax.eval_shape(lambda: shared))
    assert isinstance(restored.memory, History)
    for x, y in zip(*map(jax.tree.leaves, (restored, shared)), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: jd.losses.LossHistory(bins=0), r"bins must lie in 1\.\.1000, got 0"),
        (
            lambda: jd.losses.LossHistory(discount=1.0),
            r"discount must lie in \[0, 1\), got 1",
        ),
        (lambda: jd.losses.LossHistory(discount=-0.1), r"discount .* got -0.1"),
        (
            lambda: jd.losses.LossHistory(uniform_share=0.0),
            r"uniform_share must lie in \(0, 1\], got 0",
        ),
        (lambda: jd.losses.LossHistory(uniform_share=1.5), r"uniform_share .* got 1.5"),
        (
            lambda: jd.losses.LogNormal(deviation=0.0),
            "deviation must be above 0, got 0",
        ),
    ],
)
def test_bad_options(make, message):
    with pytest.raises(jd.InputError, match=f"^{message}$"):
        make()


def test_a_time_is_counted_in_the_bin_it_was_drawn_from():
    """The maximum of 1000 bins is exact in float32, also at the edges of each bin."""
    times, bins = jd.losses.LossHistory(bins=1000, warmup_steps=0), 1000
    p = np.linspace(1.0, 3.0, bins) / 2000
    memory = History(jnp.int32(1), jnp.float32(p**2 * 1e6), jnp.ones(bins))
    p = np.asarray(times.probabilities(memory), np.float64)
    edges = np.cumsum(p)
    u = np.float32(np.concatenate([edges - p, edges - 1e-6]).clip(0, 1 - 2**-24))
    drawn, weights = times.draw(jnp.asarray(u), jd.Linear().build(), memory)
    place = np.floor(np.asarray(drawn * bins)).astype(int)
    np.testing.assert_allclose(weights, 1 / (bins * p[place]), rtol=1e-5)
    _, shares = times.observe(drawn, jnp.ones_like(drawn))
    np.testing.assert_allclose(shares.sum(), 1, rtol=1e-6)
