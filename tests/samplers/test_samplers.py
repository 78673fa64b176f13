"""Sampling loop: scan equals a loop, one key per example, constant memory."""

from dataclasses import dataclass
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff import rng
from jaxdiff.samplers.base import _chain as chain
from jaxdiff.samplers.ddim import ddim_step

CHAIN: Any = chain
SHAPE = (5, 4, 4, 1)


def shrink(x_t, level):
    """Returns the exact estimate for N(0, 1) data on a variance-preserving schedule."""
    return jd.predictions.Eps().estimate(level.scales(x_t)[1] * x_t, x_t, level)


def test_scan_equals_a_loop_of_steps(short):
    key = jax.random.key(3)
    x = rng.step_noise(key, jnp.arange(5), short.num_steps, SHAPE[1:])
    for t in reversed(range(short.num_steps)):
        x = jd.p_sample_step(shrink, short, x, t, key)
    images = jd.sample(shrink, jd.DDPM(), short, key, SHAPE)
    np.testing.assert_allclose(images, x, rtol=1e-5, atol=1e-6)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Recorder(jd.samplers.Sampler):
    """Sampler whose states are (index, t, next t, a number of the noise)."""

    def step(self, estimate, x_t, info, memory):
        numbers = (info.index, info.level.t, info.next_level.t)
        place = jnp.stack([number.astype(x_t.dtype) for number in numbers])
        return info.noise.at[:, :3].set(place), memory


def test_a_samplers_step_is_given_its_levels_noise_and_index(short):
    """The noise depends on the key of the image and the number of remaining steps."""
    key, indices = jax.random.key(3), jnp.array([7, 2])
    sampler = Recorder(spacing=jd.spacing.Times(times=(15, 9, 4)))
    states = jd.sample(shrink, sampler, short, key, (2, 4), indices=indices, every=1)
    times = sampler.grid(short).t.astype(jnp.float32)
    for n, state in enumerate(states[1:]):
        for i, x in zip((7, 2), state, strict=True):
            one = jax.random.fold_in(jax.random.fold_in(key, i), 2 - n)
            np.testing.assert_array_equal(x[:3], [2 - n, times[n], times[n + 1]])
            drawn = jax.random.normal(one, (4,))
            np.testing.assert_allclose(x[3], drawn[3], rtol=1e-5)


def test_exact_denoiser_keeps_the_datas_moments():
    """With N(0, 1) data and the fixed large variance, every step is exact."""
    schedule = jd.Linear(num_steps=50, beta_start=1e-3, beta_end=0.3).build()
    sampler = jd.DDPM(variance=jd.samplers.FixedLarge())
    images = jd.sample(shrink, sampler, schedule, jax.random.key(0), (40_000, 1))
    # The last step adds no noise: it scales x_0-hat = sqrt(alphas_bar_0) x.
    deviation = float(schedule.sqrt_alphas_bar[0])
    assert abs(float(images.mean())) < 4 * deviation / 200
    assert abs(float(images.var()) / deviation**2 - 1) < 4 * (2 / 40_000) ** 0.5


