"""Consistency losses and their sampler, against closed forms for Gaussian data.

For data N(0, d) in one dimension the path of x_t = y + s eps leads to A(s) x_t, with
A(s) = sqrt(d / (d + s^2)).
"""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from scipy.stats import norm

import jaxdiff as jd
from jaxdiff import rng
from jaxdiff.errors import InputError
from jaxdiff.losses import Consistency, Grid, Ratio, consistency
from jaxdiff.losses.few_steps import check_sampler

D = 0.3
VE = jd.schedules.VE().build()
EDM = jd.predictions.EDM()
KEY = jax.random.key(0)
CLOSE = Ratio(base=2.0**9, stage_steps=1)
"""Pairs so close that Heun's rule is exact, up to rounding."""


def end(x_t, level):
    """Returns the end of the path of x_t, for data N(0, D)."""
    alpha, sigma = level.scales(x_t)
    return x_t * jnp.sqrt(D / (alpha**2 * D + sigma**2))


class OfGaussian:
    """Network with parameters (gain, share of the teacher).

    A share of 0 gives `gain` times the output of the exact consistency model, 1 the
    output of the optimal denoiser.
    """

    num_classes = None

    def __init__(self, schedule, prediction):
        self.schedule, self.prediction = schedule, prediction

    def apply(self, variables: Any, x, t, labels=None, keys=None) -> Any:
        gain, taught = variables["params"]
        s = jnp.exp(t / 250)  # of the schedule VE
        level = jd.Level(t, jnp.ones_like(s), s)
        alpha, sigma = level.scales(x)
        x_t = x / self.prediction.scaled(jnp.ones_like(x), level)

        def output(x_0):
            return self.prediction.target(x_0, (x_t - alpha * x_0) / sigma, level)

        best = jd.oracles.Gaussian.of(jnp.zeros((1, 1, 1)), D)(x_t, level)
        return taught * output(best.x_0) + (1 - taught) * gain * output(end(x_t, level))


def batch_of(num):
    x_0 = D**0.5 * jax.random.normal(jax.random.key(7), (num, 1, 1, 1))
    return jd.Batch(x_0, None, jnp.arange(num))


def loss_of(objective, num, step=0, teacher=None, prediction=EDM):
    """Returns a function from the gain to the loss, and its standard error."""
    network = OfGaussian(VE, prediction)

    @jax.jit
    def of(gain):
        return jd.loss_fn(
            (gain, jnp.float32(0)), network, VE, batch_of(num), KEY, prediction,
            objective, data_range=None, step=jnp.int32(step), teacher=teacher,
        )[0]  # fmt: skip

    return of


@pytest.mark.parametrize("huber", [0.0, 0.00054])
def test_distillation_of_the_exact_path_has_no_loss_and_no_gradient(huber):
    objective = Consistency(pairs=CLOSE, path="teacher", huber=huber)
    loss = loss_of(objective, 256, teacher=(jnp.float32(1), jnp.float32(1)))
    exact, zero = jax.value_and_grad(loss)(jnp.float32(1.0))
    assert abs(float(exact)) < 1e-5
    assert abs(float(zero)) < 2e-3
    for gain in (0.8, 1.2):
        wrong, slope = jax.value_and_grad(loss)(jnp.float32(gain))
        assert wrong > 100 * abs(exact)
        assert slope * (gain - 1) > 4 * abs(zero)


def test_guidance_is_the_teachers(monkeypatch):
    """One step of distillation ends where the guided teacher's step of Heun does."""
    seen = []

    def heun_step(teacher, x_t, level, next_level):
        seen.append((teacher(x_t, level), x_t, level))
        return x_t

    monkeypatch.setattr(consistency, "heun_step", heun_step)
    network = jd.UNetConfig(
        channels=4, multipliers=(1,), blocks=1, attention=(), groups=2
    ).build(1, 3)
    model = jd.Model(network, VE, EDM, (8, 8, 1), 3)
    params = jax.tree.map(lambda a: a + 0.1, jax.jit(model.init)())
    labels = jnp.array([0, 2, 1])
    batch = jd.Batch(jnp.zeros((3, 8, 8, 1)), labels, jnp.arange(3))
    objective = Consistency(pairs=CLOSE, path="teacher", guidance=3.0)

    @jax.jit
    def estimates(params):
        jd.loss_fn(params, network, VE, batch, KEY, EDM, objective, teacher=params)
        ((found, x_t, level),) = seen
        given, free = (
            jd.bind(network, params, one, EDM)(x_t, level).x_0 for one in (labels, None)
        )
        return found.x_0, given, free

    found, given, free = estimates(params)
    wanted = free + 3 * (given - free)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)
    assert abs(given - free).max() > 1e-3
    with pytest.raises(InputError, match="guidance must be 1 for the objective consis"):
        replace(objective, path="noise").check(EDM)


