"""Pmap: any number of devices computes what one does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd


@pytest.fixture(scope="module")
def batch():
    images = jax.random.uniform(jax.random.key(7), (16, 8, 8, 1), minval=-1)
    return jd.Batch(np.asarray(images), np.arange(16) % 10, np.arange(16))


def gradients_on(count, tiny, schedule, batch):
    """Loss, metrics and gradients of one batch, shared by so many devices."""
    network, params = tiny
    parallel = jd.Pmap(num_devices=count)

    def step(params, batch, mean):
        key = jax.random.key(0)
        gradient_fn = jax.grad(jd.loss_fn, has_aux=True)
        return mean(gradient_fn(params, network, schedule, batch, key))

    # The state is donated, so each call needs a copy of its own.
    return parallel.step(step)(jax.tree.map(jnp.copy, params), batch)


def test_devices_share_one_gradient(tiny, short, batch):
    expected, metrics = gradients_on(1, tiny, short, batch)
    scale = max(float(jnp.abs(g).max()) for g in jax.tree.leaves(expected))
    got, other = gradients_on(8, tiny, short, batch)
    for name in metrics:
        np.testing.assert_allclose(other[name], metrics[name], rtol=1e-5, atol=1e-6)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * scale, rtol=1e-4)


def test_a_state_stays_whole_and_is_donated():
    parallel = jd.Pmap()
    init = lambda: {"w": jnp.zeros(3), "n": jnp.zeros((), jnp.int32)}  # noqa: E731
    shardings = parallel.shardings(jax.eval_shape(init))
    state = jax.jit(init, out_shardings=shardings)()
    traces = []

    def step(state, batch, mean):
        traces.append(1)
        gradient = mean(batch.sum(axis=0))
        return {"w": state["w"] + gradient, "n": state["n"] + 1}, gradient

    compiled = parallel.step(step)
    for _ in range(3):
        before = state
        state, gradient = compiled(before, np.ones((16, 3), np.float32))
        assert before["w"].is_deleted()
    np.testing.assert_array_equal(gradient, 2)  # 16 rows over 8 devices, averaged
    np.testing.assert_array_equal(state["w"], 6)
    assert state["w"].shape == (3,)
    assert int(state["n"]) == 3
    assert state["w"].sharding == shardings["w"]
    assert len(traces) == 1


def test_map_keeps_the_order():
    for count in (1, 2, 8):
        parallel = jd.Pmap(num_devices=count)
        doubled = parallel.map(lambda scale, x: {"y": scale * x})
        rows = np.arange(16, dtype=np.float32)
        np.testing.assert_array_equal(doubled(np.float32(2), rows)["y"], 2 * rows)


def test_a_batch_that_the_devices_do_not_divide():
    with pytest.raises(ValueError, match="8 devices; got 12: use 8 or 16"):
        jd.Pmap().check_batch_size(12)
    with pytest.raises(ValueError, match="8 devices; got 3: use 8"):
        jd.Pmap().map(lambda _, x: x)(None, np.zeros(3))
