"""Stochastic samplers on Gaussian data have the moments of a linear recursion.

The exact denoiser of Gaussian data is affine in x_t. Each sampler's step is therefore
affine in x, in the x_0 it remembers and in the noise. Mean and covariance follow a
recursion. This recursion is computed twice: from the papers' formulas, and from the
sampler's own step. The samples of a sampling loop are compared with the recursion.
"""

import dataclasses
import itertools
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.typing import AnySchedule

# Basis of a step's linear forms: 1, x, the x_0 of the two steps before, two noises.
ONE, X, OLD, OLDER, NOISE, MORE_NOISE = np.eye(6)
MEAN, VARIANCE = 0.4, 0.25
NUM, ROW = 200_000, 1000
SCHEDULES: dict[str, AnySchedule] = {
    "variance-preserving": jd.schedules.VP().build(),
    "variance-exploding": jd.schedules.VE().build(),
    "straight": jd.schedules.RectifiedFlow().build(),
    "discrete": jd.Linear().build(),
}
CHURN: dict[str, Any] = {
    "churn": 6.0,
    "churn_min": 0.05,
    "churn_max": 50.0,
    "churn_noise": 1.01,
}
# Many points need optimisation, which the suite otherwise turns off.
OPTIONS = {"xla_backend_optimization_level": 2}


class Chain:
    """Levels of a grid in float64, and the estimates of N(mean, variance) data."""

    def __init__(self, schedule, levels, mean=MEAN, variance=VARIANCE):
        self.alpha, self.sigma = (np.asarray(a, np.float64) for a in levels[1:])
        self.num_steps = len(self.alpha) - 1
        self.mean, self.variance = mean, variance
        noisiest = schedule.level(schedule.times[-1])
        with np.errstate(divide="ignore"):
            self.most = np.float64(noisiest.sigma) / np.float64(noisiest.alpha)

    @property
    def ratio(self):
        return self.sigma / self.alpha

    def marginal(self, i):
        """Returns mean and variance of x at level i, if all steps are exact."""
        a, s = self.alpha[i], self.sigma[i]
        return a * self.mean, a**2 * self.variance + s**2

    def x_0(self, x, alpha, sigma):
        """Returns E[x_0 | x_t] as a linear form, for x as a linear form."""
        k = alpha * self.variance / (alpha**2 * self.variance + sigma**2)
        return self.mean * ONE + k * (x - alpha * self.mean * ONE)

    def recursion(self, step, mean, variance):
        """Returns the moments after all steps; `step` maps a step number to x', x_0."""
        m, cov = np.array([mean, 0.0, 0.0]), np.diag([variance, 0.0, 0.0])
        for i in range(self.num_steps):
            rows = np.stack([*step(self, i), OLD])
            matrix, noise = rows[:, 1:4], rows[:, 4:]
            m = matrix @ m + rows[:, 0]
            cov = matrix @ cov @ matrix.T + noise @ noise.T
        return m[0], cov[0, 0]


def ddpm(chain, i, large=False):
    """Takes DDPM's step: Ho et al. 2020, equations 6 and 7.

    The step is between any two levels, as in Kingma et al. 2021.
    """
    (a, a_s), (s, s_s) = chain.alpha[i : i + 2], chain.sigma[i : i + 2]
    x_0 = chain.x_0(X, a, s)
    beta = s**2 - (a / a_s * s_s) ** 2
    mean = (a / a_s * s_s**2 * X + a_s * beta * x_0) / s**2
    variance = beta if large else beta * s_s**2 / s**2
    return mean + (s_s > 0) * np.sqrt(variance) * NOISE, x_0


def ddim(chain, i, eta):
    """Takes DDIM's step: Song et al. 2021, equations 12 and 16."""
    (a, a_s), (s, s_s) = chain.alpha[i : i + 2], chain.sigma[i : i + 2]
    x_0 = chain.x_0(X, a, s)
    fresh = eta * s_s / s * np.sqrt(s**2 - (a / a_s * s_s) ** 2)
    eps = (X - a * x_0) / s
    return a_s * x_0 + np.sqrt(s_s**2 - fresh**2) * eps + fresh * NOISE, x_0


