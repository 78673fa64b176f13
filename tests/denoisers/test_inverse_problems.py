"""Inverse problems against linear algebra: Gaussian data of 4 x 4 pixels, in float64.

The samplers, except `DPS`, are affine in the noise and in the known pixels. Their
derivatives therefore give the exact mean and covariance of the samples.
"""

import functools
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

import jaxdiff as jd
from jaxdiff.samplers import editing
from tests.helpers.compilations import OPTIMISED

SHAPE = (4, 4, 1)
VP, VE = jd.schedules.VP(), jd.schedules.VE()
KEY = jax.random.key(0)
# Nearby pixels are correlated.
PLACES = np.stack(np.divmod(np.arange(16), 4), axis=1)
DISTANCES = ((PLACES[:, None] - PLACES[None]) ** 2).sum(axis=-1)
COVARIANCE = 0.5 * np.exp(-DISTANCES / 4.5) + 0.05 * np.eye(16)
MEAN = np.linspace(-0.5, 0.5, 16)
LEFT: Any = np.zeros(SHAPE, np.float32)
LEFT[:, :2] = 1
KNOWN = LEFT.ravel() == 1
# Mean of the unknown half given the known half: E[b | a] = m_b + GAIN (a - m_a).
PRIOR, SEEN = COVARIANCE[~KNOWN][:, ~KNOWN], COVARIANCE[KNOWN][:, KNOWN]
GAIN = COVARIANCE[~KNOWN][:, KNOWN] @ np.linalg.inv(SEEN)
OPEN = PRIOR - GAIN @ SEEN @ GAIN.T
OPERATORS = {
    "mask": lambda: jd.inverse_problems.masked(LEFT),
    "downsample": lambda: jd.inverse_problems.downsample(2),
    "blur": lambda: jd.inverse_problems.gaussian_blur(0.8, 3),
    "plain": lambda: lambda x: x[:, 1:, ::2] - 2 * x[:, :3, 1::2],
}
every_operator = pytest.mark.parametrize("name", OPERATORS)


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def oracle(dtype: Any = np.float64) -> Any:
    return jd.oracles.Gaussian.of(MEAN.reshape(SHAPE).astype(dtype), COVARIANCE)


def matrix(operator):
    """Returns the operator as a matrix [M, 16]."""
    columns = operator(jnp.eye(16, dtype=jnp.float64).reshape(16, *SHAPE))
    return np.asarray(columns).reshape(16, -1).T


@every_operator
def test_operators_are_linear_and_have_transposes(name, x64):
    operator = OPERATORS[name]()
    x, y = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, *SHAPE)))
    both = 2 * operator(x) - 3 * operator(y)
    np.testing.assert_allclose(operator(2 * x - 3 * y), both, atol=1e-12)
    v = jnp.asarray(np.random.default_rng(1).normal(size=both.shape))
    (back,) = jax.linear_transpose(operator, x)(v)
    np.testing.assert_allclose((back * x).sum(), (v * operator(x)).sum(), rtol=1e-10)


def test_downsample_is_the_mean_of_blocks():
    x = np.random.default_rng(0).normal(size=(2, 6, 9, 2)).astype(np.float32)
    got = jd.inverse_problems.downsample(3)(jnp.asarray(x))
    assert got.shape == (2, 2, 3, 2)
    for i, j in np.ndindex(2, 3):
        block = x[:, 3 * i : 3 * i + 3, 3 * j : 3 * j + 3].mean(axis=(1, 2))
        np.testing.assert_allclose(got[:, i, j], block, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [1, 3, 5])
def test_blur_is_a_convolution(size):
    x, kernel = (
        np.random.default_rng(0).normal(size=s).astype(np.float32)
        for s in ((2, 6, 7, 2), (size, size))
    )
    got = jd.inverse_problems.blur(kernel)(jnp.asarray(x))
    wanted = ndimage.convolve(x, kernel[None, :, :, None], mode="wrap")
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)


