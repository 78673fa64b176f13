"""Optimiser against its formulas, written out in NumPy."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdiff.training.optimizer import Optimizer

pytestmark = pytest.mark.usefixtures("standard_promotion")

WARM = Optimizer(learning_rate=0.01, warmup_steps=4)
PLAIN = Optimizer(learning_rate=0.1, warmup_steps=0, clip_norm=1e9)
STEPS = 20
SHAPES = {"a": (3, 2), "b": (5,)}


def random(seed, scale=1.0):
    """Returns a pytree of Gaussian float32 numbers."""
    rng = np.random.default_rng(seed)
    return {k: np.float32(scale * rng.normal(size=s)) for k, s in SHAPES.items()}


def steps(options, params, gradients, num_steps=STEPS):
    """Returns the parameters after each of the gradients."""
    optimizer = options.build(num_steps)
    state, found = optimizer.init(params), []
    update = jax.jit(optimizer.update)
    for gradient in gradients:
        updates, state = update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        found.append(params)
    return found


def reference(options, params, gradients, num_steps=STEPS):
    """Runs AdamW (Loshchilov & Hutter 2019, algorithm 2) after clipping, in float64."""
    params = {k: np.float64(v) for k, v in params.items()}
    mean = {k: np.zeros_like(v) for k, v in params.items()}
    square = {k: np.zeros_like(v) for k, v in params.items()}
    found = []
    for i, gradient in enumerate(gradients):
        norm = math.sqrt(sum(np.sum(np.float64(g) ** 2) for g in gradient.values()))
        rate = rates(options, num_steps, i)
        b1, b2 = options.beta_1, options.beta_2
        for k, g in gradient.items():
            g = np.float64(g) * min(1, options.clip_norm / norm)
            mean[k] = b1 * mean[k] + (1 - b1) * g
            square[k] = b2 * square[k] + (1 - b2) * g**2
            step = mean[k] / (1 - b1 ** (i + 1))
            step /= np.sqrt(square[k] / (1 - b2 ** (i + 1))) + options.epsilon
            params[k] = params[k] - rate * (step + options.weight_decay * params[k])
        found.append(dict(params))
    return found


def rates(options, num_steps, step):
    """Returns the learning rate in closed form."""
    warm, peak = options.warmup_steps, options.learning_rate
    if step < warm:
        return peak * step / warm
    if options.decay == "constant":
        return peak
    along = min((step - warm) / max(num_steps - warm, 1), 1)
    return peak * (1 + math.cos(math.pi * along)) / 2


@pytest.mark.parametrize("decay", ["constant", "cosine"])
@pytest.mark.parametrize("warmup", [0, 1, 4, 20, 30])
def test_learning_rate_has_its_closed_form(decay, warmup):
    options = dataclasses.replace(WARM, decay=decay, warmup_steps=warmup)
    rate = options.schedule(STEPS)
    for step in range(STEPS + 3):
        value = float(rate(step))
        assert value == pytest.approx(rates(options, STEPS, step), rel=1e-5, abs=1e-8)
        assert float(rate(jnp.int32(step))) == value


def test_learning_rate_at_the_places_that_matter():
    cosine = dataclasses.replace(WARM, decay="cosine").schedule(STEPS)
    constant = WARM.schedule(STEPS)
    for rate in (cosine, constant):
        assert float(rate(0)) == 0
        assert float(rate(2)) == pytest.approx(0.005)
        assert float(rate(4)) == pytest.approx(0.01)
    assert float(constant(10**6)) == pytest.approx(0.01)
    assert float(cosine(12)) == pytest.approx(0.005)  # half-way from 4 to 20
    assert float(cosine(STEPS)) == 0
    assert 0 < float(cosine(STEPS - 1)) < 0.0002


@pytest.mark.parametrize(
    "options",
    [
        PLAIN,
        WARM,
        Optimizer(learning_rate=0.05, warmup_steps=3, decay="cosine", clip_norm=0.5),
        Optimizer(learning_rate=0.05, warmup_steps=0, weight_decay=0.3, clip_norm=2),
        Optimizer(learning_rate=0.1, warmup_steps=2, beta_1=0.5, beta_2=0.8),
        Optimizer(learning_rate=0.1, warmup_steps=1, beta_1=0, beta_2=0),
        Optimizer(learning_rate=0.1, warmup_steps=1, epsilon=0.5),
    ],
)
def test_every_step_is_adamw_after_clipping(options):
    params = random(0)
    gradients = [random(i, scale) for i, scale in enumerate((1, 30, 0.01, 3, 0.1), 1)]
    found = steps(options, params, gradients)
    expected = reference(options, params, gradients)
    assert len(found) == len(expected) == 5
    for a, b in zip(found, expected, strict=True):
        for k in SHAPES:
            np.testing.assert_allclose(a[k], b[k], rtol=2e-5, atol=2e-6)
            assert a[k].dtype == np.float32


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_adams_first_step_is_the_learning_rate(scale):
    """The gradient's scale has no effect: mean / sqrt(variance) is its sign."""
    gradient = random(1, scale)
    (after,) = steps(PLAIN, random(0), [gradient])
    for k, before in random(0).items():
        np.testing.assert_allclose(
            after[k] - before, -0.1 * np.sign(gradient[k]), rtol=2e-3
        )


def test_a_gradient_above_the_norm_counts_as_one_of_the_norm():
    options = dataclasses.replace(PLAIN, clip_norm=1.0)
    big, small = random(1, 100), random(2, 0.01)
    norm = np.sqrt(sum(np.sum(g**2) for g in big.values()))
    unit = {k: np.float32(g / norm) for k, g in big.items()}
    clipped = steps(options, random(0), [big, small])[-1]
    same = steps(options, random(0), [unit, small])[-1]
    unclipped = steps(PLAIN, random(0), [big, small])[-1]
    for k in SHAPES:
        np.testing.assert_allclose(clipped[k], same[k], rtol=1e-5)
        assert np.abs(clipped[k] - unclipped[k]).max() > 1e-3
    below = [steps(o, random(0), [small] * 3)[-1] for o in (options, PLAIN)]
    for k in SHAPES:
        np.testing.assert_array_equal(below[0][k], below[1][k])


def test_weight_decay_is_decoupled_from_the_gradient():
    """Without a gradient, parameters of any size shrink by rate x decay."""
    options = dataclasses.replace(PLAIN, weight_decay=0.5)
    zero = {k: np.zeros(s, np.float32) for k, s in SHAPES.items()}
    for scale in (1, 1000):
        params = random(0, scale)
        found = steps(options, params, [zero, zero])
        for i, after in enumerate(found, 1):
            for k in SHAPES:
                expected = params[k] * (1 - 0.1 * 0.5) ** i
                np.testing.assert_allclose(after[k], expected, rtol=1e-5)


def test_the_first_step_of_a_warm_up_changes_nothing():
    """The rate starts from 0, as DDPM's does."""
    first, second = steps(WARM, random(0), [random(1), random(2)])
    for k, before in random(0).items():
        np.testing.assert_array_equal(first[k], before)
        assert (second[k] != before).all()