def ancestral(s, to, eta):
    """Returns sigma_down and sigma_up of Crowson's get_ancestral_step."""
    up = min(to, eta * np.sqrt(to**2 * (s**2 - to**2) / s**2))
    return np.sqrt(to**2 - up**2), up


def k_ancestral(chain, i, eta):
    """Takes the step of Crowson's sample_euler_ancestral, in y = x / alpha."""
    s, to = chain.ratio[i : i + 2]
    y, x_0 = X / chain.alpha[i], chain.x_0(X, chain.alpha[i], chain.sigma[i])
    down, up = ancestral(s, to, eta)
    y = y + (y - x_0) / s * (down - s) + up * NOISE
    return chain.alpha[i + 1] * y, x_0


def dpm2(chain, i, eta, noise_scale=1.0):
    """Takes the step of Crowson's sample_dpm_2_ancestral, in y."""
    s, to = chain.ratio[i : i + 2]
    y, x_0 = X / chain.alpha[i], chain.x_0(X, chain.alpha[i], chain.sigma[i])
    down, up = ancestral(s, to, eta)
    slope = (y - x_0) / s
    if down > 0:
        half = np.exp((np.log(s) + np.log(down)) / 2)
        y_half = y + (half - s) * slope
        slope = (y_half - chain.x_0(y_half, 1.0, half)) / half
    return chain.alpha[i + 1] * (y + (down - s) * slope + noise_scale * up * NOISE), x_0


def dpm_2s(chain, i, eta):
    """Takes the step of Crowson's sample_dpmpp_2s_ancestral, in y."""
    s, to = chain.ratio[i : i + 2]
    y, x_0 = X / chain.alpha[i], chain.x_0(X, chain.alpha[i], chain.sigma[i])
    down, up = ancestral(s, to, eta)
    if down == 0:
        return chain.alpha[i + 1] * x_0, x_0
    h = np.log(s) - np.log(down)
    half = np.exp(np.log(s) - h / 2)
    y_half = half / s * y - np.expm1(-h / 2) * x_0
    y = down / s * y - np.expm1(-h) * chain.x_0(y_half, 1.0, half) + up * NOISE
    return chain.alpha[i + 1] * y, x_0


def dpm_sde_2(chain, i, eta):
    """Takes the step of Crowson's sample_dpmpp_sde, in y.

    The noises over [s, half] and [s, to] are increments of one Brownian motion.
    """
    s, to = chain.ratio[i : i + 2]
    y, x_0 = X / chain.alpha[i], chain.x_0(X, chain.alpha[i], chain.sigma[i])
    if to == 0:
        return chain.alpha[i + 1] * x_0, x_0
    half = np.sqrt(s * to)
    down, up = ancestral(s, half, eta)
    y_half = down / s * y - np.expm1(np.log(down / s)) * x_0 + up * NOISE
    later = chain.x_0(y_half, 1.0, half)
    whole = np.sqrt(s - half) * NOISE + np.sqrt(half - to) * MORE_NOISE
    down, up = ancestral(s, to, eta)
    y = down / s * y - np.expm1(np.log(down / s)) * later
    return chain.alpha[i + 1] * (y + up * whole / np.sqrt(s - to)), x_0


