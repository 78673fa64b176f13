"""U-Net: DDPM's sizes, the conditioning, and randomness per example."""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.networks import CrossAttentionUNetConfig, layers, time_embedding
from jaxdiff.training.model import param_shapes


def init_above_zero(network, x, t):
    """Returns initial parameters plus 0.1, as the last layers start at zero."""

    @jax.jit
    def init():
        params = network.init(jax.random.key(0), x, t)["params"]
        return jax.tree.map(lambda a: a + 0.1, params)

    return init()


@pytest.mark.parametrize(
    ("multipliers", "size", "count"),
    [((1, 2, 2, 2), 32, 35_746_307), ((1, 1, 2, 2, 4, 4), 256, 113_673_219)],
)
def test_parameters_are_ddpms(multipliers, size, count):
    network = jd.UNetConfig(multipliers=multipliers).build(out_channels=3)
    shapes = param_shapes(network, (size, size, 3), None)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == count
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(shapes))


def test_timestep_embedding_is_ddpms():
    t, features = np.array([0, 1, 999]), 8
    frequencies = np.exp(-np.log(10_000) * np.arange(4) / 3)
    angles = t[:, None] * frequencies
    expected = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    got = time_embedding.timestep_embedding(jnp.asarray(t), features)
    np.testing.assert_allclose(got, expected, atol=1e-4)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_patches_are_squares_of_the_image(size):
    x = np.arange(2 * 6 * 12 * 3).reshape(2, 6, 12, 3)
    patches = layers.to_patches(jnp.asarray(x), size)
    assert patches.shape == (2, 6 // size, 12 // size, 3 * size**2)
    first = x[1, :size, size : 2 * size]
    np.testing.assert_array_equal(patches[1, 0, 1], first.ravel())
    np.testing.assert_array_equal(layers.from_patches(patches, size), x)


ON_PATCHES: dict[str, Any] = {
    "UNet": jd.UNetConfig(
        channels=4, multipliers=(1, 2), blocks=1, attention=(), groups=2, dropout=0.0
    ),
    "CrossAttentionUNet": CrossAttentionUNetConfig(
        widths=(4, 8), blocks=(1, 1), heads=(1, 1), layers=(1, 1), groups=2,
        down=("plain", "blocks"), up=("plain", "blocks"), middle="block",
        text_only=(False, False), text_channels=None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("config", ON_PATCHES.values(), ids=ON_PATCHES)
def test_a_network_on_patches(config):
    """Patches equal an image of a quarter of the size with 4 x the channels."""
    x, t = jax.random.normal(jax.random.key(0), (2, 8, 4, 1)), jnp.array([3, 500])
    patched = dataclasses.replace(config, patch=2).build(out_channels=1)

    params = {"params": init_above_zero(patched, x, t)}
    plain = config.build(out_channels=4)
    expected: Any = jax.jit(plain.apply)(params, layers.to_patches(x, 2), t)
    got: Any = jax.jit(patched.apply)(params, x, t)
    assert np.ptp(got) > 0.01
    np.testing.assert_allclose(got, layers.from_patches(expected, 2), rtol=1e-6)
    with pytest.raises(jd.InputError, match="multiple of 4 for 2 levels of patches"):
        jax.eval_shape(patched.init, jax.random.key(0), jnp.zeros((1, 6, 8, 1)), t[:1])


def test_starts_at_zero(tiny):
    """The last convolution starts at zero, so the initial output is zero."""
    network, _ = tiny
    images, t = jnp.ones((2, 8, 8, 1)), jnp.zeros(2, jnp.int32)
    params = jax.jit(network.init)(jax.random.key(0), images, t)
    np.testing.assert_array_equal(jax.jit(network.apply)(params, images, t), 0)


@pytest.fixture(scope="module")
def apply(tiny):
    network, params = tiny

    @jax.jit
    def apply(x, t, labels=None, keys=None):
        return network.apply({"params": params}, x, t, labels, keys)

    return apply


def test_examples_do_not_mix_and_time_and_class_matter(apply):
    x = jax.random.normal(jax.random.key(0), (3, 8, 8, 1))
    t, labels = jnp.array([3, 500, 999]), jnp.array([0, 4, 9])
    out = apply(x, t, labels)
    assert (out.shape, out.dtype) == (x.shape, jnp.float32)
    other = apply(x.at[0].set(0.0), t, labels)
    np.testing.assert_allclose(other[1:], out[1:], rtol=1e-4, atol=1e-5)
    assert not np.allclose(other[0], out[0])
    assert not np.allclose(apply(x, t.at[0].set(900), labels)[0], out[0], atol=1e-3)
    assert not np.allclose(apply(x, t, labels.at[0].set(1))[0], out[0], atol=1e-3)


def test_no_labels_are_the_null_class(apply):
    x, t = jnp.ones((2, 8, 8, 1)), jnp.array([3, 500])
    null = apply(x, t, jnp.array([10, 10]))
    np.testing.assert_allclose(apply(x, t), null, rtol=1e-5, atol=1e-6)


def test_dropout_and_label_dropout_are_per_example(apply):
    x = jnp.ones((4, 8, 8, 1))
    t, labels = jnp.full(4, 9), jnp.full(4, 3)
    keys = jax.random.split(jax.random.key(0), 4)
    out = apply(x, t, labels, keys)
    assert not np.allclose(out[0], out[1])  # equal inputs, different keys
    swapped = apply(x, t, labels, keys[::-1])
    np.testing.assert_allclose(swapped, out[::-1], rtol=1e-4, atol=1e-5)


def test_every_block_drops_by_keys_of_its_own(monkeypatch):
    seen = []

    def note(x, rate, keys):
        if keys is not None:  # the initialisation has no keys
            seen.append(np.asarray(jax.random.key_data(keys)))
        return x

    monkeypatch.setattr(layers, "dropout", note)
    config = jd.UNetConfig(channels=4, multipliers=(1,), blocks=1, attention=())
    network, t = config.build(out_channels=1), jnp.zeros(2, jnp.int32)
    x, keys = jnp.zeros((2, 8, 8, 1)), jax.random.split(jax.random.key(0), 2)
    variables = jax.eval_shape(network.init, jax.random.key(0), x, t)
    network.apply(jax.tree.map(jnp.zeros_like, variables), x, t, None, keys)
    assert len(seen) == 5  # one on the way down, two in the middle, two up
    assert len(np.unique(np.concatenate(seen), axis=0)) == 5 * 2


def test_a_block_starts_as_what_it_is_given():
    """The last layer of a block starts at zero, as in the code of Ho et al. 2020."""
    x = jax.random.normal(jax.random.key(0), (2, 4, 4, 8))
    norm_of = partial(layers.Norm, 2, jnp.float32)
    block = layers.ResBlock(8, 0.0, norm_of, jnp.float32)
    attention = layers.Attention(heads=2, norm=norm_of, dtype=jnp.float32)
    for layer, inputs in ((block, (x, jnp.ones((2, 8)), None)), (attention, (x,))):
        out, _ = layer.init_with_output(jax.random.key(1), *inputs)
        np.testing.assert_array_equal(out, x)


def test_rates_of_dropout():
    keys = jax.random.split(jax.random.key(0), 4000)
    kept = layers.dropout(jnp.ones((4000, 10)), 0.3, keys)
    np.testing.assert_allclose(np.unique(kept), [0, 1 / 0.7], rtol=1e-6)
    assert abs(float(kept.mean()) - 1) < 4 * (0.3 / 0.7 / 40_000) ** 0.5
    dropped = layers.drop_labels(jnp.full(4000, 3), 0.2, 10, keys) == 10
    assert abs(float(dropped.mean()) - 0.2) < 4 * (0.16 / 4000) ** 0.5


def test_norm_fits_any_number_of_channels():
    for channels, groups in [(64, 32), (48, 24), (7, 1), (66, 22), (6, 3)]:
        norm: Any = layers.Norm(groups=32, dtype=jnp.float32)
        x = 5 + 3 * jax.random.normal(jax.random.key(0), (1, 6, 6, channels))
        y: Any = jax.jit(norm.init_with_output)(jax.random.key(0), x)[0]
        parts = y.reshape(36, groups, channels // groups)
        np.testing.assert_allclose(parts.mean(axis=(0, 2)), 0, atol=1e-4)
        np.testing.assert_allclose(parts.var(axis=(0, 2)), 1, atol=1e-3)


def test_attention_is_softmax_of_products():
    norm_of = partial(layers.Norm, 2, jnp.float32)
    layer = layers.Attention(heads=2, norm=norm_of, dtype=jnp.float32)
    x = jax.random.normal(jax.random.key(0), (1, 2, 3, 4))
    params = layer.init(jax.random.key(1), x)["params"]
    params["out"]["kernel"] = jnp.eye(4)
    out: Any = layer.apply({"params": params}, x)
    got = out - x
    norm: Any = layers.Norm(2, jnp.float32).apply({"params": params["norm"]}, x)
    q, k, v = (
        (norm.reshape(6, 4) @ params[n]["kernel"]).reshape(6, 2, 2)
        for n in ("query", "key", "value")
    )
    weights = jax.nn.softmax(jnp.einsum("qhd,khd->hqk", q, k) / 2**0.5)
    expected = jnp.einsum("hqk,khd->qhd", weights, v).reshape(1, 2, 3, 4)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.long
@pytest.mark.usefixtures("standard_promotion")  # Flax promotes bfloat16 statistics
def test_rematerialisation_and_bfloat16():
    config = jd.UNetConfig(channels=4, multipliers=(1,), blocks=1, attention=())
    network = config.build(1, 10)
    x, t = jnp.ones((2, 8, 8, 1)), jnp.array([3, 500])

    params = init_above_zero(network, x, t)
    keys = jax.random.split(jax.random.key(0), 2)

    def loss(params, network):
        out = network.apply({"params": params}, x, t, None, keys)
        assert out.dtype == jnp.float32
        return (out**2).mean()

    compiled = jax.jit(jax.value_and_grad(loss), static_argnums=1)
    value, gradient = compiled(params, network)
    same = lambda a, b: a.shape == b.shape and a.dtype == b.dtype  # noqa: E731

    def flat(tree):
        return np.concatenate([a.ravel() for a in jax.tree.leaves(tree)])

    gradient = flat(jax.device_get(gradient))
    changes: list[tuple[dict[str, Any], float]] = [
        ({"remat": "cheap"}, 1e-4),
        ({"remat": "blocks"}, 1e-4),
        ({"dtype": "bfloat16"}, 0.1),
    ]
    for change, tolerance in changes:
        changed = dataclasses.replace(config, **change).build(1, 10)
        shapes = param_shapes(changed, (8, 8, 1), 10)
        assert jax.tree.all(jax.tree.map(same, shapes, params))
        other, other_gradient = compiled(params, changed)
        np.testing.assert_allclose(other, value, rtol=tolerance)
        difference = flat(jax.device_get(other_gradient)) - gradient
        assert np.linalg.norm(difference) < tolerance * np.linalg.norm(gradient)


def test_rematerialisation_keeps_less_for_the_backward_pass(tiny):
    """The backward pass gets nearly all values, a few products, or blocks' inputs."""
    network, params = tiny
    x, t = jnp.ones((64, 8, 8, 1)), jnp.arange(64)
    keys = jax.random.split(jax.random.key(0), 64)

    def kept(remat):
        changed = dataclasses.replace(network.config, remat=remat).build(1, 10)

        def pull_back(params):
            run = lambda p: changed.apply({"params": p}, x, t, None, keys)  # noqa: E731
            return jax.vjp(run, params)[1]

        arrays = jax.tree.leaves(jax.eval_shape(pull_back, params))
        return sum(a.size * a.dtype.itemsize for a in arrays)

    assert kept("blocks") < 0.8 * kept("cheap") < 0.4 * kept("none")


def test_sizes_that_do_not_halve_name_the_nearest():
    network = jd.UNetConfig(channels=4, multipliers=(1, 1, 1)).build(1)
    images, t = jnp.zeros((1, 30, 28, 1)), jnp.zeros(1, jnp.int32)
    with pytest.raises(
        ValueError, match=r"height must be a multiple of 4.*got 30\. Use 28 or 32"
    ):
        network.init(jax.random.key(0), images, t)
    with pytest.raises(ValueError, match=r"width, 1\], got shape \(1, 28, 28, 3\)"):
        network.init(jax.random.key(0), jnp.zeros((1, 28, 28, 3)), t)


def test_images_that_are_not_square(apply):
    x, t = jnp.ones((1, 4, 12, 1)), jnp.zeros(1, jnp.int32)
    assert apply(x, t).shape == x.shape