@pytest.mark.parametrize("every", [1, 3, 20, 21])
def test_trajectory(short, every):
    noise = jax.random.normal(jax.random.key(1), (20, *SHAPE))
    x_T = jax.random.normal(jax.random.key(2), SHAPE)
    args = (shrink, jd.DDPM(), short, jax.random.key(0), SHAPE)
    images = jd.sample(*args, x_T=x_T, noise=noise)
    states = jd.sample(*args, x_T=x_T, noise=noise, every=every)
    assert states.shape == (20 // every + 1, *SHAPE)
    np.testing.assert_allclose(states[-1], images, rtol=1e-5, atol=1e-6)
    x, expected = x_T, [x_T]
    for i, t in enumerate(reversed(range(20))):
        x = jd.p_sample_step(shrink, short, x, t, jax.random.key(0), noise=noise[i])
        expected.append(x)
    steps_left = np.arange(20, -1, -1)
    expected = [
        x for x, left in zip(expected, steps_left, strict=True) if left % every == 0
    ]
    assert len(expected) == len(states)
    np.testing.assert_allclose(states, jnp.stack(expected), rtol=1e-4, atol=1e-5)


def test_an_images_noise_depends_on_its_index_alone(short):
    """An image has the same bits in any batch; a zero denoiser shows its noise."""

    def silent(x_t, level):
        return jd.Estimate(x_0=jnp.zeros_like(x_t), eps=jnp.zeros_like(x_t))

    def draw(indices, key=0):
        shape = (len(indices), 8, 8, 1)
        args = (silent, jd.DDPM(), short, jax.random.key(key), shape)
        # The state before the last step, because the last step gives x_0 = 0.
        return jd.sample(*args, indices=jnp.asarray(indices), every=1)[-2]

    whole = draw(np.arange(64))
    np.testing.assert_array_equal(draw([17])[0], whole[17])
    np.testing.assert_array_equal(draw([63, 5, 17]), whole[jnp.array([63, 5, 17])])
    assert not np.array_equal(draw([17], key=1)[0], whole[17])
    assert len(np.unique(whole[:, 0, 0, 0])) == 64


def test_noise_is_the_same_on_any_number_of_devices():
    key, indices = jax.random.key(0), np.arange(64)

    def draw(key, indices):
        return rng.normal(rng.example_keys(key, indices), (8, 8, 1))

    one = draw(key, jnp.asarray(indices))
    for count in (1, 2, 8):
        parallel = jd.parallel.Pmap(num_devices=count)
        np.testing.assert_array_equal(parallel.map(draw)(key, indices), one)
    np.testing.assert_array_equal(draw(key, jnp.array([42]))[0], one[42])


def test_images_agree_alone_in_a_batch_and_on_devices(tiny, short):
    network, params = tiny
    labels = np.arange(16) % 10

    def draw(shared, batch):
        indices, labels = batch
        denoiser = jd.clip_x0(jd.bind(network, shared[0], labels))
        shape = (len(indices), 8, 8, 1)
        return jd.sample(denoiser, jd.DDPM(), short, shared[1], shape, indices=indices)

    shared, batch = (params, jax.random.key(0)), (np.arange(16), labels)
    whole = draw(shared, jax.tree.map(jnp.asarray, batch))
    for count in (1, 8):
        parallel = jd.parallel.Pmap(num_devices=count)
        got = parallel.map(draw)(shared, batch)
        np.testing.assert_allclose(got, whole, atol=2e-5)
    alone = draw(shared, (jnp.array([9]), jnp.array([labels[9]])))
    np.testing.assert_allclose(alone[0], whole[9], atol=2e-5)
    again = draw(shared, jax.tree.map(jnp.asarray, batch))
    np.testing.assert_array_equal(again, whole)


def test_other_parameters_labels_and_bounds_do_not_compile_again(tiny, short):
    network, params = tiny
    shape = (2, 8, 8, 1)

    def draw(scale, labels, bound, seed):
        scaled = jax.tree.map(lambda p: scale * p, params)
        denoiser = jd.clip_x0(jd.bind(network, scaled, labels), -bound, bound)
        return jd.sample(denoiser, jd.DDPM(), short, jax.random.key(seed), shape)

    first = draw(1.0, [1, 2], 1.0, 0)
    compiled = CHAIN._cache_size()
    for args in [(0.5, [1, 2], 1.0, 0), (1.0, [3, 4], 1.0, 0), (1.0, [1, 2], 0.5, 1)]:
        assert not np.array_equal(draw(*args), first)
    assert CHAIN._cache_size() == compiled


def test_memory_does_not_grow_with_the_steps():
    def peak(num_steps):
        betas = np.linspace(1e-4, 0.02, num_steps)
        betas[-1] = 0.9999
        schedule = jd.Schedule.from_betas(betas)
        lowered = CHAIN.lower(
            jax.tree_util.Partial(shrink), jd.DDPM(),
            schedule, jd.DDPM().grid(schedule), jnp.ones(()),
            jax.random.key(0), (8, 32, 32, 3), jnp.arange(8), None, None, None,
        )  # fmt: skip
        memory: Any = lowered.compile().memory_analysis()
        return memory.temp_size_in_bytes + memory.output_size_in_bytes

    assert peak(1000) < 1.05 * peak(10)


def test_clipping_rederives_eps(short):
    x_t = jnp.linspace(-9, 9, 12).reshape(3, 4)
    level = short.level(jnp.array([2, 9, 15]))
    estimate = jd.clip_x0(shrink, -0.5, 0.25)(x_t, level)
    assert (estimate.x_0.min(), estimate.x_0.max()) == (-0.5, 0.25)
    alpha, sigma = level.scales(x_t)
    rebuilt = alpha * estimate.x_0 + sigma * estimate.eps
    np.testing.assert_allclose(rebuilt, x_t, rtol=1e-5, atol=1e-6)
    inside = jd.clip_x0(shrink, -99.0, 99.0)(x_t, level)
    np.testing.assert_allclose(inside.eps, shrink(x_t, level).eps, rtol=1e-3, atol=1e-5)


def test_what_is_no_key_and_no_sampler(short):
    keys: list[Any] = [0, jax.random.PRNGKey(0), jax.random.split(jax.random.key(0))]
    for key in keys:
        with pytest.raises(ValueError, match=r"one typed key, jax.random.key\(seed\)"):
            jd.sample(shrink, jd.DDPM(), short, key, SHAPE)

    class Unregistered(jd.DDPM):
        pass

    with pytest.raises(ValueError, match=r"a pytree, got Unregistered\. Decorate"):
        jd.sample(shrink, Unregistered(), short, jax.random.key(0), SHAPE)
    with pytest.raises(ValueError, match=r'threefry2x32, got rbg\. .* impl="threefry'):
        jd.sample(shrink, jd.DDPM(), short, jax.random.key(0, impl="rbg"), SHAPE)


def test_draws_do_not_depend_on_the_default_kind_of_key(short):
    expected = jax.random.key_data(rng.key(3))
    with jax.default_prng_impl("rbg"):
        np.testing.assert_array_equal(jax.random.key_data(rng.key(3)), expected)
    np.testing.assert_array_equal(jax.random.key_data(jax.random.key(3)), expected)


def test_wrong_levels_and_numbers_are_refused(short):
    def draw(sampler, levels=None):
        return jd.sample(shrink, sampler, short, rng.key(0), SHAPE, levels=levels)

    grid = jd.spacing.Trailing(num_steps=4).levels(short)
    twice = jax.tree.map(lambda a: jnp.concatenate([a[:2], a[1:]]), grid)
    several: Any = np.zeros(5)
    wrong = [
        (jd.DDIM(eta=several), None, r"^eta must be one number .* \(5,\)\. "),
        (jd.samplers.Euler(churn=several), None, r"^churn must be one number"),
        (
            jd.DDIM(),
            grid._replace(sigma=grid.sigma[1:]),
            r"got \(5,\), \(5,\), \(4,\)$",
        ),
        (jd.DDIM(), jax.tree.map(lambda a: a[:1], grid), r"N at least 1"),
        (jd.samplers.UniPC(), twice, r"equal levels at 1 and 2\. "),
    ]
    for sampler, levels, match in wrong:
        with pytest.raises(jd.InputError, match=match):
            draw(sampler, levels)


@pytest.mark.parametrize("sampler", [jd.DPMSolver(order=3), jd.samplers.UniPC()])
def test_estimates_of_another_type_are_taken(short, sampler):
    """A network may estimate in bfloat16; the multistep memory is in float32."""

    def half(x_t, level):
        estimate = shrink(x_t, level)
        return jax.tree.map(lambda a: a.astype(jnp.bfloat16), estimate)

    levels = jd.spacing.Trailing(num_steps=4).levels(short)
    found, expected = (
        jd.sample(denoiser, sampler, short, rng.key(0), SHAPE, levels=levels)
        for denoiser in (half, shrink)
    )
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, expected, rtol=0.1, atol=0.05)


