"""EDM2's U-Net: the paper's sizes and formulas, magnitudes, normalised weights."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxdiff as jd
from jaxdiff import rng
from jaxdiff.errors import InputError
from jaxdiff.networks import EDM2Config, edm2_layers
from jaxdiff.networks.edm2_layers import MPConv, MPFourier
from jaxdiff.training.model import param_shapes

TINY = EDM2Config(channels=16, multipliers=(1, 2), blocks=1, head_channels=16)


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def magnitude(x):
    return float(np.sqrt(np.mean(np.float64(x) ** 2)))


def random_params(network, shape, classes, gain=0.0):
    """Returns Gaussian weights; gains are 0 at the beginning of training."""
    generator = np.random.default_rng(0)

    def drawn(path, leaf):
        if path[-1].key == "gain":
            return np.float32(gain)
        return np.float32(generator.normal(size=leaf.shape))

    return jax.tree.map_with_path(drawn, param_shapes(network, shape, classes))


@pytest.mark.parametrize(
    ("size", "millions"),
    [
        ("S", 280.2),
        *(
            pytest.param(size, millions, marks=pytest.mark.long)
            for size, millions in (
                ("XS", 124.7), ("M", 497.8), ("L", 777.5), ("XL", 1119.3),
                ("XXL", 1523.2),
            )
        ),
    ],
)  # fmt: skip
def test_parameters_are_the_papers(size, millions):
    """Karras et al. 2024, table 6: latents of 64x64x4, 1000 classes, no null class."""
    network = EDM2Config(size=size, null_class=False, label_dropout=0.0).build(4, 1000)
    shapes = param_shapes(network, (64, 64, 4), 1000)
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    assert round(count / 1e6, 1) == millions


def test_layers_are_the_papers():
    a, b = draw(4, 1000, 6), draw(4, 1000, 10, seed=1)
    silu = a / (1 + np.exp(-a))
    np.testing.assert_allclose(edm2_layers.mp_silu(a), silu / 0.596, rtol=1e-5)
    assert magnitude(edm2_layers.mp_silu(b)) == pytest.approx(1, abs=0.01)
    other = draw(*a.shape, seed=2)
    for t in (0.0, 0.3, 0.5, 1.0):
        found = edm2_layers.mp_sum(a, other, t)
        expected = ((1 - t) * a + t * other) / np.sqrt((1 - t) ** 2 + t**2)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
        assert magnitude(found) == pytest.approx(1, abs=0.02)
        joined = edm2_layers.mp_join(a, b, t)
        assert magnitude(joined) == pytest.approx(1, abs=0.02)
        # The share t of the second part's contribution, whatever the channels.
        first, second = (np.sqrt((x**2).sum()) for x in np.split(joined, [6], -1))
        assert second / (first + second) == pytest.approx(t, abs=0.01)
    normed = edm2_layers.pixel_norm(7 * a)
    np.testing.assert_allclose((np.float64(normed) ** 2).mean(-1), 1, rtol=1e-3)
    np.testing.assert_allclose(normed * magnitude(a[0, 0]), a * 1, atol=30)


def test_fourier_features_have_unit_magnitude():
    layer: Any = MPFourier(2000)
    x = np.array([-1.5, 0.0, 1.1], np.float32)
    variables = layer.init(jax.random.key(0), x)
    found = layer.apply(variables, x)
    p: Any = variables["params"]
    turns = np.outer(x, p["frequencies"]) + p["phases"][None]
    expected = np.sqrt(2) * np.cos(2 * np.pi * turns)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    for row in np.asarray(found):
        assert magnitude(row) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("size", [None, 3])
def test_weights_have_unit_norm_whatever_is_stored(size):
    layer: Any = MPConv(5, size, jnp.float32)
    x = draw(2, 4, 4, 8)
    kernel = draw(*(() if size is None else (3, 3)), 8, 5, seed=3)
    found, scaled = (
        layer.apply({"params": {"kernel": factor * kernel}}, x) for factor in (1, 9)
    )
    np.testing.assert_allclose(found, scaled, rtol=1e-3, atol=1e-3)
    norms = np.sqrt((kernel**2).sum(axis=tuple(range(kernel.ndim - 1))))
    unit = kernel / norms
    if size is None:
        np.testing.assert_allclose(found, x @ unit, atol=1e-3)
    else:
        inner = np.einsum("bijc,ijco->bo", x[:, :3, :3], unit)
        np.testing.assert_allclose(found[:, 1, 1], inner, atol=1e-3)


def test_magnitudes_are_kept_from_the_first_step():
    """The magnitude of every block's result is 1, at the beginning of training.

    It is a little less where the kernels meet the zeros around the image, and after
    attention, which averages.
    """
    network = dataclasses.replace(TINY, channels=32, attention=()).build(3, 10)
    x, t = draw(8, 32, 32, 3), np.linspace(-1500, 1000, 8).astype(np.float32)
    labels = np.arange(8)
    params = random_params(network, (32, 32, 3), 10)

    @jax.jit
    def run(params):
        return network.apply(
            {"params": params}, x, t, labels, capture_intermediates=True
        )

    output, state = run(params)
    np.testing.assert_array_equal(output, 0)
    seen = state["intermediates"]
    blocks = [name for name in seen if name.startswith(("down", "middle", "up"))]
    assert len(blocks) == 10
    for name in ("conv_in", *blocks):
        (found,) = seen[name]["__call__"]
        close = 0.15 if name.startswith(("middle", "up")) else 0.08
        assert magnitude(found) == pytest.approx(1, abs=close), name
    params["conv_out"]["gain"] = np.float32(1)
    assert magnitude(run(params)[0]) == pytest.approx(1, abs=0.1)


@pytest.mark.long
@pytest.mark.usefixtures("standard_promotion")
def test_training_normalises_the_weights_after_each_step():
    greys = np.array([32, 224], np.uint8)
    labels = np.arange(64) % 2
    pixels = np.broadcast_to(greys[labels][:, None, None, None], (64, 8, 8, 1))
    data = jd.data.from_arrays(pixels, labels)
    network = dataclasses.replace(TINY, multipliers=(1,)).build(1, 2)
    model = jd.Model(
        network, jd.schedules.VE().build(), jd.predictions.EDM(), (8, 8, 1),
        num_classes=2,
    )  # fmt: skip
    losses = []
    state = jd.fit(
        model, data.batches(16), 40, progress=False, optimizer=optax.adam(0.01),
        on_step=lambda step, metrics: losses.append(float(metrics["loss"])),
    )  # fmt: skip
    assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:5])
    kernels = 0
    for path, leaf in jax.tree.leaves_with_path(state.params):
        if path[-1].key == "kernel":
            rows = (np.float64(leaf) ** 2).mean(axis=tuple(range(leaf.ndim - 1)))
            np.testing.assert_allclose(rows, 1, rtol=1e-3)
            kernels += 1
    assert kernels > 15
    gain: Any = state.params["conv_out"]["gain"]
    assert gain != 0


@pytest.mark.long
def test_classes_and_dropout():
    network: Any = dataclasses.replace(TINY, dropout=0.5).build(1, 4)
    assert network.takes == ("labels",)
    x, t = draw(2, 8, 8, 1), np.array([-900.0, 400.0], np.float32)
    params = random_params(network, (8, 8, 1), 4, gain=1.0)

    @jax.jit
    def run(labels, keys=None):
        return network.apply({"params": params}, x, t, labels, keys)

    one, two = run(np.array([1, 1])), run(np.array([2, 1]))
    assert np.abs(one - two)[0].max() > 0.01
    np.testing.assert_array_equal(one[1], two[1])
    shares = np.eye(4, dtype=np.float32)[[1, 1]]
    np.testing.assert_allclose(run(shares), one, atol=1e-5)
    np.testing.assert_allclose(run(None), run(np.array([4, 4])), atol=1e-6)
    keys = rng.example_keys(rng.key(0), jnp.arange(2))
    assert np.abs(run(np.array([1, 1]), keys) - one).max() > 0.01


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"channels": 24}, "head_channels must divide the channels 24, got 16"),
        ({"multipliers": ()}, "multipliers must have 1 to 20 levels, got 0"),
        ({"block_balance": 2.0}, "block_balance must lie in"),
    ],
)
def test_options_that_do_not_fit(changes, match):
    with pytest.raises(InputError, match=match):
        dataclasses.replace(TINY, **changes)


def test_an_image_must_fit_the_levels():
    with pytest.raises(InputError, match="image width must be a multiple of 2 for 2"):
        TINY.check_image_shape(8, 7)
