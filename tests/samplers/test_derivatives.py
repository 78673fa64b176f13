"""Derivatives of the sampling loop: reverse mode, forward mode and differences agree.

Every sampler is compiled once. The levels of all schedules are arguments, and so are
the start, the denoiser's numbers, the sampler's numbers and the scales of the levels.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.typing import Estimate, Level

STEPS, SHAPE, H = 4, (2, 2), 1e-5
KEY = jax.random.key(0)
BASE = jd.Linear(num_steps=20, beta_start=1e-3, beta_end=0.6)
SCHEDULES: tuple[Any, ...] = (
    BASE,
    jd.schedules.ZeroTerminalSNR(base=BASE),
    jd.schedules.VE(sigma_min=0.01, sigma_max=20.0),
    jd.schedules.RectifiedFlow(),
)
NOISY: Any = {"churn": 1.0, "churn_max": 5.0}
"""Churn, but not at the noisiest level, where the schedule cuts it off."""
SAMPLERS: dict[str, Any] = {
    "DDPM": jd.DDPM(variance=jd.samplers.LearnedRange()),
    "DDIM": jd.DDIM(),
    "DDIM-eta": jd.DDIM(eta=0.7),
    "Euler": jd.samplers.Euler(**NOISY),
    "Heun": jd.samplers.Heun(**NOISY),
    "FlowHeun": jd.samplers.FlowHeun(),
    "DPMSolver-1": jd.DPMSolver(order=1, eta=0.7),
    "DPMSolver-2": jd.DPMSolver(),
    "DPMSolver-2-eta": jd.DPMSolver(eta=1.0, variant="heun"),
    "DPMSolver-3": jd.DPMSolver(order=3, lower_order_final=False),
    "UniPC-1": jd.samplers.UniPC(order=1),
    "UniPC-3": jd.samplers.UniPC(order=3, variant="bh1"),
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


def products(of, given, along):
    """Returns of(given), its jvp along a direction, and each part's share by grad."""
    value, change = jax.jvp(of, (given,), (along,))
    shares = jax.tree.map(lambda a, b: (a * b).sum(), jax.grad(of)(given), along)
    return value, change, {key: sum(jax.tree.leaves(shares[key])) for key in shares}


def check(compiled, given, along, what):
    """Checks all derivatives by each part of `given`, along a direction."""
    for part in given:
        only = {
            key: jax.tree.map(lambda a, key=key: a * float(key == part), tree)
            for key, tree in along.items()
        }
        ahead, behind = (
            compiled(jax.tree.map(lambda a, b: a + h * b, given, only), along)[0]
            for h in (H, -H)
        )
        _, forward, reverse = compiled(given, only)
        found = np.array([reverse[part], forward, (ahead - behind) / (2 * H)])
        np.testing.assert_allclose(
            found, found[2], 1e-5, 1e-7, equal_nan=False, err_msg=f"{what}, {part}"
        )


@pytest.mark.parametrize("name", SAMPLERS)
def test_gradients_agree_with_jvp_and_differences(name):
    sampler, chance = SAMPLERS[name], np.random.default_rng(0)
    schedule, tree = BASE.build(), jax.tree.structure(sampler.rule())

    def total(given, levels):
        alpha, sigma = given["scales"] * jnp.stack(levels[1:])
        images = jd.sample(
            denoiser_of(*given["numbers"]),
            jax.tree.unflatten(tree, given["options"]),
            schedule, KEY, SHAPE, x_T=given["x_T"],
            levels=Level(levels.t, alpha, sigma),
        )  # fmt: skip
        return (images * jnp.array([[1.0, 0.3], [-0.5, 0.7]])).sum()

    @jax.jit
    def compiled(given, along, levels):
        return products(lambda given: total(given, levels), given, along)

    given = {
        "x_T": jnp.asarray(chance.normal(size=SHAPE)),
        "numbers": (jnp.asarray(0.9), jnp.asarray(0.2)),
        "options": [jnp.asarray(float(a)) for a in jax.tree.leaves(sampler.rule())],
        "scales": jnp.ones((2, STEPS + 1)),
    }
    along = jax.tree.map(lambda a: jnp.asarray(chance.normal(size=a.shape)), given)
    if name in ("DPMSolver-2", "DPMSolver-3"):
        along["options"] = [jnp.zeros(())]  # the noise grows as the root of eta
    for option in SCHEDULES:
        for to_data in (True, False):
            spacing = jd.spacing.Trailing(num_steps=STEPS, to_data=to_data)
            levels = spacing.levels(option.build())
            levels = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), levels)
            what = f"{type(option).__name__}, to_data={to_data}"
            check(lambda a, b, at=levels: compiled(a, b, at), given, along, what)
