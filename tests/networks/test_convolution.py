"""CPU convolution: the same values and gradients as the plain convolution."""

from typing import Any

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.networks import convolution, winograd


def assert_agree(found, expected, within=5e-6):
    """Asserts that each array agrees to a share `within` of its largest number."""
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        atol = within * np.abs(b).max()
        np.testing.assert_allclose(a, b, rtol=0, atol=atol)


def plain(x, kernel):
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def inputs(shape, out, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=shape).astype(np.float32)
    kernel = rng.normal(size=(3, 3, shape[-1], out)).astype(np.float32)
    kernel /= np.float32(np.sqrt(9 * shape[-1]))
    y = rng.normal(size=(*shape[:-1], out)).astype(np.float32)
    return x, kernel, y


@pytest.mark.parametrize(
    ("shape", "out"),
    [
        ((1, 2, 2, 1), 1),
        ((3, 16, 16, 5), 7),  # chunks of one image: 4 do not divide the batch
        ((4, 4, 10, 3), 2),  # not square; all in one chunk
        ((2, 64, 32, 3), 4),  # more tiles in an image than in a chunk
    ],
)
def test_values_and_gradients_are_the_plain_ones(shape, out):
    x, kernel, y = inputs(shape, out)

    def both(convolve):
        def run(x, kernel, y):
            value, pull = jax.vjp(convolve, x, kernel)
            return value, pull(y)

        return jax.jit(run)(x, kernel, y)

    found, expected = both(winograd.convolve), both(plain)
    assert_agree(found, expected)


def test_the_gradients_are_those_of_the_equations():
    x, kernel, y = inputs((3, 8, 6, 4), 5)
    _, pull = jax.vjp(winograd.convolve, x, kernel)
    by_x, by_kernel = pull(y)
    assert_agree(by_x, winograd.input_gradient(y, kernel))
    assert_agree(by_kernel, winograd.kernel_gradient(x, y))


def test_it_is_differentiated_forwards_twice_and_by_vmap():
    x, kernel, _ = inputs((2, 4, 4, 3), 2)

    def all_ways(convolve):
        def loss(x, kernel):
            return (convolve(x, kernel) ** 3).sum()

        def run(x, kernel):
            return (
                jax.jvp(convolve, (x, kernel), (x * 2, kernel * 3)),
                jax.grad(lambda k: (jax.grad(loss, 1)(x, k) ** 2).sum())(kernel),
                jax.vmap(jax.grad(loss, 1), in_axes=(0, None))(x[:, None], kernel),
                jax.jvp(jax.grad(loss), (x, kernel), (x, kernel)),
            )

        return jax.jit(run)(x, kernel)

    found, expected = all_ways(winograd.convolve), all_ways(plain)
    assert_agree(found, expected)


def test_the_network_is_the_same_either_way(monkeypatch):
    """The program for the CPU contains loops; the plain programs do not."""
    config = jd.UNetConfig(channels=16, multipliers=(1,), blocks=1, attention=())
    network = config.build(out_channels=1)
    x, _, _ = inputs((2, 16, 16, 1), 1)
    t = jnp.arange(2)
    params = jax.jit(network.init)(jax.random.key(0), x, t)["params"]
    params = jax.tree.map(lambda a: a + 0.01, params)  # the last layers start at zero

    def loss(params):
        output: Any = network.apply({"params": params}, x, t)
        return (output**2).sum()

    traced = jax.jit(jax.grad(loss)).trace(params)
    here = traced.lower()
    assert "stablehlo.while" in here.as_text()
    elsewhere = traced.lower(lowering_platforms=("tpu",))
    assert "stablehlo.while" not in elsewhere.as_text()

    monkeypatch.setattr(convolution, "PIXELS", 10**9)
    plainly = jax.jit(jax.grad(lambda params: loss(params))).lower(params)
    assert "stablehlo.while" not in plainly.as_text()
    found, expected = (
        jax.flatten_util.ravel_pytree(way.compile()(params))[0]
        for way in (here, plainly)
    )
    assert_agree(found, expected)


CASES = ["odd", "few pixels", "few channels", "many channels", "bfloat16"]


@pytest.mark.parametrize("case", CASES)
def test_what_gains_nothing_stays_plain(case):
    shape = {"odd": (1, 17, 16, 16), "few pixels": (1, 8, 8, 16)}.get(
        case,
        (1, 16, 16, {"few channels": 8, "many channels": 513}.get(case, 16)),
    )
    x, kernel, _ = inputs(shape, 16)
    dtype = jnp.bfloat16 if case == "bfloat16" else jnp.float32

    def run(x, kernel):
        return convolution.convolve(
            x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    lowered = jax.jit(run).lower(x.astype(dtype), kernel.astype(dtype))
    assert "stablehlo.convolution" in lowered.as_text()
    assert "stablehlo.while" not in lowered.as_text()
