"""Programs of attention give the same numbers, and the same gradients."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.errors import InputError
from jaxdiff.networks import CrossAttentionUNetConfig
from jaxdiff.networks.attention import attend


def draw(count, seed):
    shape = (2, count, 3, 4)
    return jax.random.normal(jax.random.key(seed), shape)


@pytest.mark.parametrize("chunk", [4, 5])
def test_chunks_of_queries_change_nothing(chunk):
    """Ten queries in chunks of 4 need padding; keys are as many or fewer."""
    query, key, value, weight = (draw(n, i) for i, n in enumerate((10, 7, 7, 10)))
    mask = jnp.asarray(np.arange(7) < np.array([[3], [7]]))

    def results(by):
        def loss(q, k, v):
            found = attend(q, k, v, mask, by=by, chunk=chunk)
            return (found * weight).sum(), found

        run = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))
        (_, found), gradients = run(query, key, value)
        return found, *gradients

    for ours, expected in zip(results("chunked"), results("xla"), strict=True):
        np.testing.assert_allclose(ours, expected, atol=1e-6)
    assert np.ptp(results("xla")[0]) > 0.1


def test_a_chunk_holds_few_products():
    """No array of the program has as many numbers as all products."""
    query = jax.ShapeDtypeStruct((1, 4096, 2, 8), jnp.float32)

    def memory(by):
        program: Any = jax.jit(lambda q: attend(q, q, q, by=by, chunk=128))
        analysis = program.lower(query).compile().memory_analysis()
        return analysis.temp_size_in_bytes

    whole, chunked = memory("xla"), memory("chunked")
    products = 4 * 2 * 4096**2
    assert whole >= products
    assert chunked < products / 8


@pytest.mark.usefixtures("standard_promotion")
def test_the_softmax_is_float32():
    """The products 1024 and 1026 are one number in bfloat16."""
    query = np.full((1, 1, 1, 4), 16.0)
    key = np.full((1, 2, 1, 4), 16.0)
    key[0, 1, 0, 0] = 16.125
    value = np.array([0.0, 1.0]).reshape(1, 2, 1, 1).repeat(4, axis=3)
    given = (jnp.asarray(a, jnp.bfloat16) for a in (query, key, value))
    found = attend(*given, scale=1.0)
    np.testing.assert_allclose(np.float32(found), 1 / (1 + np.exp(-2)), atol=4e-3)


def test_cudnn_leaves_wide_heads_to_xla():
    """Stable Diffusion 1 has heads of 160 channels; this machine may have no GPU."""
    query, key, value = (
        jax.random.normal(jax.random.key(i), (1, 4, 1, 160)) for i in range(3)
    )
    found = attend(query, key, value, by="cudnn")
    np.testing.assert_array_equal(found, attend(query, key, value))
    with pytest.raises(InputError, match="attention_by must be xla or chunked with dt"):
        CrossAttentionUNetConfig(attention_by="cudnn")


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize("by", ["xla", "chunked"])
def test_half_precision_on_the_cpu(by):
    query = draw(6, 0).astype(jnp.float16)
    found = jax.jit(lambda q: attend(q, q, q, by=by, chunk=4))(query)
    assert found.dtype == jnp.float16
    wide = query.astype(jnp.float32)
    expected = np.asarray(attend(wide, wide, wide))
    np.testing.assert_allclose(np.float32(found), expected, atol=2e-3)