def dpm_sde(chain, i, order, variant="midpoint", share=1.0):
    """Takes the step of SDE-DPM-Solver++ (Lu et al. 2022b, appendix B).

    Order 3 uses its exact polynomial, or a share of the curvature.
    """
    with np.errstate(divide="ignore"):
        now = -np.log(chain.ratio)
    (a, a_s), (s, s_s) = chain.alpha[i : i + 2], chain.sigma[i : i + 2]
    x_0, h = chain.x_0(X, a, s), now[i + 1] - now[i]
    lost = 1 - np.exp(-2 * h)
    x = s_s / s * np.exp(-h) * X + a_s * lost * x_0 + s_s * np.sqrt(lost) * NOISE
    count = min(order, i + 1, chain.num_steps - i) if s_s else 1
    if count == 1:
        return x, x_0
    r_0 = (now[i] - now[i - 1]) / h
    first = (x_0 - OLD) / r_0
    phi_2 = 1 - lost / (2 * h)
    if count == 2:
        weight = lost / 2 if variant == "midpoint" else phi_2
        return x + a_s * weight * first, x_0
    r_1 = (now[i - 1] - now[i - 2]) / h
    second = (first - (OLD - OLDER) / r_1) / (r_0 + r_1)
    phi_3 = phi_2 / (2 * h) - 0.5
    curved = phi_2 * (first + r_0 * second) - 2 * share * phi_3 * second
    return x + a_s * curved, x_0


def edm(chain, i, heun=True, churn=0.0, churn_min=0.0, churn_max=np.inf, churn_noise=1):
    """Takes the step of Karras et al. 2022, algorithm 2, in y = x / alpha.

    Euler's step is the same without line 7.
    """
    s, to = chain.ratio[i : i + 2]
    y = X / chain.alpha[i]
    gamma = min(churn / chain.num_steps, np.sqrt(2) - 1)
    gamma = gamma if churn_min <= s <= churn_max else 0.0
    raised = max(s, min(s * (1 + gamma), chain.most))
    y = y + np.sqrt(raised**2 - s**2) * churn_noise * NOISE
    x_0 = chain.x_0(y, 1.0, raised)
    slope = (y - x_0) / raised
    y_next = y + (to - raised) * slope
    if heun and to > 0:
        y_next = y + (to - raised) / 2 * (
            slope + (y_next - chain.x_0(y_next, 1.0, to)) / to
        )
    return chain.alpha[i + 1] * y_next, x_0


RULES = {
    "ancestral": (jd.DDPM(), ddpm),
    "ancestral-large": (
        jd.DDPM(variance=jd.samplers.FixedLarge()),
        partial(ddpm, large=True),
    ),
    "ddim-half": (jd.DDIM(eta=0.5), partial(ddim, eta=0.5)),
    "ddim": (jd.DDIM(eta=1.0), partial(ddim, eta=1.0)),
    "euler-ancestral-half": (
        jd.samplers.EulerAncestral(eta=0.5),
        partial(k_ancestral, eta=0.5),
    ),
    "euler-ancestral": (jd.samplers.EulerAncestral(), partial(k_ancestral, eta=1.0)),
    "dpm-1": (jd.DPMSolver(order=1, eta=1.0), partial(dpm_sde, order=1)),
    "dpm-2": (jd.DPMSolver(order=2, eta=1.0), partial(dpm_sde, order=2)),
    "dpm-2-heun": (
        jd.DPMSolver(eta=1.0, variant="heun"),
        partial(dpm_sde, order=2, variant="heun"),
    ),
    "dpm-3": (jd.DPMSolver(order=3, eta=1.0), partial(dpm_sde, order=3)),
    "dpm-3-published": (  # sample_dpmpp_3m_sde
        jd.DPMSolver(order=3, eta=1.0, third_order="published"),
        partial(dpm_sde, order=3, share=0.5),
    ),
    "euler-churn": (jd.samplers.Euler(churn=6.0), partial(edm, heun=False, churn=6.0)),
    "heun-churn": (jd.Heun(**CHURN), partial(edm, **CHURN)),
    "dpm2-ancestral": (
        jd.samplers.DPM2Ancestral(noise_scale=1.003),
        partial(dpm2, eta=1.0, noise_scale=1.003),
    ),
    "dpm-2s": (jd.samplers.DPMSolver2S(eta=0.8), partial(dpm_2s, eta=0.8)),
    "dpm-sde": (jd.samplers.DPMSolverSDE(), partial(dpm_sde_2, eta=1.0)),
}
SECOND = (
    "dpm-2", "dpm-2-heun", "dpm-3", "heun-churn",
    "dpm-3-published", "dpm2-ancestral", "dpm-2s", "dpm-sde",
)  # fmt: skip
NEWER = ("dpm-3-published", "dpm2-ancestral", "dpm-2s", "dpm-sde")
CHAINS: list[Any] = [
    pytest.param(
        name, kind,
        marks=[pytest.mark.long] if name in NEWER and kind != "discrete" else [],
    )
    for name in RULES
    for kind in SCHEDULES
]  # fmt: skip