def test_gaussian_blur():
    dot = np.zeros((1, 7, 7, 1), np.float32)
    dot[0, 3, 3] = 1
    got = np.asarray(jd.inverse_problems.gaussian_blur(1.3, 5)(jnp.asarray(dot)))[
        0, 1:6, 1:6, 0
    ]
    np.testing.assert_allclose(got.sum(), 1, rtol=1e-6)
    squares = (np.indices((5, 5)) - 2) ** 2
    wanted = np.exp(-squares.sum(axis=0) / (2 * 1.3**2))
    np.testing.assert_allclose(got, wanted / wanted.sum(), rtol=1e-5)


def test_a_mask_may_be_whole_numbers_or_booleans():
    x = jnp.ones((2, *SHAPE))
    for mask in (LEFT.astype(bool), LEFT.astype(int), jnp.asarray(LEFT)[None]):
        np.testing.assert_array_equal(
            jd.inverse_problems.masked(mask)(x), LEFT[None] * np.ones_like(x)
        )


@pytest.mark.parametrize("kind", [jd.samplers.DDIM, jd.samplers.DPMSolver])
def test_a_known_part_keeps_its_noise(kind, x64):
    """A loop that starts in its middle goes along alpha image + sigma noise."""
    sampler = kind(spacing=jd.spacing.UniformLogSNR(num_steps=8))
    images = np.random.default_rng(0).normal(size=(2, *SHAPE))
    known = jd.inverse_problems.with_known_part(oracle(), images, 1 - LEFT)
    x_T, levels = editing.noised(sampler, VP.build(), KEY, jnp.asarray(images), 0.5)
    noise = (x_T - levels.alpha[0] * images) / levels.sigma[0]
    states = jd.sample(
        known, sampler, VP.build(), KEY, images.shape, x_T=x_T, levels=levels, every=1
    )
    scales = [np.asarray(a).reshape(-1, 1, 1, 1, 1) for a in levels[1:]]
    expected = scales[0] * images + scales[1] * np.asarray(noise)
    np.testing.assert_allclose(states[..., :2, :], expected[..., :2, :], atol=1e-12)
    assert np.abs(states - expected)[..., 2:, :].max() > 0.1
    np.testing.assert_allclose(states[-1][..., :2, :], images[..., :2, :], atol=1e-12)


def test_a_known_part_is_a_share_of_the_estimate(x64):
    level, x_t = VP.build().level(jnp.float64(0.4)), jnp.full((1, *SHAPE), 0.3)
    image = LEFT.astype(np.float64)[None]
    free = oracle()(x_t, level)
    for share in (0.0, 0.25, 1.0):
        found = jd.inverse_problems.with_known_part(oracle(), image, np.array(share))(
            x_t, level
        )
        expected = share * free.x_0 + (1 - share) * image
        np.testing.assert_allclose(found.x_0, expected, atol=1e-12)
        whole = level.alpha * found.x_0 + level.sigma * found.eps
        np.testing.assert_allclose(whole, x_t, atol=1e-12)


@jax.jit
def ask(denoiser, x_t, level):
    return denoiser(x_t, level)


def noised(options):
    """Returns six images, their noisy versions and levels, the least noisy first."""
    schedule = options.build()
    level = schedule.level(jnp.linspace(0.0, 1.0, 6, dtype=jnp.float64))
    rng = np.random.default_rng(3)
    x_0 = MEAN + rng.normal(size=(6, 16)) @ np.linalg.cholesky(COVARIANCE).T
    alpha, sigma = level.scales(jnp.zeros((6, *SHAPE)))
    x_t = alpha * x_0.reshape(6, *SHAPE) + sigma * rng.normal(size=(6, *SHAPE))
    return x_0, x_t, level


def posterior(a, y, noise):
    """Returns mean and covariance of N(MEAN, COVARIANCE) given y = a x + noise."""
    gain = COVARIANCE @ a.T @ np.linalg.pinv(
        a @ COVARIANCE @ a.T + noise**2 * np.eye(len(a)), rcond=1e-12
    )  # fmt: skip
    return MEAN + gain @ (y - a @ MEAN), COVARIANCE - gain @ a @ COVARIANCE


