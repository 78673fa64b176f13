"""Blends of noises, labels and images, and sampling from a noised image."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd

VP = jd.schedules.VP()
IMAGE = (2, 2, 1)
MEAN = np.array([0.5, -0.3, 0.1, 0.8]).reshape(IMAGE)
ROOT = np.random.default_rng(0).normal(size=(4, 4))
COVARIANCE = ROOT @ ROOT.T / 8 + 0.05 * np.eye(4)


def pair(seed=0, shape=(5, 3, 2)):
    """Returns two batches; both have the same norm in each row."""
    a, b = np.random.default_rng(seed).normal(size=(2, *shape))
    axes = tuple(range(1, len(shape)))
    norms = [np.sqrt((x**2).sum(axis=axes, keepdims=True)) for x in (a, b)]
    return jnp.asarray(a), jnp.asarray(b * norms[0] / norms[1])


def norm(x):
    return np.sqrt((np.asarray(x) ** 2).sum(axis=tuple(range(1, x.ndim))))


def cosine(a, b):
    return np.asarray((a * b).sum(axis=tuple(range(1, a.ndim)))) / norm(a) / norm(b)


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def test_slerp_turns_each_pair_by_its_own_angle(x64):
    a, b = pair()
    angle = np.arccos(cosine(a, b))
    assert np.ptp(angle) > 0.3
    for fraction in (0.0, 0.2, 0.5, 0.9, 1.0):
        between = jd.samplers.slerp(a, b, fraction)
        np.testing.assert_allclose(norm(between), norm(a), rtol=1e-12)
        turned = np.arccos(np.clip(cosine(a, between), -1, 1))
        np.testing.assert_allclose(turned, fraction * angle, atol=1e-7)
        left = np.arccos(np.clip(cosine(between, b), -1, 1))
        np.testing.assert_allclose(left, (1 - fraction) * angle, atol=1e-7)
    middle = jd.samplers.slerp(a, b, 0.5)
    np.testing.assert_allclose(cosine(middle, a + b), np.ones(5), rtol=1e-12)


def test_slerps_ends_are_the_noises():
    a, b = (x.astype(jnp.float32) for x in pair())
    b = 3 * b  # the norms need not be equal
    np.testing.assert_array_equal(jd.samplers.slerp(a, b, 0), a)
    np.testing.assert_array_equal(jd.samplers.slerp(a, b, 1.0), b)
    fractions = np.array([0.0, 0.3, 0.5, 0.8, 1.0])
    got = jd.samplers.slerp(a, b, fractions)
    assert got.dtype == jnp.float32
    for i, fraction in enumerate(fractions):
        alone = jd.samplers.slerp(a[i : i + 1], b[i : i + 1], fraction)[0]
        np.testing.assert_allclose(got[i], alone, rtol=1e-6, atol=1e-7)


def test_slerp_of_parallel_and_opposite_noises():
    a, _ = (x.astype(jnp.float32) for x in pair())
    np.testing.assert_allclose(jd.samplers.slerp(a, a, 0.3), a, rtol=1e-6)
    np.testing.assert_allclose(jd.samplers.slerp(a, 2 * a, 0.5), 1.5 * a, rtol=1e-5)
    assert jnp.isfinite(jd.samplers.slerp(a, -a, 0.5)).all()
    np.testing.assert_array_equal(jd.samplers.slerp(a, -a, 1.0), -a)
    # A parallel pair does not change its neighbours.
    _, b = (x.astype(jnp.float32) for x in pair())
    some = b.at[2].set(a[2])
    others = np.array([0, 1, 3, 4])
    np.testing.assert_array_equal(
        jd.samplers.slerp(a, some, 0.3)[others], jd.samplers.slerp(a, b, 0.3)[others]
    )


def test_noise_between_noises_is_as_likely():
    """A straight line between independent noises would shrink noise by sqrt(1/2)."""
    a, b = jax.random.normal(jax.random.key(0), (2, 1, 100_000))
    for fraction in (0.25, 0.5):
        assert abs(float(jd.samplers.slerp(a, b, fraction).std()) - 1) < 0.01


def test_blend_of_labels():
    a, b = np.array([0, 2, 1]), np.array([3, 2, 0])
    rows = np.eye(4, dtype=np.float32)
    for fraction in (0.0, 0.25, 1.0):
        got = jd.samplers.blend_labels(a, b, fraction, 4)
        expected = (1 - fraction) * rows[a] + fraction * rows[b]
        np.testing.assert_array_equal(got, expected)
        assert got.dtype == jnp.float32
    fractions = np.array([0.0, 0.5, 0.7])
    got = jd.samplers.blend_labels(a, b, fractions, 4)
    wide = fractions[:, None]
    expected = (1 - wide) * rows[a] + wide * rows[b]
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    np.testing.assert_allclose(got.sum(axis=1), np.ones(3), rtol=1e-6)


def test_labels_between_two_classes_are_bound(tiny, short):
    network, params = tiny
    x_t, level = jax.random.normal(jax.random.key(0), (2, 8, 8, 1)), short.level(12)
    a, b = np.array([3, 0]), np.array([5, 9])

    @jax.jit
    def answer(labels: Any):
        return jd.bind(network, params, labels)(x_t, level).eps

    for labels, fraction in ((a, 0.0), (b, 1.0)):
        blended = answer(jd.samplers.blend_labels(a, b, fraction, 10))
        np.testing.assert_allclose(blended, answer(labels), rtol=1e-4, atol=1e-4)
    assert abs(blended - answer(a)).max() > 0.05
    half = answer(jd.samplers.blend_labels(a, b, 0.5, 10))
    assert min(abs(half - answer(labels)).max() for labels in (a, b)) > 0.02


def oracle(dtype):
    return jd.oracles.Gaussian.of(MEAN.astype(dtype), COVARIANCE)


def test_interpolation_from_one_image_to_the_other(x64):
    """The ODE maps images to noise and back; slerp blends the noises."""
    schedule, sampler = (
        VP.build(),
        jd.samplers.FlowHeun(spacing=jd.spacing.Linspace(num_steps=400)),
    )
    denoiser = oracle(np.float64)
    a, b = (denoiser.draw(jax.random.key(seed), 3) for seed in (0, 1))

    def between(fraction):
        return jd.samplers.interpolate(denoiser, sampler, schedule, a, b, fraction)

    np.testing.assert_allclose(between(0.0), a, atol=1e-3)
    np.testing.assert_allclose(between(1.0), b, atol=1e-3)
    each = between(jnp.array([0.0, 1.0, 0.5]))
    assert each.dtype == jnp.float64
    np.testing.assert_allclose(each[0], a[0], atol=1e-3)
    np.testing.assert_allclose(each[1], b[1], atol=1e-3)
    # The exact noise of an image is the whitened image, C_T^1/2 C^-1/2 (x - m). C_T = 1
    # up to the little signal that is left.
    values, vectors = np.linalg.eigh(COVARIANCE)
    white = vectors @ np.diag(values**-0.5) @ vectors.T
    noises = [
        jnp.asarray(((np.asarray(x) - MEAN).reshape(3, 4) @ white)[2:]) for x in (a, b)
    ]
    middle = np.asarray(jd.samplers.slerp(noises[0], noises[1], 0.5))
    expected = middle @ np.linalg.inv(white) + MEAN.reshape(-1)
    np.testing.assert_allclose(each[2].reshape(1, 4), expected, atol=0.03)
    assert abs(each[2] - (a[2] + b[2]) / 2).max() > 0.1


def test_interpolation_needs_a_deterministic_sampler():
    x = jnp.zeros((1, *IMAGE))
    for sampler in (jd.DDPM(), jd.DDIM(eta=1.0)):
        with pytest.raises(jd.InputError, match="Choose a deterministic sampler"):
            jd.samplers.interpolate(oracle(np.float32), sampler, VP.build(), x, x, 0.5)


def test_strength_is_how_far_the_images_are_forgotten():
    schedule, denoiser = VP.build(), oracle(np.float32)
    sampler = jd.DDIM(spacing=jd.spacing.Trailing(num_steps=50), eta=1.0)
    images = denoiser.draw(jax.random.key(0), 512)
    far = []
    for strength in (0.005, 0.2, 0.5, 0.8, 1.0):
        others = jd.samplers.image_to_image(
            denoiser, sampler, schedule, jax.random.key(1), images, strength
        )
        far.append(float(((others - images) ** 2).mean()))
    assert far == sorted(far)
    assert far[0] < 0.01
    # Two independent draws differ by 2 Cov; the last step, onto a mean, takes a little
    # of it.
    independent = 2 * np.trace(COVARIANCE) / 4
    assert 0.9 < far[-1] / independent < 1.1


def test_an_image_depends_on_its_index_alone():
    schedule, denoiser = VP.build(), oracle(np.float32)
    sampler = jd.DDIM(spacing=jd.spacing.Trailing(num_steps=10), eta=1.0)
    images = denoiser.draw(jax.random.key(0), 6)

    def other(rows: Any, seed=1, indices: Any = None):
        return jd.samplers.image_to_image(
            denoiser, sampler, schedule, jax.random.key(seed), images[rows], 0.6,
            indices=indices,
        )  # fmt: skip

    whole, rows = other(np.arange(6)), np.array([4, 1])
    np.testing.assert_array_equal(other(np.arange(6)), whole)
    np.testing.assert_allclose(other(rows, indices=rows), whole[rows], atol=1e-6)
    assert abs(other(rows) - whole[rows]).mean() > 0.05
    assert abs(other(np.arange(6), seed=2) - whole).mean() > 0.05


def test_the_noise_it_begins_with_is_not_that_of_a_step():
    """A zero denoiser shows the noise of the start, and of the first step."""

    def silent(x_t, level):
        return jd.Estimate(x_0=jnp.zeros_like(x_t), eps=jnp.zeros_like(x_t))

    def keep(x_t, level):
        return jd.predictions.X0().estimate(jnp.zeros_like(x_t), x_t, level)

    schedule, images = VP.build(), jnp.zeros((1, 20_000))
    stochastic = jd.DDIM(
        spacing=jd.spacing.Times(times=(1.0, 0.5, 0.0), to_data=False), eta=1.0
    )
    still = jd.DDIM(spacing=stochastic.spacing)
    step, start = (
        jd.samplers.image_to_image(
            denoiser, sampler, schedule, jax.random.key(0), images, s
        )
        for denoiser, sampler, s in ((silent, stochastic, 0.5), (keep, still, 0.5))
    )
    correlation = np.corrcoef(step.ravel(), start.ravel())[0, 1]
    assert abs(correlation) < 4 / 20_000**0.5
    # The start is as noisy as its level.
    ratio = schedule.level(0.0).sigma
    np.testing.assert_allclose(start.std(), ratio, rtol=4 * (0.5 / 20_000) ** 0.5)


@pytest.mark.parametrize(
    "strength", [pytest.param(0.3, marks=pytest.mark.long), 0.7, 1.0]
)
def test_images_of_the_data_become_images_of_the_data(strength):
    """Noise to a level and exact sampling back leave N(m, C) unchanged."""
    schedule, denoiser = VP.build(), oracle(np.float32)
    num = 20_000
    images = denoiser.draw(jax.random.key(0), num)
    sampler = jd.DPMSolver(spacing=jd.spacing.UniformLogSNR(num_steps=100), eta=1.0)
    others = jd.samplers.image_to_image(
        denoiser, sampler, schedule, jax.random.key(1), images, strength
    )
    apart = (np.asarray(others) - MEAN).reshape(num, 4)
    assert abs(apart.mean(axis=0) / (np.diag(COVARIANCE) / num) ** 0.5).max() < 4
    got = apart.T @ apart / num
    # 100 steps alone are off by less than 2 %; the rest is chance.
    scale = np.sqrt(np.outer(np.diag(COVARIANCE), np.diag(COVARIANCE)))
    assert abs((got - COVARIANCE) / scale).max() < 0.02 + 4 * (2 / num) ** 0.5
    assert abs(others - images).mean() > 0.1


@pytest.mark.parametrize("strength", [0.0, -0.5, 1.5, float("nan")])
def test_strength_out_of_range(strength):
    images = jnp.zeros((1, *IMAGE))
    message = f"strength must be above 0 and at most 1, got {strength:g}"
    with pytest.raises(jd.InputError, match=message) as error:
        jd.samplers.image_to_image(
            oracle(np.float32), jd.DDIM(), VP.build(), jax.random.key(0), images,
            strength,
        )  # fmt: skip
    assert "\n" not in str(error.value)