@partial(jax.jit, static_argnums=(0, 1, 2))
def recursion_of_the_step(sampler, kind, num_steps, levels, oracle, mean, variance):
    """Returns the moments after all steps, by the derivatives of the sampler's step.

    The third result is the largest difference of the derivatives between two points: 0
    for an affine step.
    """
    blank, tree = jax.tree.flatten(sampler.init(mean[None], num_steps))
    like_x = [leaf.shape == (1,) for leaf in blank]  # the rest depends on the levels
    size = 1 + sum(like_x)

    def step(carry, now):
        m, cov, memory = carry

        def next_state(state, noise):
            values = iter(state[1:, None])
            given = [
                next(values) if like else old
                for like, old in zip(like_x, memory, strict=True)
            ]
            level, next_level = now
            info = jd.samplers.StepInfo(
                level, next_level, noise[:1], jnp.array(0), noise[1:]
            )
            own = jax.tree.unflatten(tree, given)
            x, new = sampler.denoise_and_step(
                oracle, SCHEDULES[kind], state[:1], info, own
            )
            new = jax.tree.leaves(new)
            return jnp.concatenate([x, *itertools.compress(new, like_x)]), new

        slopes = jax.jacfwd(lambda *point: next_state(*point)[0], argnums=(0, 1))
        none = jnp.zeros(2)
        matrix, noise = slopes(m, none)
        there = slopes(m + 1, none + 1)
        bend = jnp.abs(matrix - there[0]).max() + jnp.abs(noise - there[1]).max()
        cov = matrix @ cov @ matrix.T + noise @ noise.T
        return (next_state(m, none)[0], cov, next_state(m, none)[1]), bend

    m, cov = jnp.zeros(size).at[0].set(mean), jnp.zeros((size, size))
    steps = [jax.tree.map(lambda a, i=i: a[i:][:num_steps], levels) for i in (0, 1)]
    carry = (m, cov.at[0, 0].set(variance), blank)
    (m, cov, _), bend = jax.lax.scan(step, carry, steps)
    return m[0], cov[0, 0], bend.max()


@pytest.mark.parametrize(("name", "kind"), CHAINS)
def test_every_step_is_the_papers(name, kind):
    """The two recursions agree, with and without the last step onto the data."""
    sampler, rule = RULES[name]
    schedule = SCHEDULES[kind]
    with jax.enable_x64(True):
        oracle = jd.oracles.Gaussian.of(np.array(MEAN), VARIANCE)
        # Only churn uses the schedule: the step of the others compiles once.
        asked = kind if "churn" in name else "discrete"
        for whole in (True, False):
            spacing = jd.spacing.Karras(num_steps=10 - whole, sigma_min=0.03)
            levels = jax.tree.map(lambda a: a.astype(float), spacing.levels(schedule))
            grid = levels if whole else jax.tree.map(lambda a: a[:-1], levels)
            chain = Chain(schedule, grid)
            assert chain.num_steps == 9
            start = chain.marginal(0)
            *got, bend = recursion_of_the_step(
                sampler, asked, 9, grid, oracle, *map(jnp.asarray, start)
            )
            expected = chain.recursion(rule, *start)
            np.testing.assert_allclose(got, expected, rtol=1e-9)
            assert bend < 1e-9
            # A start with the exact mean leads to the exact mean.
            assert abs(got[0] - chain.marginal(-1)[0]) < 1e-9