@pytest.mark.parametrize("options", [VP, VE], ids=repr)
@pytest.mark.parametrize(
    ("name", "noise"),
    [*((name, 0.1) for name in OPERATORS), ("mask", 0.0), ("downsample", 0.0)],
)
def test_given_measurement_is_the_posteriors_oracle(name, options, noise, x64):
    """The exact posterior is a Gaussian; the estimates match it at six levels."""
    (x_0, x_t, level), operator = noised(options), OPERATORS[name]()
    a = matrix(operator)
    y = operator(jnp.asarray(x_0).reshape(6, *SHAPE))
    y += noise * jnp.asarray(np.random.default_rng(4).normal(size=y.shape))
    denoiser = jd.inverse_problems.given_measurement(
        oracle(), operator, y, noise, iterations=40
    )
    got = ask(denoiser, x_t, level)
    for i in range(6):
        mean, covariance = posterior(a, np.asarray(y[i]).ravel(), noise)
        alpha, sigma = float(level.alpha[i]), float(level.sigma[i])
        r = np.asarray(x_t[i]).ravel() - alpha * mean
        solved = np.linalg.solve(alpha**2 * covariance + sigma**2 * np.eye(16), r)
        x_hat = mean + alpha * covariance @ solved
        np.testing.assert_allclose(got.x_0[i].ravel(), x_hat, rtol=1e-8, atol=1e-8)
        np.testing.assert_allclose(
            got.eps[i].ravel(), sigma * solved, rtol=1e-7, atol=1e-7
        )


def test_iterations_solve_the_measurement(x64):
    """More iterations come nearer; 16, the number of pixels, are enough."""
    (x_0, x_t, level), operator = noised(VP), OPERATORS["blur"]()
    y = operator(jnp.asarray(x_0).reshape(6, *SHAPE))

    def x_hat(iterations):
        denoiser = jd.inverse_problems.given_measurement(
            oracle(), operator, y, 0.1, iterations=iterations
        )
        return ask(denoiser, x_t, level).x_0

    errors = [float(abs(x_hat(n) - x_hat(40)).max()) for n in (1, 6, 16)]
    assert errors[0] > 0.1 > 10 * errors[1]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-6


