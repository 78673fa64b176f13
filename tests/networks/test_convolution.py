"""CPU convolution: the same values and gradients as the plain convolution."""

from typing import Any

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.networks import convolution, products, winograd
from jaxdiff.parallel import processor


def assert_agree(found, expected, within=5e-6):
    """Asserts that each array agrees to a share `within` of its largest number."""
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        atol = within * np.abs(b).max()
        np.testing.assert_allclose(a, b, rtol=0, atol=atol)


def assert_rounded(found, exact):
    """Asserts that numbers in bfloat16 are the exact ones, rounded by 2^-8 at most."""
    assert found.dtype == jnp.bfloat16
    error = np.abs(np.asarray(found, np.float32) - exact)
    assert (error <= 2**-8 * np.abs(exact) + 1e-6 * np.abs(exact).max()).all()


def plain(x, kernel):
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def convolved(x, kernel, strides=(1, 1), padding="SAME", **options):
    options = {"dimension_numbers": convolution.NUMBERS, **options}
    return convolution.convolve(x, kernel, strides, padding, **options)


def inputs(shape, out, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=shape).astype(np.float32)
    kernel = rng.normal(size=(3, 3, shape[-1], out)).astype(np.float32)
    kernel /= np.float32(np.sqrt(9 * shape[-1]))
    y = rng.normal(size=(*shape[:-1], out)).astype(np.float32)
    return x, kernel, y


SHAPES = [
    ((1, 2, 2, 1), 1),
    ((3, 16, 16, 5), 7),  # chunks of one image: 4 do not divide the batch
    ((4, 4, 10, 3), 2),  # not square; all in one chunk
    ((2, 64, 32, 3), 4),  # more pixels in an image than in a chunk
]


@pytest.mark.parametrize(("shape", "out"), SHAPES)
def test_values_and_gradients_are_the_plain_ones(shape, out):
    x, kernel, y = inputs(shape, out)

    def both(product, gradient):
        def run(x, kernel, y):
            by_x = product(y, convolution.rotated(kernel))
            return product(x, kernel), by_x, gradient(x, y)

        return jax.jit(run)(x, kernel, y)

    def by_jax(x, kernel, y):
        value, pull = jax.vjp(plain, x, kernel)
        return value, *pull(y)

    expected = jax.jit(by_jax)(x, kernel, y)
    assert_agree(both(winograd.convolve, winograd.kernel_gradient), expected)
    assert_agree(both(products.convolve, products.kernel_gradient), expected)


@pytest.mark.parametrize(("shape", "out"), SHAPES)
def test_products_in_bfloat16_round_once(shape, out):
    """Sums are in float32, so an error is that of one rounding, 2^-9 of the number."""
    arrays = [jnp.asarray(a, jnp.bfloat16) for a in inputs(shape, out)]

    def own(x, kernel, y):
        return products.convolve(x, kernel), products.kernel_gradient(x, y)

    def exact(x, kernel, y):
        x, kernel, y = (a.astype(jnp.float32) for a in (x, kernel, y))
        return plain(x, kernel), convolution.plain_kernel_gradient(x, y)

    found, expected = jax.jit(own)(*arrays), jax.jit(exact)(*arrays)
    for a, b in zip(found, expected, strict=True):
        assert_rounded(a, b)


@pytest.mark.parametrize("sizes", [(40, 24, 8), (40, 8, 24), (1, 1, 1)])
def test_linear_layers_round_once(sizes):
    rows, inner, out = sizes
    rng = np.random.default_rng(3)
    x, kernel, y = (
        jnp.asarray(rng.normal(size=shape), jnp.bfloat16)
        for shape in ((rows, inner), (inner, out), (rows, out))
    )
    found = [products.multiply(x, kernel), products.multiply_transposed(x, y)]
    x, kernel, y = (a.astype(jnp.float32) for a in (x, kernel, y))
    for a, b in zip(found, [x @ kernel, x.T @ y], strict=True):
        assert_rounded(a, b)


def all_ways(product, x, kernel):
    """Returns values and derivatives: forwards, backwards, twice, and by vmap."""

    def loss(x, kernel):
        return (product(x, kernel).astype(jnp.float32) ** 3).sum()

    def run(x, kernel):
        return (
            jax.jvp(product, (x, kernel), (x * 2, kernel * 3)),
            jax.grad(loss, (0, 1))(x, kernel),
            jax.grad(lambda k: (jax.grad(loss, 1)(x, k) ** 2).sum())(kernel),
            jax.grad(lambda k: (jax.grad(loss)(x, k) ** 2).sum())(kernel),
            jax.grad(lambda x: (jax.grad(loss, 1)(x, kernel) ** 2).sum())(x),
            jax.vmap(jax.grad(loss, 1), in_axes=(0, None))(x[:, None], kernel),
            jax.jvp(jax.grad(loss), (x, kernel), (x, kernel)),
        )

    return jax.jit(run)(x, kernel)


def test_a_convolution_is_differentiated_in_all_ways():
    x, kernel, _ = inputs((2, 4, 4, 3), 2)
    assert_agree(all_ways(convolved, x, kernel), all_ways(plain, x, kernel))


