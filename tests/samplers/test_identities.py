"""Samplers against equal samplers, written-out formulas and published numbers."""

import warnings
from functools import partial
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.denoisers.predictions import Prediction
from jaxdiff.samplers import SamplerOptions
from jaxdiff.schedules import ScheduleOptions
from tests.helpers.long_parameters import long_where

KEY = jax.random.key(0)
SCHEDULES: Any = get_args(ScheduleOptions)
OF_FLOW_MAPS = jd.samplers.FlowMap
"""Sampler that needs a network with a second time."""
SAMPLERS: Any = [cls for cls in get_args(SamplerOptions) if cls is not OF_FLOW_MAPS]
TEN: Any = {"spacing": jd.spacing.Trailing(num_steps=10)}
DATA = jd.oracles.Gaussian.of(np.array([0.4, -0.2], np.float32), np.array([0.3, 0.05]))


NO_ESTIMATE = (jd.samplers.PNDM, jd.samplers.LMS, jd.samplers.LCM)
"""Samplers whose last step is not the estimate; see test_samplers.py."""
NEWER = SAMPLERS[SAMPLERS.index(jd.samplers.PNDM) :]
"""Samplers of published models; short tests see them on one schedule."""


def build(option):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return option().build()


def chain(sampler, schedule, denoiser: Any = DATA, **options):
    return jd.sample(denoiser, sampler, schedule, KEY, (64, 2), **options)


@pytest.fixture(
    scope="module",
    params=long_where(lambda option: option is jd.schedules.Betas, SCHEDULES),
    ids=lambda option: option.__name__,
)
def schedule(request):
    return build(request.param)


def test_first_order_solvers_are_one(schedule):
    """DDIM, DPM-Solver++ of order 1 and Euler's methods agree with a NumPy loop."""
    levels = jax.tree.map(np.float64, TEN["spacing"].levels(schedule))
    x_T = np.random.default_rng(0).normal(size=(64, 2)) * schedule.prior_scale
    x = x_T
    mean, variance = np.array([0.4, -0.2]), np.array([0.3, 0.05])
    for i in range(10):  # exponential Euler: x_0-hat is constant, the rest is exact
        (a, a_s), (s, s_s) = levels.alpha[i : i + 2], levels.sigma[i : i + 2]
        x_0 = mean + a * variance / (a**2 * variance + s**2) * (x - a * mean)
        x = s_s / s * x + (a_s - s_s * a / s) * x_0
    samplers = [
        jd.DDIM,
        jd.DPMSolver,
        jd.samplers.Euler,
        jd.samplers.FlowEuler,
        jd.samplers.EulerAncestral,
    ]
    options: list[Any] = [{}, {"order": 1}, {}, {}, {"eta": 0.0}]
    for sampler, others in zip(samplers, options, strict=True):
        found = chain(sampler(**TEN, **others), schedule, x_T=jnp.float32(x_T))
        np.testing.assert_allclose(found, x, rtol=2e-4, atol=2e-5)


def test_with_as_much_noise_as_ddpm_they_are_the_ancestral_chain(schedule):
    """DDIM, EulerAncestral and SDE-DPM-Solver++ of order 1 agree with 10 DDPM steps."""
    expected = chain(jd.DDPM(**TEN), schedule)
    for sampler in (
        jd.DDIM(**TEN, eta=1.0),
        jd.samplers.EulerAncestral(**TEN),
        jd.DPMSolver(**TEN, order=1, eta=1.0),
    ):
        found = chain(sampler, schedule)
        np.testing.assert_allclose(found, expected, rtol=2e-4, atol=5e-5)


def test_ddim_on_all_steps_is_the_ancestral_chain(short):
    every: Any = {"spacing": jd.spacing.AllTimes()}
    found = chain(jd.DDIM(**every, eta=1.0), short)
    np.testing.assert_allclose(found, chain(jd.DDPM(), short), rtol=1e-4, atol=1e-5)


