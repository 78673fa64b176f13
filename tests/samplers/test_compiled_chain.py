"""Sampling loop: compiled once, on the device alone, independent per image.

This holds for all samplers, with guidance and measurements. Other numbers do not
compile again, memory does not grow with the steps, and nothing goes to the host. An
image depends on its index in the request alone.
"""

import dataclasses
import itertools
import re
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

import jaxdiff as jd
from jaxdiff.samplers import SamplerOptions
from jaxdiff.samplers.base import STATIC
from jaxdiff.samplers.base import _chain as chain
from tests.helpers.compilations import counted, traces
from tests.helpers.long_parameters import long_where

CHAIN: Any = chain
SAMPLERS = {
    cls.__name__: cls
    for cls in get_args(SamplerOptions)
    if cls is not jd.samplers.FlowMap  # which needs a network of its own
}
NEWER = (
    "PNDM", "LMS", "DEIS", "DPM2", "DPM2Ancestral", "DPMSolver2S", "DPMSolverSDE"
)  # fmt: skip
"""Samplers whose numbers are traced as those of the others; they are long."""
KEY = jax.random.key(0)
STEPS = 4
SCHEDULE = jd.schedules.VP().build()


def compiled_so_far():
    return CHAIN._cache_size(), len(traces)


def all_differ(images):
    return len({np.asarray(image).tobytes() for image in images}) == len(images)


# Compiled once.


def guided(tiny, weight=2.0, labels=(1, 2), **options):
    network, params = tiny
    denoiser = Partial(counted, jd.bind(network, params, jnp.array(labels)))
    return jd.classifier_free_guidance(denoiser, weight, **options)


def draw(denoiser, sampler, schedule, seed=0):
    return jd.sample(denoiser, sampler, schedule, jax.random.key(seed), (2, 8, 8, 1))


def test_a_sweep_of_guidance_seeds_and_labels_compiles_once(tiny, short):
    sampler = jd.DDIM(spacing=jd.spacing.Trailing(num_steps=STEPS))
    options = {"interval": (0.1, 3.0), "rescale": 0.5}
    draw(guided(tiny, **options), sampler, short)
    before = compiled_so_far()
    weights, labels = np.linspace(0.0, 4.5, 10).tolist(), [(1, 2), (3, 3), (0, 9)]
    images = [
        draw(guided(tiny, weight, classes, **options), sampler, short, seed)
        for weight, classes, seed in itertools.product(weights, labels, range(5))
    ]
    draw(guided(tiny, interval=(0.3, 2.0), rescale=0.1), sampler, short)
    assert compiled_so_far() == before
    assert all_differ(images)


@pytest.mark.parametrize("name", long_where(NEWER.__contains__, SAMPLERS))
def test_a_samplers_other_numbers_do_not_compile_again(name):
    cls, spacing = SAMPLERS[name], jd.spacing.Trailing(num_steps=STEPS)
    fields = dataclasses.fields(cls)
    numbers = {field.name for field in fields if field.metadata != STATIC}
    denoiser = Partial(counted, case(name, np.arange(2), (4, 4, 1), STEPS)[0])
    single = {"churn_min": 1.5, "churn_max": 1.5, "churn_noise": 1.1}
    single |= {"noise_scale": 1.1, "time_scale": 0.01, "data_deviation": 3.0}
    assert numbers <= {"eta", "churn", *single}

    def images(**options):
        options = {"churn_max": 9.0, "time_scale": 0.001} | options
        options = {key: options[key] for key in numbers & options.keys()}
        sampler = cls(spacing=spacing, **options)
        return jd.sample(denoiser, sampler, SCHEDULE, KEY, (2, 4, 4, 1))

    first = images(eta=0.5, churn=0.5)
    before = compiled_so_far()
    turned = (0.0, 0.25, 1.0) if numbers & {"eta", "churn"} else ()
    others = [images(eta=value, churn=value) for value in turned]
    others += [
        images(eta=0.9, churn=0.5, **{key: value})
        for key, value in single.items()
        if key in numbers
    ]
    assert compiled_so_far() == before
    assert all_differ([first, *others])


def spacings(times):
    kinds = [
        jd.spacing.Trailing,
        jd.spacing.Leading,
        jd.spacing.Linspace,
        jd.spacing.QuadraticTimes,
    ]
    whole = [cls(num_steps=STEPS) for cls in kinds]
    return [*whole, jd.spacing.Times(times=times)], [
        cls(num_steps=STEPS) for cls in (jd.spacing.UniformLogSNR, jd.spacing.Karras)
    ]


def test_other_times_do_not_compile_again(short):
    """The number of times stays. Whole times are integers, the others are floats."""
    denoiser = jd.classifier_free_guidance(
        Partial(counted, Classes(jnp.arange(2))), 2.0
    )
    for schedule, times in [(short, (17, 9, 4, 2)), (SCHEDULE, (0.9, 0.5, 0.2, 0.1))]:
        whole, between = spacings(times)
        groups = [whole, between] if schedule is short else [whole + between]
        for group in groups:
            images, counts = [], []
            for spacing in group:
                sampler = jd.DDIM(spacing=spacing)
                images.append(draw(denoiser, sampler, schedule))
                counts.append(compiled_so_far())
            assert len(set(counts)) == 1
            assert all_differ(images)


