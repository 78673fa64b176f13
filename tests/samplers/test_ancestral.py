"""Reverse steps and sampling loops against independent reference numbers.

The references are from the tests of the DDPM scheduler of Hugging Face diffusers. Those
tests use a pointwise "network" and the noise of PyTorch's CPU generator. `torch_noise`
draws this noise from NumPy's Mersenne Twister.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd

SHAPE = (4, 3, 8, 8)


def torch_noise(seed, num, shape):
    """Returns `num` draws of torch.randn(shape), each a multiple of 16 numbers."""
    size = int(np.prod(shape))
    words = np.random.RandomState(seed)._bit_generator.random_raw(num * size)
    u = (words & 0xFFFFFF).reshape(num, size // 16, 2, 8) / 2.0**24
    radius, angle = np.sqrt(-2 * np.log1p(-u[:, :, 0])), 2 * np.pi * u[:, :, 1]
    noise = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=2)
    return jnp.asarray(noise.reshape(num, *shape), jnp.float32)


def pointwise(x_t, level, prediction=jd.predictions.Eps()):  # noqa: B008
    """Applies the reference network m(x, t) = x t / (t + 1), which predicts eps."""
    t = level.t.astype(jnp.float32)
    return prediction.estimate(x_t * t / (t + 1), x_t, level)


def pointwise_v(x_t, level):
    """Applies the same network, which predicts v."""
    return pointwise(x_t, level, jd.predictions.V())


@pytest.fixture(scope="module")
def start():
    x = (np.arange(768) / 768).reshape(3, 8, 8, 4).transpose(3, 0, 1, 2)
    return jnp.asarray(x, jnp.float32)


@pytest.fixture(scope="module")
def noise():
    """Noise of each step; zero for the last step, which adds none."""
    draws = torch_noise(0, 999, SHAPE)
    return jnp.concatenate([draws, jnp.zeros((1, *SHAPE))])


def test_torch_noise_begins_as_torch_does():
    first = torch_noise(0, 1, (16,))[0, :4]
    np.testing.assert_allclose(first, [-1.1258, -1.1524, -0.2506, -0.4339], atol=1e-4)


@pytest.mark.parametrize(
    ("denoiser", "variance", "clip", "expected"),
    [
        (pointwise, jd.samplers.FixedSmall(), True, 258.9606),
        (pointwise, jd.samplers.FixedSmall(), False, 263.3461),
        (pointwise, jd.samplers.FixedLarge(), True, 261.2064),
        (pointwise_v, jd.samplers.FixedSmall(), True, 202.0296),
    ],
)
def test_reference_chains(start, noise, denoiser, variance, clip, expected):
    denoiser = jd.clip_x0(denoiser) if clip else denoiser
    images = jd.sample(
        denoiser, jd.DDPM(variance=variance), jd.Linear().build(),
        jax.random.key(0), SHAPE, x_T=start, noise=noise,
    )  # fmt: skip
    assert abs(float(jnp.abs(images).sum()) - expected) < 1e-2


@pytest.mark.parametrize(
    "variance", [jd.samplers.FixedSmall(), jd.samplers.FixedLarge()]
)
def test_moments_of_a_step(short, variance):
    """The mean is the posterior's at the estimate; the variance is the named one."""
    x_t = jnp.linspace(-2, 2, 8).reshape(2, 4)
    for t in (1, 10, 19):
        estimate = pointwise(x_t, short.level(t))
        level, after = short.level(t), short.next_level(t)
        mean, var = jd.samplers.p_mean_variance(estimate, x_t, level, after, variance)
        posterior = jd.q_posterior(short, estimate.x_0, x_t, t)
        np.testing.assert_allclose(mean, posterior.mean, rtol=1e-6)
        small = isinstance(variance, jd.samplers.FixedSmall)
        expected = posterior.variance if small else short.betas[t]
        np.testing.assert_allclose(
            var, jnp.full_like(var, expected.squeeze()), rtol=1e-5
        )
        one, zero = jnp.ones_like(x_t), jnp.zeros_like(x_t)
        step = lambda noise, t=t: jd.p_sample_step(  # noqa: E731
            pointwise, short, x_t, t, jax.random.key(0), variance=variance, noise=noise
        )
        np.testing.assert_allclose(step(zero), mean, rtol=1e-5, atol=1e-6)
        spread = (step(one) - step(zero)) ** 2
        np.testing.assert_allclose(
            spread, jnp.full_like(x_t, expected.squeeze()), rtol=1e-3
        )


def test_last_step_adds_no_noise(short):
    x = jnp.ones((2, 3))
    for variance in (jd.samplers.FixedSmall(), jd.samplers.FixedLarge()):
        steps = [
            jd.p_sample_step(
                pointwise, short, x, 0, jax.random.key(0), variance=variance, noise=n
            )
            for n in (0 * x, 5 * x)
        ]
        np.testing.assert_array_equal(steps[0], steps[1])
        np.testing.assert_allclose(
            steps[0], pointwise(x, short.level(0)).x_0, rtol=1e-6
        )


def test_step_under_jit_and_vmap(short):
    x = jax.random.normal(jax.random.key(0), (3, 4))
    key = jax.random.key(1)
    plain = jd.p_sample_step(pointwise, short, x, 7, key)
    jitted = jax.jit(lambda x, t: jd.p_sample_step(pointwise, short, x, t, key))(x, 7)
    np.testing.assert_allclose(plain, jitted, rtol=1e-6)
    # One example by itself, with its index, gets the same noise.
    alone = jd.p_sample_step(pointwise, short, x[2:], 7, key, indices=jnp.array([2]))
    np.testing.assert_allclose(plain[2:], alone, rtol=1e-6)