def test_a_linear_layer_is_differentiated_in_all_ways():
    x, kernel, _ = inputs((4, 1, 1, 3), 2)
    x, kernel = x[:, 0, 0], kernel[0, 0]

    def linear(x, kernel):
        return products.linear.bind(jnp.atleast_2d(x), kernel)

    def dot(x, kernel):
        return jnp.atleast_2d(x) @ kernel

    assert_agree(all_ways(linear, x, kernel), all_ways(dot, x, kernel))


@pytest.mark.long
def test_the_network_is_the_same_either_way(monkeypatch):
    """The program for the CPU contains loops; the plain programs do not."""
    monkeypatch.setattr(processor, "has_wide_vectors", lambda: False)
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


@pytest.mark.parametrize(
    ("wide", "channels", "size", "loops"),
    [
        (False, 16, 16, (True, True)),
        (True, 16, 16, (False, False)),
        (True, 32, 16, (False, False)),
        (True, 32, 32, (False, True)),  # products
        (True, 64, 16, (False, True)),  # Winograd
        (True, 64, 8, (False, False)),
    ],
)
def test_own_programs_are_where_they_gain(wide, channels, size, loops, monkeypatch):
    """With AVX-512, some kernel gradients alone have loops, and the values agree."""
    monkeypatch.setattr(processor, "has_wide_vectors", lambda: wide)
    x, kernel, y = inputs((2, size, size, channels), channels)

    def value(x, kernel):
        return convolved(x, kernel)

    def gradient(x, y):
        return convolution.kernel_gradient.bind(x, y)

    expected = [plain(x, kernel), convolution.plain_kernel_gradient(x, y)]
    for own, args, loop, exact in zip(
        (value, gradient), ((x, kernel), (x, y)), loops, expected, strict=True
    ):
        lowered = jax.jit(own).lower(*args)
        assert ("stablehlo.while" in lowered.as_text()) == loop
        assert_agree(lowered.compile()(*args), exact)


@pytest.mark.parametrize("case", CASES)
def test_what_gains_nothing_stays_plain(case):
    shape = {"odd": (1, 17, 16, 16), "few pixels": (1, 8, 8, 16)}.get(
        case,
        (1, 16, 16, {"few channels": 8, "many channels": 513}.get(case, 16)),
    )
    x, kernel, _ = inputs(shape, 16)
    dtype = jnp.bfloat16 if case == "bfloat16" else jnp.float32

    lowered = jax.jit(convolved).lower(x.astype(dtype), kernel.astype(dtype))
    assert "stablehlo.convolution" in lowered.as_text()
    assert "stablehlo.while" not in lowered.as_text()


@pytest.mark.parametrize(
    ("fast", "channels", "own"),
    [(True, 64, True), (True, 32, False), (False, 64, False)],
)
def test_products_are_for_a_cpu_that_has_them(fast, channels, own, monkeypatch):
    monkeypatch.setattr(processor, "multiplies_bfloat16", lambda: fast)
    x, kernel, _ = inputs((8, 16, 16, channels), channels)

    def run(x, kernel):
        return convolved(x, kernel)

    traced = jax.jit(run).trace(*(jnp.asarray(a, jnp.bfloat16) for a in (x, kernel)))
    assert ("stablehlo.convolution" not in traced.lower().as_text()) == own
    elsewhere = traced.lower(lowering_platforms=("tpu",))
    assert "stablehlo.convolution" in elsewhere.as_text()


@pytest.mark.parametrize("fast", [True, False])
def test_layers_in_bfloat16_use_the_products_of_the_cpu(fast, monkeypatch):
    monkeypatch.setattr(processor, "multiplies_bfloat16", lambda: fast)
    layer = products.Dense(4, dtype=jnp.bfloat16)
    x = jnp.ones((2, 3, 5), jnp.bfloat16)
    params = layer.init(jax.random.key(0), x)

    def run(params):
        return layer.apply(params, x)

    assert ("-> tensor<6x4xf32>" in jax.jit(run).lower(params).as_text()) == fast


@pytest.mark.parametrize(
    "options",
    [
        {"padding": "VALID"},
        {"padding": [(0, 2), (0, 2)]},
        {"strides": (2, 2)},
        {"lhs_dilation": (2, 2), "padding": [(1, 1), (1, 1)]},
        {"rhs_dilation": (2, 2)},
        {"feature_group_count": 2},
        {"batch_group_count": 2},
        {"dimension_numbers": ("NHWC", "OIHW", "NHWC")},
        {"precision": jax.lax.Precision.HIGHEST},
    ],
)
def test_other_convolutions_are_those_of_xla(options):
    x, kernel, _ = inputs((2, 16, 16, 16), 16)
    if options.get("feature_group_count"):
        kernel = kernel[:, :, :8]
    if options.get("dimension_numbers"):
        kernel = kernel.transpose(3, 2, 0, 1)
    assert "convolution_3x3" not in str(jax.make_jaxpr(
        lambda x, kernel: convolved(x, kernel, **options))(x, kernel))  # fmt: skip
    known = {"window_strides": (1, 1), "padding": "SAME"}
    known["dimension_numbers"] = convolution.NUMBERS
    if "strides" in options:
        options = {"window_strides": options["strides"]}
    expected = jax.lax.conv_general_dilated(x, kernel, **{**known, **options})
    options = {"strides": options.pop("window_strides", (1, 1)), **options}
    np.testing.assert_array_equal(convolved(x, kernel, **options), expected)
