"""Group normalisation: the values and gradients of Flax's, and of the definition."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.networks.group_norm import GroupNorm


def inputs(shape, mean=0.0):
    """Returns images whose channels have different means and sizes, and parameters."""
    rng = np.random.default_rng(0)
    channels = shape[-1]
    x = rng.normal(size=shape) * rng.uniform(0.5, 2, channels) + rng.normal(
        size=channels
    )
    scale, bias = rng.normal(size=(2, channels))
    params = {"scale": scale.astype(np.float32), "bias": bias.astype(np.float32)}
    return (x + mean).astype(np.float32), params


def defined(x, params, groups, epsilon):
    """Returns the result by the definition, in float64."""
    x = x.astype(np.float64)
    parts = x.reshape(len(x), -1, groups, x.shape[-1] // groups)
    mean = parts.mean((1, 3), keepdims=True)
    deviation = np.sqrt(parts.var((1, 3), keepdims=True) + epsilon)
    normal = ((parts - mean) / deviation).reshape(x.shape)
    return normal * params["scale"] + params["bias"]


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize(
    ("shape", "groups"),
    [((3, 4, 6, 12), 3), ((2, 5, 8), 8), ((2, 4, 4, 6), 1), ((3, 8), 2)],
)
def test_values_and_gradients_are_those_of_flax(shape, groups, fast):
    x, params = inputs(shape)
    options = {"epsilon": 1e-3, "use_fast_variance": fast}
    ours, flax = GroupNorm(groups, **options), nn.GroupNorm(groups, **options)
    assert jax.tree.map(jnp.shape, ours.init(jax.random.key(0), x)) == jax.tree.map(
        jnp.shape, flax.init(jax.random.key(0), x)
    )
    found: Any = ours.apply({"params": params}, x)
    np.testing.assert_allclose(
        found, defined(x, params, groups, 1e-3), rtol=0, atol=1e-5
    )

    def gradient(norm):
        def loss(params, x):
            return (norm.apply({"params": params}, x) ** 3).sum()

        return jax.tree.leaves(jax.jit(jax.grad(loss, (0, 1)))(params, x))

    for own, other in zip(gradient(ours), gradient(flax), strict=True):
        np.testing.assert_allclose(own, other, rtol=0, atol=3e-5 * np.abs(other).max())


def test_a_large_mean_leaves_the_exact_variance():
    x, params = inputs((2, 8, 8, 4), mean=1000)
    norm = GroupNorm(2, epsilon=1e-6, use_fast_variance=False)
    found: Any = norm.apply({"params": params}, x)
    np.testing.assert_allclose(found, defined(x, params, 2, 1e-6), rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("given", "asked", "result"),
    [
        ("bfloat16", None, "float32"),  # the parameters are float32
        ("bfloat16", "bfloat16", "bfloat16"),
        ("float32", "bfloat16", "bfloat16"),
        ("float16", "float16", "float16"),
    ],
)
def test_half_precision_has_statistics_of_float32(given, asked, result):
    x, params = inputs((2, 64, 64, 4), mean=30)
    x = jnp.asarray(x, given)
    found: Any = GroupNorm(2, dtype=asked).apply({"params": params}, x)
    assert found.dtype == result
    expected = defined(np.asarray(x), params, 2, 1e-6)
    np.testing.assert_allclose(
        np.asarray(found, np.float32), expected, rtol=2**-8, atol=2e-3
    )