def expected(gain, stage):
    """Returns the mean loss and slope of tuning, by integrals over the noise levels."""
    u = (np.arange(20_000) + 0.5) / 20_000
    s = np.clip(np.exp(-1.1 + 2.0 * norm.ppf(u)), 0.002, 80.0)
    adjacent = 1 - (1 + 8 / (1 + np.exp(s))) / 2 ** (stage + 1)
    r = s * np.maximum(adjacent, 0)
    r = np.where(r <= 0.002, 0, r)
    skip, free = (lambda s: 0.25 / (0.25 + s**2)), (lambda s: np.sqrt(D / (D + s**2)))

    def factor(s):
        return skip(s) + gain * (free(s) - skip(s))

    both = D + s * r
    loss = factor(s) ** 2 * (D + s**2) + factor(r) ** 2 * (D + r**2)
    loss -= 2 * factor(s) * factor(r) * both
    slope = 2 * (factor(s) * (D + s**2) - factor(r) * both) * (free(s) - skip(s))
    return (loss / (s - r)).mean(), (slope / (s - r)).mean()


@pytest.mark.parametrize("stage", [0, 3])
@pytest.mark.parametrize("gain", [0.7, 1.0])
def test_tuning_has_the_loss_and_slope_of_its_integral(gain, stage):
    """The noise is that of the noisier level, and the cleaner side has no gradient."""
    objective = Consistency(huber=0.0, pairs=Ratio(stage_steps=10))
    loss = loss_of(objective, 40_000, step=10 * stage + 5)
    found = jax.value_and_grad(loss)(jnp.float32(gain))
    wanted = expected(gain, stage)
    np.testing.assert_allclose(found, wanted, rtol=0.05, atol=0.01)


def test_the_bias_of_tuning_falls_with_the_gap():
    """At the exact model the mean slope goes to 0, in proportion to the gap."""
    slopes = [abs(expected(1.0, stage)[1]) for stage in range(3, 9)]
    assert all(b < 0.6 * a for a, b in pairwise(slopes))
    assert slopes[0] < abs(expected(0.7, 3)[1])


@pytest.mark.parametrize("prediction", [EDM, jd.predictions.V(), jd.predictions.Eps()])
def test_the_identity_holds_without_noise(prediction):
    """Any output gives x_t itself, except for the prediction of x_0."""
    x = jax.random.normal(KEY, (4, 2, 2, 1))
    output = jax.random.normal(jax.random.key(1), x.shape)
    clean = jd.Level(jnp.zeros(4), jnp.ones(4), jnp.zeros(4))
    np.testing.assert_allclose(prediction.estimate(output, x, clean).x_0, x, rtol=1e-6)
    other = jd.predictions.X0().estimate(output, x, clean).x_0
    assert abs(other - x).max() > 0.5


class Dropping:
    """Network whose estimate of x_0 is a number of its dropout keys, at every level."""

    num_classes = None

    def apply(self, variables: Any, x, t, labels=None, keys=None) -> Any:
        s = jnp.exp(t / 250)
        level = jd.Level(t, jnp.ones_like(s), s)
        x_t = x / EDM.scaled(jnp.ones_like(x), level)
        x_0 = jnp.broadcast_to(rng.uniform(keys)[:, None, None, None], x.shape)
        alpha, sigma = level.scales(x)
        return EDM.target(x_0, (x_t - alpha * x_0) / sigma, level)


def test_both_levels_have_one_dropout():
    objective = Consistency(pairs=Ratio(base=100.0))
    batch = jd.Batch(jnp.zeros((64, 1, 1, 1)), None, jnp.arange(64))
    loss, _ = jax.jit(
        lambda key: jd.loss_fn((), Dropping(), VE, batch, key, EDM, objective)
    )(KEY)
    assert abs(float(loss)) < 1e-3
    first, second = rng.uniform(rng.example_keys(KEY, jnp.arange(2)))
    assert first != second


