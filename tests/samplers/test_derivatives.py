"""Derivatives of the sampling loop: reverse mode, forward mode and differences agree.

Every sampler is compiled once. The levels of all schedules are arguments, and so are
the start, the denoiser's numbers with the guidance weight, the sampler's numbers, the
scales of the levels, and the betas of a schedule.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.typing import Estimate, Level
from tests.helpers.long_parameters import long_where

STEPS, SHAPE, H = 4, (2, 2), 1e-5
KEY = jax.random.key(0)
WEIGHTS = np.array([[1.0, 0.3], [-0.5, 0.7]])
BASE = jd.Linear(num_steps=20, beta_start=1e-3, beta_end=0.6)
SCHEDULES: tuple[Any, ...] = (
    BASE,
    jd.schedules.ZeroTerminalSNR(base=BASE),
    jd.schedules.VE(sigma_min=0.01, sigma_max=20.0),
    jd.schedules.RectifiedFlow(),
)
SAMPLERS: dict[str, Any] = {
    "DDPM": jd.DDPM(variance=jd.samplers.LearnedRange()),
    "DDIM": jd.DDIM(eta=0.7),
    "Euler": jd.samplers.Euler(churn=1.0, churn_max=5.0),  # as for Heun
    "EulerAncestral": jd.samplers.EulerAncestral(eta=0.7),
    "Heun": jd.samplers.Heun(churn=1.0, churn_max=5.0),  # not at the noisiest level
    "FlowEuler": jd.samplers.FlowEuler(),
    "FlowHeun": jd.samplers.FlowHeun(),
    "DPMSolver-1": jd.DPMSolver(order=1, eta=0.7),
    "DPMSolver-2": jd.DPMSolver(),
    "DPMSolver-3": jd.DPMSolver(order=3, eta=0.7, lower_order_final=False),
    "UniPC-1": jd.samplers.UniPC(order=1),
    "UniPC-3": jd.samplers.UniPC(order=3, variant="bh1"),
    "PNDM": jd.samplers.PNDM(),
    "PNDM-v": jd.samplers.PNDM(quantity="v", start="runge-kutta"),
    "LMS": jd.samplers.LMS(),
    "DEIS-3": jd.samplers.DEIS(order=3),
    "DPM2": jd.samplers.DPM2(eta=0.7),
    "DPMSolver2S": jd.samplers.DPMSolver2S(eta=0.7, noise_scale=1.1),
    "DPMSolverSDE": jd.samplers.DPMSolverSDE(eta=0.7),
    "LCM": jd.samplers.LCM(time_scale=0.1),
}


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def denoiser_of(gain, shift):
    """Returns a smooth denoiser with numbers to differentiate by."""

    def denoiser(x_t, level):
        total = level.alpha**2 + level.sigma**2
        x_0 = gain * jnp.tanh(level.alpha / total * x_t) + shift
        eps = (x_t - level.alpha * x_0) / level.sigma
        return Estimate(x_0, eps, jnp.tanh(x_t) / 2 + 0.5)

    return denoiser


def guided(gain, shift, weight):
    """Returns a denoiser that is guided by a weaker one."""
    weak = denoiser_of(0.5, 0.0)
    return jd.guidance.autoguidance(denoiser_of(gain, shift), weak, weight)


def schedule_of(betas):
    """Returns the schedule of traced betas."""
    alphas_bar = jnp.cumprod(1 - betas)
    return jd.Schedule(
        betas, 1 - betas, alphas_bar, alphas_bar**0.5, (1 - alphas_bar) ** 0.5
    )


def scales_of(schedule):
    """Returns alpha and sigma at the times of a grid, [2, N + 1]."""
    times = jd.spacing.Trailing(num_steps=STEPS).levels(BASE.build()).t
    return jnp.stack(schedule.level(times)[1:])


def grids():
    """Returns the levels of all schedules, to the data and not, [8, N + 1] each."""
    spacings = [
        jd.spacing.Trailing(num_steps=STEPS, to_data=to) for to in (True, False)
    ]
    found = [s.levels(option.build()) for option in SCHEDULES for s in spacings]
    return jax.tree.map(lambda *a: jnp.stack([jnp.float64(x) for x in a]), *found)


def derivatives(of, given, along):
    """Returns the derivatives along directions [K], by three methods, [K, 3]."""
    gradient = jax.grad(of)(given)

    def by_direction(along):
        def shifted(h):
            start = jax.tree.map(lambda a, b: a + h * b, given, along)
            return jax.jvp(of, (start,), (along,))

        values, slopes = jax.lax.map(shifted, jnp.array([-H, 0.0, H]))
        shares = jax.tree.map(lambda a, b: (a * b).sum(), gradient, along)
        reverse = sum(jax.tree.leaves(shares))
        return jnp.stack([reverse, slopes[1], (values[2] - values[0]) / (2 * H)])

    return jax.lax.map(by_direction, along)


FIRST_ORDER = ("DDIM", "FlowEuler", "DPMSolver-1", "UniPC-1")
"""Samplers whose step is that of `Euler`."""
NEWER = (
    "PNDM", "PNDM-v", "LMS", "DEIS-3", "DPM2", "DPMSolver2S", "DPMSolverSDE", "LCM"
)  # fmt: skip
LONG = (*FIRST_ORDER, *NEWER, "DPMSolver-2", "EulerAncestral", "FlowHeun")


@pytest.mark.parametrize("name", long_where(LONG.__contains__, SAMPLERS))
def test_gradients_agree_with_jvp_and_differences(name):
    sampler, chance = SAMPLERS[name], np.random.default_rng(0)
    tree = jax.tree.structure(sampler.rule())

    def total(given, levels):
        schedule = schedule_of(given["betas"])
        scales = given["scales"] * scales_of(schedule) / usual  # 1, with derivatives
        alpha, sigma = scales * jnp.stack(levels[1:])
        images = jd.sample(
            guided(*given["numbers"]),
            jax.tree.unflatten(tree, given["options"]),
            schedule, KEY, SHAPE, x_T=given["x_T"],
            levels=Level(levels.t, alpha, sigma),
        )  # fmt: skip
        return (images * WEIGHTS).sum()

    given = {
        "x_T": chance.normal(size=SHAPE),
        "numbers": (np.float64(0.9), np.float64(0.2), np.float64(1.5)),
        "options": [np.float64(a) for a in jax.tree.leaves(sampler.rule())],
        "scales": np.ones((2, STEPS + 1)),
        "betas": np.asarray(BASE.build().betas, np.float64),
    }
    usual = scales_of(schedule_of(given["betas"]))
    along = jax.tree.map(lambda a: chance.normal(size=a.shape), given)
    along["betas"] *= given["betas"]
    if name == "DPMSolver-2":
        # The noise grows as the root of eta, and its factor counts only with eta.
        along["options"] = [np.float64(0) for _ in along["options"]]

    def only(part):
        return {
            key: jax.tree.map(lambda a, key=key: a * float(key == part), tree)
            for key, tree in along.items()
        }

    directions = jax.tree.map(lambda *a: np.stack(a), *map(only, given))
    compiled = jax.jit(
        lambda given, directions, levels: jax.lax.map(
            lambda at: derivatives(partial(total, levels=at), given, directions), levels
        )
    )
    found = np.asarray(compiled(given, directions, grids()))
    np.testing.assert_allclose(found, found[..., 2:] * np.ones(3), 1e-5, 1e-7)
    assert np.isfinite(found).all()