# Memory, the host, and the index.


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Classes:
    """Denoiser with classes, nonlinear and cheap to compile."""

    labels: jax.Array

    def __call__(self, x_t, level):
        label = self.labels.astype(x_t.dtype).reshape(-1, 1, 1, 1)
        x_0 = jnp.tanh(x_t + label)
        alpha, sigma = level.scales(x_t)
        return jd.Estimate(x_0, (x_t - alpha * x_0) / sigma)


CASES = [*SAMPLERS, "Repaint", "Dps", "given_measurement"]
FEW = ("DDPM", "Heun", "UniPC", "Dps")
"""Samplers with fresh noise, two evaluations, a memory, and a gradient."""
FEW_CASES = long_where(lambda name: name not in FEW, CASES)
CALLS_OUT = re.compile(r"\b(?:infeed|outfeed|send|recv)\b|callback|host_transfer")


def case(name, rows, shape, num_steps):
    """Returns denoiser and sampler for rows of a request, with guidance and noise."""
    wave = jnp.sin(jnp.arange(np.prod(shape), dtype=jnp.float32)).reshape(shape)
    denoiser = jd.classifier_free_guidance(
        Classes(jnp.asarray(rows % 2)), 1.5, rescale=0.5
    )
    known = jnp.stack([wave * jnp.cos(jnp.float32(row)) for row in rows])
    mask = jnp.zeros(shape).at[: shape[0] // 2].set(1.0)
    spacing = jd.spacing.Trailing(num_steps=num_steps)
    within = jd.DDIM(spacing=spacing, eta=0.7)
    if name == "Repaint":  # its jumps back triple the steps
        short = jd.spacing.Trailing(num_steps=max(num_steps // 3, 3))
        within = dataclasses.replace(within, spacing=short)
        return denoiser, jd.samplers.RePaint(
            sampler=within, known=known, mask=mask, jump=2, passes=2
        )
    operator = jd.inverse_problems.downsample(2)
    if name == "Dps":
        return denoiser, jd.samplers.DPS(
            sampler=within, operator=operator, measurement=operator(known)
        )
    if name == "given_measurement":
        measured = jd.inverse_problems.given_measurement(
            denoiser, operator, operator(known), 0.1, iterations=3
        )
        return measured, within
    fields = {field.name for field in dataclasses.fields(SAMPLERS[name])}
    noise = {"eta": 0.7, "churn": 2.0}
    options = {key: noise[key] for key in fields & noise.keys()}
    return denoiser, SAMPLERS[name](spacing=spacing, **options)


def lowered(denoiser, sampler, shape, grid):
    """Returns the lowered loop, and its arguments on the device."""
    scale = sampler.start_scale(SCHEDULE, grid)
    arguments = (denoiser, sampler.rule(), SCHEDULE, grid, scale, KEY)
    arguments = jax.device_put(arguments)
    indices = jnp.arange(shape[0])
    chain = CHAIN.lower(*arguments, shape, indices, None, None, None)
    return chain, (*arguments, indices, None, None)


@pytest.mark.parametrize("name", FEW_CASES)
def test_a_long_chain_takes_no_more_memory_and_stays_on_the_device(name):
    shape, peaks = (8, 64, 64, 3), {}
    for num_steps in (1000, 10):
        denoiser, sampler = case(name, np.arange(8), shape[1:], num_steps)
        chain, arguments = lowered(denoiser, sampler, shape, sampler.grid(SCHEDULE))
        compiled = chain.compile()
        memory: Any = compiled.memory_analysis()
        peaks[num_steps] = memory.temp_size_in_bytes + memory.output_size_in_bytes
    assert peaks[1000] < 1.05 * peaks[10]
    text = compiled.as_text()
    assert "while" in text
    assert not CALLS_OUT.findall(text)
    with jax.transfer_guard("disallow"):
        images = compiled(*arguments).block_until_ready()
    assert jnp.isfinite(images).all()


def test_what_leaves_the_device_is_seen():
    """The test above would fail for a denoiser that calls the host."""

    def loud(x_t, level):
        jax.debug.callback(lambda t: None, level.t)
        return jd.Estimate(x_t, x_t)

    sampler = jd.DDIM(spacing=jd.spacing.Trailing(num_steps=STEPS))
    grid = sampler.grid(SCHEDULE)
    chain, arguments = lowered(Partial(loud), sampler, (2, 4, 4, 1), grid)
    compiled = chain.compile()
    assert CALLS_OUT.findall(compiled.as_text())
    on_host = jax.tree.map(np.asarray, arguments[3])
    with (
        jax.transfer_guard("disallow"),
        pytest.raises(RuntimeError, match="Disallowed host-to-device transfer"),
    ):
        compiled(*arguments[:3], on_host, *arguments[4:])


@pytest.mark.parametrize("name", FEW_CASES)
def test_an_image_depends_on_its_index_alone(name):
    def images(rows):
        denoiser, sampler = case(name, rows, (4, 4, 1), 6)
        shape = (len(rows), 4, 4, 1)
        return jd.sample(
            denoiser, sampler, SCHEDULE, KEY, shape, indices=jnp.asarray(rows)
        )

    whole = images(np.arange(6))
    np.testing.assert_allclose(images(np.array([2, 3])), whole[2:4], atol=1e-5)
    assert all_differ(whole)
