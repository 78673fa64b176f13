"""Solvers of the probability-flow ODE converge at their orders, in float64.

In y = x / alpha and s = sigma / alpha, all schedules have one ODE, dy / ds = eps-hat.
SciPy solves this ODE, with the mixture's eps-hat written out in NumPy.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from scipy.integrate import solve_ivp

import jaxdiff as jd
from tests.helpers.compilations import counted, traces

WEIGHTS = np.array([0.3, 0.7])
MEANS = np.array([[0.5, -0.2], [-0.6, 0.4]])
VARIANCES = np.array([0.25, 0.1])
SCHEDULES = {
    "preserving": jd.schedules.VP(),
    "exploding": jd.schedules.VE(),
    "straight": jd.schedules.RectifiedFlow(),
}
STARTS = np.random.default_rng(0).normal(size=(16, 2))
LEAST = 6.0
"""Log signal-to-noise ratio at the end of the sampling loops, before the data."""


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def mixture():
    parts = [
        jd.oracles.Gaussian.of(jnp.asarray(mean), float(variance))
        for mean, variance in zip(MEANS, VARIANCES, strict=True)
    ]
    return jd.oracles.GaussianMixture.of(WEIGHTS, parts)


def eps_hat(y, s):
    apart = y[:, None] - MEANS
    total = VARIANCES + s**2
    density = WEIGHTS / total * np.exp(-(apart**2).sum(axis=-1) / (2 * total))
    share = density / density.sum(axis=1, keepdims=True)
    return s * ((share / total)[..., None] * apart).sum(axis=1)


def exact(y, s_from, s_to):
    """Returns SciPy's solution, in log s."""

    def slope(log_s, flat):
        s = np.exp(log_s)
        return (s * eps_hat(flat.reshape(y.shape), s)).reshape(-1)

    span = np.log([s_from, s_to])
    solved = solve_ivp(
        slope, span, y.reshape(-1), method="DOP853", rtol=1e-12, atol=1e-13
    )
    return solved.y[:, -1].reshape(y.shape)


def first_log_snr(schedule):
    levels = jd.spacing.UniformLogSNR().levels(schedule)
    return float(2 * jnp.log(levels.alpha[0] / levels.sigma[0]))


def grid(first, num_steps, short=None):
    """Returns even steps of log SNR, after two steps of `short` h^2 if given."""
    even = np.linspace(first, LEAST, num_steps + 1)
    if short is None:
        return even
    tiny = short * (even[1] - even[0]) ** 2
    rest = np.linspace(first + 2 * tiny, LEAST, num_steps + 1)
    return np.concatenate([[first, first + tiny], rest])


@functools.cache
def answers(kind, first):
    """Returns starts and ends of the exact paths, as y = x / alpha."""
    s, s_end = np.exp(-first / 2), np.exp(-LEAST / 2)
    start = STARTS * np.hypot(1, s)
    return start, exact(start, s, s_end)


@functools.partial(jax.jit, static_argnums=0)
def solved(sampler, denoiser, levels, x):
    """Returns the ends of the sampling loops of every schedule.

    The function lives as long as the module, because JAX keeps programs by the
    function. With a function per call, Heun's rule failed once in a while, as if the
    program of another call had run: one trace of the denoiser was missing.
    """

    def run(level, x):
        return jd.sample(
            denoiser, sampler, SCHEDULES["preserving"], jax.random.key(0), x.shape,
            x_T=x, levels=level,
        )  # fmt: skip

    return jax.vmap(run)(levels, x)


def errors(sampler, steps, first=None, short=None):
    """Returns the root mean square error per number of steps [steps, schedules].

    One compiled loop runs all schedules, over their levels.
    """
    found = []
    firsts = {
        kind: first_log_snr(schedule) if first is None else first
        for kind, schedule in SCHEDULES.items()
    }
    pairs = [answers(kind, start) for kind, start in firsts.items()]
    starts, ends = (np.stack(part) for part in zip(*pairs, strict=True))

    denoiser = Partial(counted, mixture())
    for num_steps in steps:
        levels = [
            schedule.level_of_log_snr(jnp.asarray(grid(firsts[kind], num_steps, short)))
            for kind, schedule in SCHEDULES.items()
        ]
        stacked: Any = jax.tree.map(lambda *a: jnp.stack(a), *levels)
        alpha = stacked.alpha[..., None, None]
        y = solved(sampler, denoiser, stacked, starts * alpha[:, 0]) / alpha[:, -1]
        found.append(np.sqrt(((y - ends) ** 2).mean(axis=(1, 2))))
    return np.array(found)


def slopes(error, steps):
    """Returns the order over all the steps, per schedule."""
    return -np.log(error[-1] / error[0]) / np.log(steps[-1] / steps[0])


def dpm(order, **options):
    return jd.DPMSolver(order=order, lower_order_final=False, **options)


def uni_pc(order, variant="bh2"):
    return jd.samplers.UniPC(order=order, variant=variant, lower_order_final=False)


def deis(order):
    return jd.samplers.DEIS(order=order, lower_order_final=False)