def test_an_image_does_not_depend_on_its_neighbours(x64):
    (x_0, x_t, level), operator = noised(VE), OPERATORS["blur"]()
    y = operator(jnp.asarray(x_0).reshape(6, *SHAPE))
    y = y.at[0].multiply(1e3).at[1].set(operator(oracle()(x_t, level).x_0)[1])
    denoiser = partial(
        jd.inverse_problems.given_measurement, oracle(), operator, iterations=4
    )
    whole = ask(denoiser(y, 0.1), x_t, level)
    assert jnp.isfinite(whole.x_0).all()
    for i in (1, 2, 5):
        part = jax.tree.map(lambda a, i=i: a[i : i + 1], (y, x_t, level))
        alone = ask(denoiser(part[0], 0.1), *part[1:])
        np.testing.assert_allclose(alone.x_0[0], whole.x_0[i], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_a_level_without_signal_leaves_the_estimate(noise):
    schedule = jd.schedules.RectifiedFlow().build()
    denoiser, x_t = oracle(np.float32), jax.random.normal(KEY, (2, *SHAPE))
    level = schedule.level(1.0)
    assert level.alpha == 0
    given = jd.inverse_problems.given_measurement(
        denoiser, jd.inverse_problems.downsample(2), jnp.ones((2, 2, 2, 1)), noise
    )
    got, plain = ask(given, x_t, level), ask(denoiser, x_t, level)
    np.testing.assert_array_equal(jnp.stack(got[:2]), jnp.stack(plain[:2]))
    images = jd.sample(given, jd.samplers.FlowHeun(), schedule, KEY, (2, *SHAPE))
    np.testing.assert_allclose(
        jd.inverse_problems.downsample(2)(images), 1, atol=0.2 if noise else 1e-3
    )


class Moments(NamedTuple):
    """Moments of a sampler's unknown half b, given the known half a."""

    offset: Any
    """E[b | a = m_a] - m_b."""
    gain: Any
    """d E[b | a] / d a."""
    covariance: Any

    def bias(self):
        """Returns the mean's rms error over the data, in deviations of the prior."""
        error = self.gain - GAIN
        mean = np.diag(error @ SEEN @ error.T) + self.offset**2
        return np.sqrt((mean / np.diag(PRIOR)).mean())

    def spread(self):
        """Returns the covariance's trace and Frobenius error, relative to the exact."""
        off = np.linalg.norm(self.covariance - OPEN) / np.linalg.norm(OPEN)
        return np.trace(self.covariance) / np.trace(OPEN), off


def moments(run, num_steps, prior_scale=1.0):
    """Returns exact moments of `run(x_T, noise, known)`, affine in its arguments."""
    known = jnp.broadcast_to(MEAN.reshape(1, *SHAPE), (16, *SHAPE))
    x_T, noise = jnp.zeros((16, *SHAPE)), jnp.zeros((num_steps, 16, *SHAPE))
    images, pull = jax.vjp(run, x_T, noise, known)
    # Row i of the batch: the derivatives of pixel i of the images.
    by_x_T, by_noise, by_known = (
        np.asarray(d).reshape(-1, 16, 16)
        for d in pull(jnp.eye(16, dtype=images.dtype).reshape(images.shape))
    )
    parts = [*(prior_scale * by_x_T), *by_noise]
    covariance = sum(part[~KNOWN] @ part[~KNOWN].T for part in parts)
    offset = np.asarray(images[0]).ravel()[~KNOWN] - MEAN[~KNOWN]
    return Moments(offset, by_known[0][~KNOWN][:, KNOWN], covariance)


def chain(around, x_T, noise, known):
    """Returns samples; `around` gives sampler and denoiser for the known pixels."""
    sampler, denoiser = around(known)
    args = (denoiser, sampler, VP.build(), KEY, x_T.shape)
    return jd.sample(*args, x_T=x_T, noise=noise)


def test_given_measurement_samples_the_posterior(x64):
    """Mean and covariance are exact, up to the initial noise and the solver's error."""

    def around(known):
        given = jd.inverse_problems.given_measurement(
            oracle(), lambda x: x[:, :, :2], known[:, :, :2]
        )
        return jd.samplers.FlowHeun(spacing=jd.spacing.Linspace(num_steps=100)), given

    got = moments(partial(chain, around), 100)
    trace, off = got.spread()
    # The initial noise has mean 0; the signal at the start is 0.0066 of the data.
    assert got.bias() < 0.0066
    assert abs(trace - 1) < 2e-3
    assert off < 2e-3


def inner(steps=200):
    """Returns the ancestral sampler with `steps` steps."""
    return jd.DDIM(spacing=jd.spacing.Trailing(num_steps=steps), eta=1.0)


@functools.cache
def inpainted(name: str) -> Moments:
    """Returns exact moments of an affine method, with 200 ancestral steps."""

    def around(known):
        if name == "given_measurement":
            y = known[:, :, :2]
            given = jd.inverse_problems.given_measurement(
                oracle(), lambda x: x[:, :, :2], y
            )
            return inner(), given
        kind = jd.samplers.RePaint if name == "Repaint" else jd.samplers.Replacement
        return kind(sampler=inner(), known=known, mask=LEFT), oracle()

    sampler, _ = around(jnp.zeros((1, *SHAPE)))
    steps = len(sampler.grid(VP.build()).alpha) - 1
    return moments(partial(chain, around), steps)


def test_how_far_replacement_and_repaint_are_off(x64):
    """Half of the image is known; the correlation of neighbours is 0.73; 200 steps.

    Column 1 is the rms error of the unknown pixels' mean over the data, in deviations
    of the data. The exact mean moves by 0.64 deviations. Column 2 is the trace of the
    covariance, relative to the exact trace; the trace of the data is 1.70. Column 3 is
    the Frobenius norm of the covariance's error, relative to the exact norm.

        Replacement          0.37    1.21    0.31
        Repaint              0.16    1.03    0.07    jump 10, 10 passes
        given_measurement    0.00    0.95    0.04    error of the ancestral steps
    """
    replacement, repaint, exact = map(
        inpainted, ("Replacement", "Repaint", "given_measurement")
    )
    assert 0.30 < replacement.bias() < 0.45
    assert 1.1 < replacement.spread()[0] < 1.3
    assert replacement.spread()[1] > 0.2
    assert repaint.bias() < replacement.bias() / 2
    assert repaint.spread()[1] < replacement.spread()[1] / 3
    assert abs(repaint.spread()[0] - 1) < 0.06
    assert exact.bias() < 1e-3
    assert abs(exact.spread()[0] - 1) < 0.07
    assert exact.spread()[1] < 0.06
    for one in (replacement, repaint, exact):
        assert abs(one.offset).max() < 1e-3


def test_how_far_dps_is_off():
    """Errors as for Replacement, and the rms misfit of known pixels in deviations.

    Measured with 40,000 images (fewer in the test), 200 steps of the ancestral sampler:

        size 0      0.65    1.64    0.86    1.40    no guidance
        size 0.1    0.20    1.04    0.08    0.07
        size 0.2    0.11    0.88    0.12    0.05
        size 0.3    0.18    0.83    0.19    0.07
        size 1      0.42    0.75    0.28    0.25    the default
    """
    denoiser, num = oracle(np.float32), 2000
    images = denoiser.draw(jax.random.key(1), num)
    a = np.asarray(images).reshape(num, 16)[:, KNOWN] - MEAN[KNOWN]

    schedule = VP.build()

    @partial(jax.jit, compiler_options=OPTIMISED)
    def drawn(sampler):
        return jd.sample(denoiser, sampler, schedule, KEY, images.shape)

    def measured(size):
        sampler = jd.samplers.DPS(
            sampler=inner(),
            operator=jd.inverse_problems.masked(LEFT),
            measurement=LEFT[None] * images,
            size=size,
        )
        got = drawn(sampler)
        apart = np.asarray(got, np.float64).reshape(num, 16) - MEAN
        b = apart[:, ~KNOWN]
        solved = np.linalg.lstsq(np.hstack([a, np.ones((num, 1))]), b)[0]
        left = b - np.hstack([a, np.ones((num, 1))]) @ solved
        found = Moments(solved[-1], solved[:-1].T, left.T @ left / num)
        misfit = ((apart[:, KNOWN] - a) ** 2).mean() / np.diag(SEEN).mean()
        return np.array([found.bias(), *found.spread(), misfit**0.5])

    free, small, large = map(measured, (0.0, 0.1, 1.0))
    np.testing.assert_allclose(free, [0.65, 1.64, 0.86, 1.40], atol=0.1)
    np.testing.assert_allclose(small, [0.20, 1.04, 0.08, 0.07], atol=0.06)
    np.testing.assert_allclose(large, [0.42, 0.75, 0.28, 0.25], atol=0.06)


@pytest.mark.parametrize(
    ("steps", "jump", "passes", "path"),
    [
        (3, 1, 3, [0, 1, 0, 1, 0, 1, 2, 1, 2, 1, 2, 3]),
        (6, 2, 2, [0, 1, 2, 1, 0, 1, 2, 3, 4, 3, 2, 3, 4, 5, 6]),
        (5, 3, 3, [0, 1, 2, 3, 2, 1, 0, 1, 2, 3, 2, 1, 0, 1, 2, 3, 4, 5]),
        (4, 2, 1, [0, 1, 2, 3, 4]),
        (4, 9, 5, [0, 1, 2, 3, 4]),
    ],
)
def test_repaints_path(steps, jump, passes, path):
    schedule = VP.build()
    inside = jd.DDIM(spacing=jd.spacing.Linspace(num_steps=steps, to_data=False))
    sampler = jd.samplers.RePaint(
        sampler=inside, known=jnp.zeros(1), mask=jnp.zeros(1), jump=jump, passes=passes
    )
    grid, plain = sampler.grid(schedule), inside.grid(schedule)
    for got, one in zip(grid, plain, strict=True):
        np.testing.assert_array_equal(got, np.asarray(one)[path])
    # Each point to go back from, except the end, costs 2 jump steps per extra pass.
    back = (steps - 1) // jump * (passes - 1) * 2 * jump
    assert len(path) == steps + 1 + back


@pytest.mark.parametrize("kind", [jd.samplers.Replacement, jd.samplers.RePaint])
@pytest.mark.parametrize("each", [True, False])
def test_known_pixels_are_kept(kind, each):
    schedule = VP.build()
    known = jax.random.normal(jax.random.key(1), (3, *SHAPE) if each else SHAPE)
    options = {"known": known, "mask": LEFT, "sampler": inner(20)}
    sampler = kind(
        **options, **({"jump": 4, "passes": 2} if kind is jd.samplers.RePaint else {})
    )
    grid = sampler.grid(schedule)
    steps = len(grid.alpha) - 1
    noise = jax.random.normal(jax.random.key(2), (steps, 3, *SHAPE))
    args = (oracle(np.float32), sampler, schedule, KEY, (3, *SHAPE))
    states = np.asarray(jd.sample(*args, noise=noise, every=1))
    wanted = np.broadcast_to(known, (3, *SHAPE))
    np.testing.assert_array_equal(states[-1][:, :, :2], wanted[:, :, :2])
    assert abs(states[-1] - wanted)[:, :, 2:].max() > 0.1
    # Before the end, known pixels have the level's noise, drawn in the step.
    for i in range(steps):
        if grid.sigma[i + 1] < grid.sigma[i]:
            noisy = grid.alpha[i + 1] * wanted + grid.sigma[i + 1] * noise[i]
            np.testing.assert_allclose(
                states[i + 1][:, :, :2], noisy[:, :, :2], rtol=1e-5, atol=1e-6
            )


def test_repaint_in_one_pass_is_replacement():
    known = jax.random.normal(jax.random.key(1), SHAPE)
    options: Any = {"known": known, "mask": LEFT, "sampler": inner(20)}
    got, wanted = (
        jd.sample(oracle(np.float32), sampler, VP.build(), KEY, (3, *SHAPE))
        for sampler in (
            jd.samplers.RePaint(**options, passes=1),
            jd.samplers.Replacement(**options),
        )
    )
    np.testing.assert_allclose(got, wanted, atol=1e-5)
    twice = jd.samplers.RePaint(**options, jump=5, passes=4)
    other = jd.sample(oracle(np.float32), twice, VP.build(), KEY, (3, *SHAPE))
    assert abs(other - wanted).max() > 0.02


@pytest.mark.parametrize("options", [VP, VE], ids=repr)
def test_repaint_goes_back_by_the_forward_process(options, x64):
    """A step takes every pixel from one level's marginal to the noisier level's."""
    schedule = options.build()
    low, high = (schedule.level(jnp.float64(u)) for u in (0.3, 0.6))
    sampler = jd.samplers.RePaint(sampler=inner(), known=jnp.ones(SHAPE), mask=LEFT)
    x = jnp.ones((1, *SHAPE))
    memory = sampler.init(x, 10)

    def step(x, noise):
        info = jd.samplers.StepInfo(low, high, noise, jnp.array(0))
        return sampler.denoise_and_step(oracle(), schedule, x, info, memory)[0]

    scale, fresh = step(x, 0 * x), step(0 * x, x)
    np.testing.assert_allclose(scale * low.alpha, high.alpha * x, rtol=1e-10)
    total = (scale * low.sigma) ** 2 + fresh**2
    np.testing.assert_allclose(total, high.sigma**2 * x, rtol=1e-10)


@every_operator
def test_dps_by_hand(name, x64):
    """DDIM's steps, each followed by a step down the gradient of the misfit's norm."""
    operator, schedule = OPERATORS[name](), VP.build()
    a, rng = matrix(operator), np.random.default_rng(5)
    y = jnp.asarray(rng.normal(size=operator(jnp.zeros((3, *SHAPE))).shape))
    x_T = rng.normal(size=(3, 16))
    within = jd.DDIM(spacing=jd.spacing.Trailing(num_steps=8))
    sampler = jd.samplers.DPS(
        sampler=within, operator=operator, measurement=y, size=0.3
    )
    grid = jax.tree.map(np.asarray, within.grid(schedule))
    x, target = x_T, np.asarray(y).reshape(3, -1)
    for i in range(8):
        (alpha, sigma), (alpha_s, sigma_s) = (
            (grid.alpha[j], grid.sigma[j]) for j in (i, i + 1)
        )
        marginal = alpha**2 * COVARIANCE + sigma**2 * np.eye(16)
        gain = alpha * COVARIANCE @ np.linalg.inv(marginal)
        x_hat = MEAN + (x - alpha * MEAN) @ gain.T
        residual = target - x_hat @ a.T
        size = np.linalg.norm(residual, axis=1, keepdims=True)
        downhill = residual @ a @ gain / size
        x = alpha_s * x_hat + sigma_s * (x - alpha * x_hat) / sigma + 0.3 * downhill
    got = jd.sample(
        oracle(), sampler, schedule, KEY, (3, *SHAPE),
        x_T=jnp.asarray(x_T).reshape(3, *SHAPE),
    )  # fmt: skip
    np.testing.assert_allclose(got.reshape(3, 16), x, rtol=1e-6, atol=1e-6)


def test_dps_without_a_misfit_leaves_the_chain():
    sampler = jd.samplers.DPS(
        sampler=inner(20), operator=lambda x: 0 * x, measurement=jnp.zeros((2, *SHAPE))
    )
    got, plain = (
        jd.sample(oracle(np.float32), one, VP.build(), KEY, (2, *SHAPE))
        for one in (sampler, sampler.sampler)
    )
    np.testing.assert_allclose(got, plain, atol=1e-6)


def test_a_sampler_around_a_sampler():
    """The outer sampler has the inner grid, and is random if either draws noise."""
    schedule = VP.build()
    known: Any = {"known": jnp.zeros(SHAPE), "mask": LEFT}
    still, random = (
        jd.Heun(spacing=jd.spacing.Trailing(num_steps=7)),
        jd.Heun(churn=10.0),
    )
    dps = partial(
        jd.samplers.DPS,
        operator=jd.inverse_problems.masked(LEFT),
        measurement=jnp.zeros((1, *SHAPE)),
    )
    for one in (jd.samplers.Replacement(sampler=still, **known), dps(sampler=still)):
        assert len(one.grid(schedule).alpha) == 8
        assert one.evaluations(7) >= still.evaluations(7)
    assert dps(sampler=still).deterministic
    assert not dps(sampler=random).deterministic
    for kind in (jd.samplers.Replacement, jd.samplers.RePaint):
        assert not kind(sampler=still, **known).deterministic
    with pytest.raises(jd.InputError, match="Choose a deterministic sampler"):
        jd.samplers.encode(
            oracle(np.float32),
            jd.samplers.Replacement(sampler=still, **known),
            schedule,
            jnp.zeros((1, *SHAPE)),
        )


def repaint(**options):
    return jd.samplers.RePaint(
        sampler=inner(), known=jnp.zeros(1), mask=jnp.zeros(1), **options
    )


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (lambda: jd.inverse_problems.downsample(0), "factor must be at least 1, got 0"),
        (
            lambda: jd.inverse_problems.downsample(3)(jnp.ones((1, *SHAPE))),
            "factor must divide the image's 4 x 4 pixels, got 3",
        ),
        (
            lambda: jd.inverse_problems.blur(np.ones((2, 2))),
            r"k odd, got shape \(2, 2\)",
        ),
        (
            lambda: jd.inverse_problems.blur(np.ones((3, 1))),
            r"k odd, got shape \(3, 1\)",
        ),
        (lambda: jd.inverse_problems.blur(np.ones(3)), r"k odd, got shape \(3,\)"),
        (
            lambda: jd.inverse_problems.gaussian_blur(0.0, 3),
            "width must be above 0, got 0",
        ),
        (
            lambda: jd.inverse_problems.gaussian_blur(1.0, 4),
            r"k odd, got shape \(4, 4\)",
        ),
        (
            lambda: jd.inverse_problems.given_measurement(
                oracle(np.float32),
                jd.inverse_problems.downsample(2),
                jnp.ones(1),
                iterations=0,
            ),
            "iterations must be at least 1, got 0",
        ),
        (lambda: repaint(jump=0), "jump must be at least 1, got 0"),
        (lambda: repaint(passes=0), "passes must be at least 1, got 0"),
    ],
)
def test_mistakes(mistake, message):
    with pytest.raises(jd.InputError, match=message) as error:
        mistake()
    assert "\n" not in str(error.value)
