"""Layers that trace no initial values: Flax's values, and checks of shapes."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.errors import ScopeParamShapeError

from jaxdiff.networks import modules

LAYERS: dict[str, tuple[Any, ...]] = {
    "Conv": (3, (3, 3)),
    "Dense": (3,),
    "DenseGeneral": ((2, 3), (-2, -1)),
    "LayerNorm": (),
    "RMSNorm": (),
}


def of(library: Any, name: str) -> Any:
    positions = LAYERS[name]
    return getattr(library, name)(*positions, name="layer")


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_flaxs(name):
    x = jax.random.normal(jax.random.key(0), (2, 4, 4, 5))
    ours, theirs = of(modules, name), of(nn, name)
    params = jax.jit(ours.init)(jax.random.key(1), x)
    expected = jax.jit(theirs.init)(jax.random.key(1), x)
    jax.tree.map(np.testing.assert_array_equal, params, expected)
    moved = jax.tree.map(lambda a: a + 0.1, params)
    np.testing.assert_array_equal(
        jax.jit(ours.apply)(moved, x), jax.jit(theirs.apply)(moved, x)
    )
    assert type(ours).__name__ == name  # Flax names a layer without a name by its class


def test_a_table_is_flaxs():
    places = jnp.array([3, 0])
    ours, theirs = modules.Embed(4, 2), nn.Embed(4, 2)
    params = ours.init(jax.random.key(0), places)
    found = ours.apply(params, places)
    np.testing.assert_array_equal(found, theirs.apply(params, places))


def test_initial_values_are_traced_by_init_alone():
    traced = []

    def initial(key: Any, shape: Any, dtype: Any) -> Any:
        traced.append(shape)
        return jax.random.normal(key, shape, dtype)

    layer, x = modules.Dense(3, kernel_init=initial), jnp.ones((2, 5))
    params = layer.init(jax.random.key(0), x)
    assert traced == [(5, 3)]
    layer.apply(params, x)
    jax.jit(jax.grad(lambda p: jnp.sum(jnp.asarray(layer.apply(p, x)))))(params)
    assert traced == [(5, 3)]


@pytest.mark.parametrize("name", ["Conv", "Dense", "LayerNorm"])
def test_a_parameter_of_another_shape_is_refused(name):
    layer = of(modules, name)
    params = jax.jit(layer.init)(jax.random.key(0), jnp.ones((1, 4, 4, 5)))
    with pytest.raises(ScopeParamShapeError, match="expected to generate shape"):
        layer.apply(params, jnp.ones((1, 4, 4, 6)))