def test_pairs_of_a_ratio():
    s, ends = jnp.array([0.002, 0.1, 1.0, 80.0]), jnp.array([0.002, 80.0])
    pairs = Ratio(base=2.0, stage_steps=10, last_stage=3)
    for step, stage in ((0, 0), (9, 0), (10, 1), (35, 3), (999, 3)):
        s_t, s_r = pairs.pair(s, ends[0], ends[1], jnp.int32(step))
        near = 1 - (1 + 8 / (1 + np.exp(np.float64(s)))) / 2 ** (stage + 1)
        np.testing.assert_array_equal(s_t, s)
        np.testing.assert_allclose(s_r, np.float64(s) * np.maximum(near, 0), rtol=1e-5)


@pytest.mark.parametrize(("step", "count"), [(0, 10), (399, 10), (400, 20), (9999, 80)])
def test_pairs_are_neighbours_in_karras_grid(step, count):
    grid = jd.spacing.Karras(num_steps=count + 1).levels(VE).sigma[:-1][::-1]
    s = jnp.exp(jnp.linspace(np.log(0.002), np.log(80.0), 500))
    s_t, s_r = Grid(last_count=80).pair(s, grid[0], grid[-1], jnp.int32(step))
    np.testing.assert_allclose(np.unique(s_t.round(6)).size, count, atol=0)
    places = np.abs(np.log(s_t[:, None] / grid[None, 1:])).argmin(axis=1)
    np.testing.assert_allclose(s_t, grid[1:][places], rtol=2e-5)
    np.testing.assert_allclose(s_r, grid[:-1][places], rtol=2e-5)
    assert (s_t >= s * 0.9999).all()
    assert (s_r <= s * 1.0001).all()


def exact(x_t, level):
    return jd.Estimate(end(x_t, level), jnp.zeros_like(x_t))


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize(
    "schedule", [VE, jd.Linear().build(), jd.schedules.RectifiedFlow().build()]
)
def test_the_exact_model_keeps_the_datas_variance_on_any_grid(schedule, steps):
    num = 20_000
    sampler = jd.samplers.Consistency(spacing=jd.spacing.Trailing(num_steps=steps))
    start = schedule.level(schedule.times[-1])
    spread = jnp.sqrt(start.alpha**2 * D + start.sigma**2)
    x_T = spread * jax.random.normal(KEY, (num, 1))
    found = jd.sample(
        Partial(exact), sampler, schedule, jax.random.key(1), (num, 1), x_T=x_T
    )
    assert abs(float(found.var()) / D - 1) < 4 * (2 / num) ** 0.5
    if steps == 1:
        np.testing.assert_allclose(found, end(x_T, start), rtol=1e-5)


def test_lcm_without_its_scalings_is_the_same_sampler():
    options: Any = {"spacing": jd.spacing.Trailing(num_steps=3), "noise_scale": 0.9}
    args = (jd.Linear().build(), KEY, (8, 2))
    plain = jd.sample(exact, jd.samplers.Consistency(**options), *args)
    far = jd.samplers.LCM(time_scale=1e6, **options)
    np.testing.assert_allclose(jd.sample(exact, far, *args), plain, rtol=1e-4)
    near = jd.samplers.LCM(time_scale=1e-6, **options)
    assert abs(jd.sample(exact, near, *args) - plain).max() > 0.1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prediction": jd.predictions.X0()}, "got x0. Predict edm, v, velocity"),
        (
            {"prediction": jd.predictions.EDM(learn_variance=True)},
            "learn_variance must be off for the objective consistency",
        ),
        (
            {"objective": Consistency(path="teacher")},
            "init must name the teacher's run for this objective, got None",
        ),
        (
            {"sampling": jd.training.Sampling(sampler=jd.DDIM())},
            "sampler must be consistency for a model trained by the objective",
        ),
    ],
)
def test_combinations_that_do_not_work(options, message):
    sampling = jd.training.Sampling(sampler=jd.samplers.Consistency())
    given: Any = {
        "objective": Consistency(), "prediction": EDM, "sampling": sampling, **options
    }  # fmt: skip
    with pytest.raises(InputError, match=message):
        jd.Experiment(schedule=jd.schedules.VE(), **given).check(VE)


def test_the_sampler_needs_a_consistency_model():
    with pytest.raises(InputError, match="got the objective Simple"):
        check_sampler(jd.losses.Simple(), jd.samplers.Consistency())
    check_sampler(jd.losses.Simple(), jd.samplers.LCM())
    check_sampler(Consistency(), jd.samplers.LCM())


def test_a_teacher_must_be_given():
    objective = Consistency(path="teacher")
    with pytest.raises(InputError, match="teacher must be given"):
        loss_of(objective, 4)(jnp.float32(1))