SOLVERS: list[Any] = [
    (jd.DDIM(), 1),
    (jd.samplers.Euler(), 1),
    (jd.samplers.FlowEuler(), 1),
    (jd.Heun(), 2),
    (jd.samplers.FlowHeun(), 2),
    (dpm(1), 1),
    (dpm(2), 2),
    (dpm(2, variant="heun"), 2),
    (dpm(3), 3),
    *((uni_pc(p, variant), p + 1) for p in (1, 2, 3) for variant in ("bh1", "bh2")),
    (deis(3), 3),
    *(pytest.param(a, p, marks=pytest.mark.long) for a, p in [
        (jd.samplers.PNDM(), 2),
        (jd.samplers.PNDM(quantity="v"), 1),  # v turns with the level
        (jd.samplers.PNDM(start="runge-kutta"), 2),
        *((jd.samplers.LMS(order=p), p) for p in (1, 2, 3, 4)),
        *((deis(p), p) for p in (1, 2)),
        (jd.samplers.DPM2(), 2),
        (jd.samplers.DPMSolver2S(eta=0.0), 2),
        (jd.samplers.DPMSolverSDE(eta=0.0), 2),
        (dpm(3, third_order="published"), 2),
    ]),
]  # fmt: skip


@pytest.mark.parametrize(("sampler", "order"), SOLVERS, ids=str)
def test_error_falls_at_the_order(sampler, order):
    """The slope covers two octaves, from pure noise, where x_0-hat hardly changes."""
    steps = (64, 256) if order == 4 else (32, 128)
    if isinstance(sampler, jd.samplers.LMS):  # whose first steps are long in sigma
        steps = (128, 512)
    traces.clear()
    error = errors(sampler, steps)
    assert error.max() < 0.1
    traced = f"{len(traces)} evaluations of the denoiser were traced"
    np.testing.assert_allclose(slopes(error, steps), order, atol=0.25, err_msg=traced)


@pytest.mark.parametrize(("sampler", "order"), [(dpm(3), 3), (uni_pc(2), 3)], ids=str)
def test_order_3_needs_an_accurate_start(sampler, order):
    """In the middle of the path, a predictor's first step leaves an error of h^2.

    The first step has order 1. UniPC corrects it to order 2, and its error of h^3 does
    not lower the order. With two steps of length h^2 before the others, order 3
    returns.
    """
    steps, plain = (32, 128), 2 if isinstance(sampler, jd.DPMSolver) else order
    error = errors(sampler, steps, first=0.0)
    np.testing.assert_allclose(slopes(error, steps), plain, atol=0.3)
    error = errors(sampler, steps, first=0.0, short=0.5)
    np.testing.assert_allclose(slopes(error, steps), order, atol=0.25)


ODE_SOLVERS = [
    (jd.DDIM(), 1),
    (jd.Heun(), 2),
    (jd.samplers.FlowHeun(), 2),
    (jd.DPMSolver(), 2),
]


@pytest.mark.parametrize("kind", ["preserving", "exploding"])
@pytest.mark.parametrize(("sampler", "order"), ODE_SOLVERS, ids=str)
def test_encode_then_decode_returns_the_data(sampler, order, kind):
    schedule, images = SCHEDULES[kind], jnp.asarray(0.7 * STARTS)
    steps, error = (32, 128), []
    for num_steps in steps:
        spacing = jd.spacing.UniformLogSNR(num_steps=num_steps)
        there_and_back = dataclasses.replace(sampler, spacing=spacing)
        noise = jd.samplers.encode(mixture(), there_and_back, schedule, images)
        again = jd.samplers.decode(mixture(), there_and_back, schedule, noise)
        error.append(np.sqrt(((again - images) ** 2).mean()))
    assert error[-1] < (0.1 if order == 1 else 0.01)
    slope = -np.log(error[1] / error[0]) / np.log(steps[1] / steps[0])
    # The way back recovers part of the error, so the slope is at least the order.
    assert slope > order - 0.25


def test_the_code_of_an_image_is_the_odes():
    schedule, images = SCHEDULES["exploding"], jnp.asarray(0.7 * STARTS)
    sampler = jd.Heun(spacing=jd.spacing.Karras(num_steps=200))
    noise = jd.samplers.encode(mixture(), sampler, schedule, images)
    np.testing.assert_allclose(
        noise, exact(0.7 * STARTS, 0.002, 80.0), rtol=2e-3, atol=0.02
    )


def test_images_are_scaled_to_the_level_that_the_way_begins_at():
    """For N(0, 1) data, the ODE turns alpha x_0 into noise of the same length."""
    schedule, begin, end = jd.Linear().build(), 400, 800
    data = jd.oracles.Gaussian.of(jnp.zeros(2, jnp.float32), 1.0)
    spacing = jd.spacing.Times(times=tuple(np.linspace(end, begin, 101).tolist()))
    sampler = jd.DDIM(spacing=spacing)
    images = jnp.asarray([[0.5, -1.0], [2.0, 0.1]], jnp.float32)
    noise = jd.samplers.encode(data, sampler, schedule, images)
    alpha = schedule.level(begin).alpha
    assert alpha < 0.5
    np.testing.assert_allclose(noise, alpha * images, rtol=0.02)
    again = jd.samplers.decode(data, sampler, schedule, noise)
    np.testing.assert_allclose(again, images, rtol=0.02)


@pytest.mark.parametrize(
    "sampler",
    [jd.DDPM(), jd.DDIM(eta=0.1), jd.DPMSolver(eta=1.0), jd.Heun(churn=1.0)],
    ids=str,
)
def test_encode_refuses_noise(sampler):
    name = type(sampler).__name__
    with pytest.raises(jd.InputError, match=f"{name} with noise. Choose a determin"):
        jd.samplers.encode(
            mixture(), sampler, SCHEDULES["exploding"], jnp.asarray(STARTS)
        )


def test_encode_needs_two_levels():
    sampler = jd.DDIM(spacing=jd.spacing.Trailing(num_steps=1))
    with pytest.raises(jd.InputError, match=r"2 levels, got 1\. Take more steps"):
        jd.samplers.encode(
            mixture(), sampler, SCHEDULES["exploding"], jnp.asarray(STARTS)
        )