@pytest.mark.parametrize(("name", "kind"), CHAINS)
def test_weak_order(name, kind):
    """The error of the variance falls as 1 / N or as 1 / N^2.

    The order is 1 for the ancestral steps, DDIM, Euler, also with churn, and
    SDE-DPM-Solver++ of order 1. The order is 2 for Heun with churn, SDE-DPM-Solver++ of
    orders 2 and 3, and the methods with a second evaluation inside the step.
    """
    schedule, errors = SCHEDULES[kind], []
    with jax.enable_x64(True):
        for num_steps in (128, 256, 512):
            spacing = jd.spacing.UniformLogSNR(num_steps=num_steps, to_data=False)
            chain = Chain(schedule, spacing.levels(schedule))
            rule = RULES[name][1]
            if name == "heun-churn":  # at every level: a range would be a jump
                rule = partial(edm, churn=6.0)
            if name == "dpm2-ancestral":  # another factor of the noise is a bias
                rule = partial(dpm2, eta=1.0)
            _, variance = chain.recursion(rule, *chain.marginal(0))
            errors.append(variance / chain.marginal(-1)[1] - 1)
    order = -np.polyfit([7, 8, 9], np.log2(np.abs(errors)), 1)[0]
    assert abs(order - (2 if name in SECOND else 1)) < 0.25


PAIRS: list[Any] = [
    pytest.param(*pair, marks=[pytest.mark.long] if pair[0] in NEWER else [])
    for pair in zip(RULES, 4 * list(SCHEDULES), strict=False)
]


@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_samples_follow_the_recursion(name, kind):
    """Mean and covariance of points in the plane agree, to 4 standard errors.

    The standard errors are a Gaussian's. The sampling loop ends at sigma / alpha = 0.3,
    so the noise of the last step counts, too.
    """
    sampler, rule = RULES[name]
    schedule = SCHEDULES[kind]
    spacing = jd.spacing.Karras(num_steps=8, sigma_min=0.3, to_data=False)
    sampler = dataclasses.replace(sampler, spacing=spacing)
    mean, covariance = np.array([0.3, -0.5]), np.array([[0.3, 0.15], [0.15, 0.2]])
    oracle = jd.oracles.Gaussian.of(jnp.float32(mean), jnp.float32(covariance))

    def denoiser(x_t, level):
        estimate = oracle(x_t.reshape(-1, 2), level)
        return jd.Estimate(*(a.reshape(x_t.shape) for a in estimate[:2]))

    def run(key):  # a row of points is an image
        return jd.sample(denoiser, sampler, schedule, key, (NUM // ROW, ROW, 2))

    x = jax.jit(run, compiler_options=OPTIONS)(jax.random.key(7))
    x = np.asarray(x, np.float64).reshape(-1, 2)
    # Each eigenvector has a recursion of its own, which starts from noise alone.
    values, basis = np.linalg.eigh(covariance)
    levels = sampler.grid(schedule)
    scale = 80.0 if kind == "variance-exploding" else 1.0
    m, v = np.transpose([
        Chain(schedule, levels, *data).recursion(rule, 0.0, scale**2)
        for data in zip(basis.T @ mean, values, strict=True)
    ])  # fmt: skip
    covariance = (basis * v) @ basis.T
    variances = np.diag(covariance)
    assert (abs(x.mean(axis=0) - basis @ m) < 4 * np.sqrt(variances / NUM)).all()
    error = np.sqrt((np.outer(variances, variances) + covariance**2) / NUM)
    assert (abs(np.cov(x.T) - covariance) < 4 * error).all()
    # No two points share noise: neither neighbours, nor one place in two images.
    for apart in (1, ROW):
        shared = np.corrcoef(x[:-apart, 0], x[apart:, 0])[0, 1]
        assert abs(shared) < 4 / np.sqrt(NUM)