def test_unipc_without_a_corrector_in_two_steps_is_dpm_solver():
    """The first prediction has order 1 and is corrected; the second has order 2."""
    schedule = jd.schedules.VP().build()
    spacing = jd.spacing.Trailing(num_steps=2, to_data=False)
    options: Any = {"spacing": spacing, "lower_order_final": False}
    constant = jd.predictions.X0()

    def fixed(x_t, level):  # a constant needs no correction
        return constant.estimate(jnp.zeros_like(x_t) + 0.3, x_t, level)

    for order in (1, 2, 3):
        found = chain(jd.samplers.UniPC(**options, order=order), schedule, fixed)
        expected = chain(jd.DPMSolver(**options, order=order), schedule, fixed)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def by_hand(levels, x, noise, step):
    """Loops over a grid in NumPy; `step(i, x, x_0, noise)` gives the next x."""
    mean, variance = np.array([0.4, -0.2]), np.array([0.3, 0.05])
    for i in range(len(levels.alpha) - 1):
        a, s = levels.alpha[i], levels.sigma[i]
        x_0 = mean + a * variance / (a**2 * variance + s**2) * (x - a * mean)
        x = step(i, x, x_0, noise[i])
    return x


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("option", [jd.Linear, jd.schedules.VE])
def test_dpm_solver_of_order_2_by_its_published_formula(option, eta):
    """Lu et al. 2022b, algorithm 2; with noise, k-diffusion's sample_dpmpp_2m_sde."""
    schedule = option().build()
    sampler = jd.DPMSolver(spacing=jd.spacing.UniformLogSNR(num_steps=8), eta=eta)
    levels = jax.tree.map(np.float64, sampler.grid(schedule))
    lambdas = np.log(levels.alpha[:-1]) - np.log(levels.sigma[:-1])
    x_T, *noise = np.random.default_rng(1).normal(size=(9, 64, 2))
    x_T *= schedule.prior_scale
    before: list[Any] = []

    def step(i, x, x_0, eps):
        a_s, (s, s_s) = levels.alpha[i + 1], levels.sigma[i : i + 2]
        last = s_s == 0
        h = np.inf if last else lambdas[i + 1] - lambdas[i]
        lost = 1 - np.exp(-(1 + eta) * h)
        kept = 0.0 if last else s_s / s * np.exp(-eta * h)
        estimate = x_0
        if before and not last:
            r = (lambdas[i] - lambdas[i - 1]) / h
            estimate = (1 + 1 / (2 * r)) * x_0 - 1 / (2 * r) * before[-1]
        before.append(x_0)
        fresh = 0.0 if last else s_s * np.sqrt(1 - np.exp(-2 * eta * h))
        return kept * x + a_s * lost * estimate + fresh * eps

    expected = by_hand(levels, x_T, noise, step)
    found = chain(
        sampler, schedule, x_T=jnp.float32(x_T), noise=jnp.float32(np.stack(noise))
    )
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_heun_with_churn_by_edms_algorithm_2():
    schedule = jd.schedules.VE().build()
    churn: Any = {"churn": 40, "churn_min": 0.05, "churn_max": 50, "churn_noise": 1.003}
    sampler = jd.Heun(**churn)
    levels = jax.tree.map(np.float64, sampler.grid(schedule))
    x_T, *noise = np.random.default_rng(2).normal(size=(19, 64, 2))
    mean, variance = np.array([0.4, -0.2]), np.array([0.3, 0.05])

    def denoised(x, sigma):
        return mean + variance / (variance + sigma**2) * (x - mean)

    x = 80 * x_T
    for i, (t, t_next) in enumerate(
        zip(levels.sigma[:-1], levels.sigma[1:], strict=True)
    ):
        gamma = min(40 / 18, 2**0.5 - 1) if 0.05 <= t <= 50 else 0.0
        t_hat = t + gamma * t
        x_hat = x + np.sqrt(t_hat**2 - t**2) * 1.003 * noise[i]
        d = (x_hat - denoised(x_hat, t_hat)) / t_hat
        x = x_hat + (t_next - t_hat) * d
        if t_next != 0:
            d_next = (x - denoised(x, t_next)) / t_next
            x = x_hat + (t_next - t_hat) * (d + d_next) / 2
    found = chain(
        sampler, schedule,
        x_T=jnp.float32(80 * x_T), noise=jnp.float32(np.stack(noise)),
    )  # fmt: skip
    np.testing.assert_allclose(found, x, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("cls", long_where(NEWER[1:].__contains__, SAMPLERS))
def test_evaluations_are_counted(cls, short):
    calls = []

    def counted(x_t, level):
        jax.debug.callback(lambda t: calls.append(t), level.t)
        return DATA(x_t, level)

    sampler = cls(spacing=jd.spacing.Trailing(num_steps=5))
    chain(sampler, short, counted).block_until_ready()
    jax.effects_barrier()
    assert len(calls) == sampler.evaluations(5)


@partial(jax.jit, static_argnames=("sampler", "predictions"))
def images_of_each(sampler, schedule, predictions):
    """Returns images [predictions, 3, 2], one entry per prediction of a network."""

    def images(prediction):
        def denoiser(x_t, level):
            output = jnp.tanh(0.3 * prediction.scaled(x_t, level))
            return prediction.estimate(output, x_t, level)

        return jd.sample(jd.clip_x0(denoiser), sampler, schedule, KEY, (3, 2))

    return jnp.stack([images(member()) for member in predictions])


def finite(cls, schedule, predictions):
    """Checks that three steps of a sampler give finite images, for each prediction."""
    sampler = cls(spacing=jd.spacing.Linspace(num_steps=3))
    found = images_of_each(sampler, schedule, predictions)
    assert len(found) == len(predictions)
    assert jnp.isfinite(found).all()
    if cls not in NO_ESTIMATE:
        assert jnp.abs(found).max() <= 1 + 1e-6


def fitting(schedule):
    """Returns the valid predictions: not eps, if the first level has no signal."""
    refused = () if schedule.has_terminal_signal else (jd.predictions.Eps,)
    return tuple(p for p in get_args(Prediction) if p not in refused)


def covering():
    """Returns each sampler with each schedule, both with each valid prediction."""
    fit = {option: fitting(build(option)) for option in SCHEDULES}
    ordered = sorted(SCHEDULES, key=lambda option: -len(fit[option]))
    return [
        (cls, option, fit[option][(i + j) % len(fit[option])])
        for i, cls in enumerate(SAMPLERS)
        for j, option in enumerate(ordered)
    ]


def test_every_pair_of_sampler_schedule_and_prediction_is_covered():
    chosen = covering()
    assert len({(s, h) for s, h, _ in chosen}) == len(SAMPLERS) * len(SCHEDULES)
    assert len({(s, p) for s, _, p in chosen}) == len(SAMPLERS) * 5
    fit = {(h, p) for h in SCHEDULES for p in fitting(build(h))}
    assert {(h, p) for _, h, p in chosen} == fit


@pytest.mark.parametrize(
    ("cls", "option", "prediction"),
    [
        pytest.param(
            *each,
            marks=pytest.mark.long
            if each[1] is jd.schedules.Betas
            or (each[0] in NEWER and each[1] is not jd.schedules.ZeroTerminalSNR)
            else [],
        )
        for each in covering()
    ],
)
def test_every_sampler_goes_with_every_schedule(cls, option, prediction):
    """The schedules include some whose first level has no signal."""
    finite(cls, build(option), (prediction,))


@pytest.mark.long
@pytest.mark.parametrize("cls", SAMPLERS)
def test_every_sampler_goes_with_every_schedule_and_prediction(cls, schedule):
    finite(cls, schedule, fitting(schedule))


# Scheduler test of Hugging Face diffusers: a ramp as the image, and a function as the
# network.
RAMP = (
    (np.arange(768, dtype=np.float32) / 768).reshape(3, 8, 8, 4).transpose(3, 0, 1, 2)
)
LEADING: Any = {"spacing": jd.spacing.Leading(num_steps=10)}
LINSPACE: Any = {"spacing": jd.spacing.Linspace(num_steps=10, to_data=False)}
# If diffusers ends at the first alpha_bar instead of 1, the last step stays there.
NOT_TO_ONE: Any = {
    "spacing": jd.spacing.Times(times=tuple(range(900, -1, -100)), to_data=False)
}


@pytest.mark.parametrize(
    ("sampler", "prediction", "beta_start", "clip", "total", "mean"),
    [
        (jd.DDIM(**LEADING), jd.predictions.Eps(), 1e-4, True, 172.0067, 0.223967),
        (jd.DDIM(**LEADING), jd.predictions.V(), 1e-4, True, 52.5302, 0.0684),
        (jd.DDIM(**LEADING), jd.predictions.Eps(), 0.01, True, 149.8295, 0.1951),
        (jd.DDIM(**NOT_TO_ONE), jd.predictions.Eps(), 0.01, True, 149.0784, 0.1941),
        (
            jd.DPMSolver(**LINSPACE, lower_order_final=False),
            *(jd.predictions.Eps(), 1e-4, False, None, 0.3301),
        ),
        (
            jd.DPMSolver(**LINSPACE, lower_order_final=False),
            *(jd.predictions.V(), 1e-4, False, None, 0.2251),
        ),
        (
            jd.samplers.UniPC(**LINSPACE),
            jd.predictions.Eps(),
            1e-4,
            False,
            None,
            0.2464,
        ),
        (jd.samplers.UniPC(**LINSPACE), jd.predictions.V(), 1e-4, False, None, 0.1014),
    ],
)
def test_published_numbers(sampler, prediction, beta_start, clip, total, mean):
    def denoiser(x_t, level):
        output = x_t * (level.t / (level.t + 1))
        return jd.Estimate(*prediction.denoise(output, x_t, level))

    images = jd.sample(
        jd.clip_x0(denoiser) if clip else denoiser, sampler,
        jd.Linear(beta_start=beta_start).build(), KEY, RAMP.shape,
        x_T=jnp.asarray(RAMP),
    )  # fmt: skip
    if total is not None:
        assert abs(float(jnp.abs(images).sum()) - total) < 1e-2
    assert abs(float(jnp.abs(images).mean()) - mean) < 1e-4