SHORTEST: tuple[Any, ...] = (
    jd.Linear(num_steps=1, beta_start=0.9999, beta_end=0.9999),
    jd.schedules.ZeroTerminalSNR(base=jd.Linear(num_steps=2, beta_end=0.5)),
    jd.schedules.VE(num_steps=2),
    jd.schedules.RectifiedFlow(num_steps=2),
)


@pytest.mark.parametrize("options", SHORTEST, ids=lambda one: type(one).__name__)
def test_a_step_onto_the_data_is_the_estimate(options):
    """Every sampler ends so, also on schedules of one and two times.

    Three do not, as published: PNDM and LMS extrapolate eps-hat in the last step, too,
    and LCM mixes the estimate with x_t. Their last step is finite.
    """
    schedule, estimates = options.build(), list[jd.Estimate]()
    start = schedule.prior_scale * np.linspace(-1, 1, 3, dtype=np.float32)

    def denoiser(x_t, level):
        x_0 = x_t / 2
        eps = (x_t - level.alpha * x_0) / level.sigma
        estimates.append(jd.Estimate(x_0, eps, jnp.ones_like(x_t)))
        return estimates[-1]

    for kind in get_args(jd.samplers.SamplerOptions):
        if kind is jd.samplers.FlowMap:  # which needs a network of its own
            continue
        sampler = kind(spacing=jd.spacing.AllTimes())
        with jax.disable_jit():  # compiling would take longer
            images = jd.sample(
                denoiser, sampler, schedule, rng.key(0), start.shape, x_T=start
            )
        assert np.isfinite(images).all(), kind
        if kind in (jd.samplers.PNDM, jd.samplers.LMS, jd.samplers.LCM):
            continue
        np.testing.assert_allclose(images, estimates[-1].x_0, 1e-4, 1e-5)


@pytest.mark.parametrize("x64", [False, True])
def test_steps_of_all_noise_are_finite(x64):
    """Eta may be 1 and more, from levels with and without signal, in any precision."""
    dtype = jnp.float64 if x64 else jnp.float32
    with jax.enable_x64(x64):
        u = jnp.linspace(0.0, 1.0, 4001, dtype=dtype)
        pairs = []
        for a, b in ((1 - u, u), (jnp.cos(u * np.pi / 2), jnp.sin(u * np.pi / 2))):
            alpha, sigma = a.at[-1].set(0.0), b
            for gap in (1, 400):
                noisy = jd.Level(u[gap:], alpha[gap:], sigma[gap:])
                clean = jd.Level(u[:-gap], alpha[:-gap], sigma[:-gap])
                pairs.append((noisy, clean))
            top = jax.tree.map(lambda a: jnp.broadcast_to(a[-1], a.shape), noisy)
            pairs.append((top, clean))
        level, next_level = jax.tree.map(lambda *a: jnp.concatenate(a), *pairs)
        x = jnp.full((), 0.7, dtype)
        estimate = jd.Estimate(x, x)

        each: Any = (0, 0, None, None)
        axes: Any = jd.samplers.StepInfo(*each)

        @jax.jit
        def step(eta, level, next_level):
            info = jd.samplers.StepInfo(level, next_level, x, jnp.zeros((), int))
            return jax.vmap(
                lambda info: ddim_step(estimate, x, info, eta),
                in_axes=(axes,),
            )(info)

        for eta in (1.0, 1.5, 3.0):
            assert np.isfinite(step(jnp.asarray(eta, dtype), level, next_level)).all()
