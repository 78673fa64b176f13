"""Diffusion transformer: the paper's formulas and sizes, its conditions, its loop."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff import rng
from jaxdiff.denoisers.guidance import classifier_free_guidance
from jaxdiff.denoisers.network import bind, check_condition
from jaxdiff.errors import InputError
from jaxdiff.networks import DiTConfig
from jaxdiff.networks.dit import Block, fixed_positions
from jaxdiff.training.model import param_shapes
from jaxdiff.typing import Condition, Level

TINY = DiTConfig(width=16, depth=2, heads=2)
CLASSES, CHANNELS, TEXT = 5, 3, 6


def network_of(**changes):
    config = dataclasses.replace(TINY, **changes)
    return config.build(CHANNELS, CLASSES)


def random_params(network, seed=0, scale=0.3):
    """Returns random parameters: many begin at 0."""
    draw = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: (scale * draw.normal(size=leaf.shape)).astype(np.float32),
        param_shapes(network, (8, 8, CHANNELS), CLASSES),
    )


def inputs(batch=2, seed=1):
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(batch, 8, 8, CHANNELS)).astype(np.float32)
    return x, np.linspace(3, 801, batch).astype(np.float32)


def applied(network, params, *inputs):
    return np.asarray(jax.jit(network.apply)({"params": params}, *inputs))


@pytest.mark.parametrize(
    ("size", "count", "millions"),
    [
        ("S", 32_865_056, 32.87), ("B", 130_315_808, 130.3), ("L", 457_840_672, 457.8),
        ("XL", 674_834_720, 674.83),
    ],
)  # fmt: skip
def test_parameters_are_the_papers(size, count, millions):
    """DiT on latents of 32x32x4 with 1000 classes and a learned variance."""
    network = DiTConfig(size=size).build(8, 1000, 4)
    shapes = param_shapes(network, (32, 32, 4), 1000)
    width, depth, _ = network.config.sizes
    block = 18 * width**2 + 15 * width  # adaLN 6, attention 4, MLP 8 times width^2
    ends = (16 + 1) * width + (256 + 1) * width + (width + 1) * width + 1001 * width
    ends += 2 * (width + 1) * width + (width + 1) * 32
    found = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    assert found == depth * block + ends == count
    assert round(count / 1e6, 2) == pytest.approx(millions, abs=0.05)


def norm(x, epsilon):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon)


def by_formula(params, x, t, labels, heads, patch=2):
    """Returns the output by the paper's formulas, in float64."""
    p: Any = jax.tree.map(np.float64, params)

    def dense(part, x):
        return x @ part["kernel"] + part["bias"]

    def silu(x):
        return x / (1 + np.exp(-x))

    def gelu(x):
        return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))

    def sinusoids(places, features, order):
        f = 10_000.0 ** (-np.arange(features // 2) / (features // 2))
        angles = np.multiply.outer(places, f)
        return np.concatenate([np.sin(angles), np.cos(angles)][::order], axis=-1)

    c = dense(p["time_2"], silu(dense(p["time_1"], sinusoids(t, 256, -1))))
    c = silu(c + p["label"]["embedding"][labels])
    batch, height, width, channels = x.shape
    rows, columns = height // patch, width // patch
    tokens = np.empty((batch, rows * columns, patch * patch * channels))
    for i in range(rows):
        for j in range(columns):
            square = x[:, patch * i : patch * (i + 1), patch * j : patch * (j + 1)]
            tokens[:, i * columns + j] = square.reshape(batch, -1)
    kernel = p["pos_embed.proj"]["kernel"]
    features = kernel.shape[-1]
    h = tokens @ kernel.reshape(-1, features) + p["pos_embed.proj"]["bias"]
    row, column = np.divmod(np.arange(rows * columns), columns)
    parts = [sinusoids(place, features // 2, 1) for place in (column, row)]
    h = h + np.concatenate(parts, axis=-1)
    blocks = p["transformer_blocks"]
    for number in range(len(blocks["norm1.linear"]["bias"])):
        one = jax.tree.map(lambda a, n=number: a[n], blocks)
        moved = np.split(dense(one["norm1.linear"], c)[:, None], 6, axis=-1)
        b_1, s_1, g_1, b_2, s_2, g_2 = moved
        y = (1 + s_1) * norm(h, 1e-6) + b_1
        split = (batch, -1, heads, features // heads)
        q, k, v = (
            dense(one["attn1"][f"to_{n}"], y).reshape(split).swapaxes(1, 2)
            for n in "qkv"
        )
        products = q @ k.swapaxes(2, 3) / np.sqrt(features // heads)
        weights = np.exp(products - products.max(-1, keepdims=True))
        y = (weights / weights.sum(-1, keepdims=True)) @ v
        y = y.swapaxes(1, 2).reshape(h.shape)
        h = h + g_1 * dense(one["attn1"]["to_out.0"], y)
        y = (1 + s_2) * norm(h, 1e-6) + b_2
        h = h + g_2 * dense(one["ff.net.2"], gelu(dense(one["ff.net.0.proj"], y)))
    b, s = np.split(dense(p["proj_out_1"], c)[:, None], 2, axis=-1)
    h = dense(p["proj_out_2"], (1 + s) * norm(h, 1e-6) + b)
    found = np.empty((*x.shape[:3], h.shape[-1] // patch**2))
    for n in range(rows * columns):
        i, j = patch * (n // columns), patch * (n % columns)
        square = h[:, n].reshape(batch, patch, patch, -1)
        found[:, i : i + patch, j : j + patch] = square
    return found


def test_the_network_is_the_papers():
    """The time's sinusoids have shift 0, and all norms epsilon 1e-6, as in DiT."""
    network = network_of(heads=4)
    params, (x, _) = random_params(network, scale=0.2), inputs()
    t, labels = np.array([3.0, 40.0], np.float32), np.array([1, CLASSES])
    found = applied(network, params, x, t, labels)
    expected = by_formula(params, x, t, labels, heads=4)
    assert np.ptp(expected) > 0.1
    assert abs(found - expected).max() < 5e-6 * abs(expected).max()


def test_diffusers_numerics_differ_by_two_numbers():
    """Another shift of the sinusoids, and another epsilon before the MLP."""
    network, (x, t) = network_of(), inputs()
    params = random_params(network)
    shifted = dataclasses.replace(TINY.embedding, shift=1.0)
    original = applied(network, params, x, t)
    for changes in ({"embedding": shifted}, {"mlp_epsilon": 0.5}):
        other = applied(network_of(**changes), params, x, t)
        assert abs(other - original).max() > 2e-4 * abs(original).max()


def test_the_network_begins_as_zero_and_its_blocks_as_the_identity():
    network = network_of(text_channels=TEXT)
    draw = np.random.default_rng(0)
    given, (x, t) = Condition(text=conditions().text), inputs()
    tokens, text, embedding = (
        draw.normal(size=shape).astype(np.float32)
        for shape in ((2, 9, 16), (2, 4, 16), (2, 16))
    )

    @jax.jit
    def run():
        params = network.init(jax.random.key(0), x, t, given)["params"]
        first = jax.tree.map(lambda a: a[0], params["transformer_blocks"])
        after, _ = Block(network.config).apply(
            {"params": first}, tokens, 0, embedding, text, None, None
        )
        return params, network.apply({"params": params}, x, t, given), after

    params, output, after = run()
    np.testing.assert_array_equal(output, 0)
    np.testing.assert_array_equal(after, tokens)
    blocks = params["transformer_blocks"]
    for name in ("attn1", "ff.net.0.proj"):  # each block has numbers of its own
        kernel = jax.tree.leaves(blocks[name])[-1]
        assert np.abs(kernel[0] - kernel[1]).max() > 0.01
    assert 0.01 < np.std(params["label"]["embedding"]) < 0.04


def equations(jaxpr):
    """Returns the number of equations of a program, with those of its loops' bodies."""
    total = 0
    for equation in jaxpr.eqns:
        inner = jax.tree.leaves(
            list(equation.params.values()),
            is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr"),
        )
        programs = [getattr(x, "jaxpr", x) for x in inner]
        total += 1 + sum(equations(p) for p in programs if hasattr(p, "eqns"))
    return total


def test_a_program_does_not_grow_with_the_depth():
    x, t = inputs()

    def sizes(depth, **changes):
        network = network_of(depth=depth, **changes)
        shapes = param_shapes(network, (8, 8, CHANNELS), CLASSES)

        def loss(params):
            return (network.apply({"params": params}, x, t) ** 2).sum()

        program = jax.jit(jax.grad(loss))
        jaxpr = jax.make_jaxpr(program)(shapes)
        return equations(jaxpr.jaxpr), len(program.lower(shapes).as_text())

    few, many = sizes(2), sizes(40)
    assert few[0] == many[0] > 100
    assert many[1] < 1.02 * few[1]  # numbers of more digits
    assert sizes(8, scan=False)[1] > 1.5 * few[1]


@pytest.mark.parametrize(
    "changes",
    [
        {"scan": False},
        {"remat": "none"},
        pytest.param({"remat": "blocks"}, marks=pytest.mark.long),
    ],
    ids=str,
)
def test_unrolling_and_recomputing_change_nothing(changes):
    x, t = inputs()
    params = random_params(network_of())

    def results(**changes):
        network = network_of(**changes)

        def loss(params):
            output = network.apply({"params": params}, x, t, np.array([0, 3]))
            return (output**2).mean()

        return jax.tree.leaves(jax.jit(jax.value_and_grad(loss))(params))

    expected = results()
    assert all(np.isfinite(a).all() for a in expected)
    for ours, known in zip(results(**changes), expected, strict=True):
        assert abs(ours - known).max() <= 2e-5 * abs(known).max()


def test_recomputing_saves_memory_on_the_cpu_too():
    x, t = inputs(64)

    def memory(remat):
        network = network_of(depth=12, remat=remat)
        shapes = param_shapes(network, x.shape[1:], CLASSES)

        def loss(params):
            return (network.apply({"params": params}, x, t) ** 2).sum()

        compiled = jax.jit(jax.grad(loss)).lower(shapes).compile()
        analysis: Any = compiled.memory_analysis()
        return analysis.temp_size_in_bytes

    kept = {remat: memory(remat) for remat in ("none", "cheap", "blocks")}
    assert kept["blocks"] < 0.7 * kept["cheap"] < 0.5 * kept["none"], kept


def test_blocks_drop_by_keys_of_their_own():
    network, (x, t) = network_of(dropout=0.5, label_dropout=0.0), inputs(4)
    params = random_params(network)
    keys = rng.example_keys(rng.key(0), jnp.arange(4))
    labels = np.arange(4)

    def run(keys):
        return applied(network, params, x, t, labels, keys)

    plain, dropped = run(None), run(keys)
    assert abs(dropped - plain).max() > 0.1
    np.testing.assert_array_equal(run(keys), dropped)
    rows = applied(network, params, x[1:2], t[1:2], labels[1:2], keys[1:2])
    np.testing.assert_allclose(rows, dropped[1:2], rtol=0, atol=1e-5)
    one = jax.tree.map(lambda a: a[0], params["transformer_blocks"])
    block, tokens = Block(network.config), jnp.ones((4, 3, 16))

    @jax.jit
    def after(index):
        vector = jnp.ones((4, 16))
        return block.apply({"params": one}, tokens, index, vector, None, None, keys)

    first, second = (np.asarray(after(index)[0]) for index in (0, 1))
    assert abs(first - second).max() > 0.1


def test_classes():
    network, (x, t) = network_of(), inputs()
    params = random_params(network)

    def run(labels):
        return applied(network, params, x, t, labels)

    one, two = run(np.array([1, 1])), run(np.array([2, 1]))
    assert abs(one - two)[0].max() > 0.01
    np.testing.assert_array_equal(one[1], two[1])
    null = run(np.full(2, CLASSES))
    np.testing.assert_allclose(run(None), null, rtol=0, atol=1e-6)
    shares = np.eye(CLASSES, dtype=np.float32)[[1, 1]]
    np.testing.assert_allclose(run(shares), one, rtol=0, atol=1e-5)
    everything = network_of(label_dropout=0.999)
    keys = rng.example_keys(rng.key(0), jnp.arange(2))
    hidden = applied(everything, params, x, t, np.array([1, 2]), keys)
    np.testing.assert_allclose(hidden, null, rtol=0, atol=1e-6)


def conditions(seed=2, tokens=6):
    draw = np.random.default_rng(seed)
    return Condition(
        text=draw.normal(size=(2, tokens, TEXT)).astype(np.float32),
        mask=np.arange(tokens) < np.array([[4], [tokens]]),
        vector=draw.normal(size=(2, 3)).astype(np.float32),
        image=draw.normal(size=(2, 8, 8, 2)).astype(np.float32),
    )


@pytest.mark.parametrize(
    "by", ["cross-attention", pytest.param("in-context", marks=pytest.mark.long)]
)
def test_texts_vectors_and_images(by):
    config = dataclasses.replace(
        TINY, text_channels=TEXT, text_by=by, vector_channels=3, condition_channels=2,
        qk_norm=True, text_dropout=0.999,
    )  # fmt: skip
    network: Any = config.build(CHANNELS)
    assert network.takes == ("text", "vector", "image", "mask")
    assert network.needs == ("text", "vector", "image")
    network.check_null_class()
    params = jax.tree.map(
        lambda a: np.random.default_rng(a.size).normal(size=a.shape) * np.float32(0.3),
        param_shapes(network, (8, 8, CHANNELS), None),
    )
    params = jax.tree.map(np.float32, params)
    given, (x, t) = conditions(), inputs()
    run = jax.jit(network.apply)

    def output(keys=None, **changes):
        found = run({"params": params}, x, t, given._replace(**changes), keys)
        return np.asarray(found)

    expected = output()
    for name in ("text", "vector", "image"):
        changed = getattr(given, name).copy()
        changed[0, 0] += 1.0
        other = output(**{name: changed})
        assert abs(other - expected)[0].max() > 1e-3, name
        np.testing.assert_allclose(other[1], expected[1], rtol=0, atol=1e-5)
    padded = given.text.copy()
    padded[0, 4:] = 7.0
    np.testing.assert_allclose(output(text=padded), expected, rtol=0, atol=1e-5)
    shuffled = output(text=given.text[:, ::-1], mask=given.mask[:, ::-1])
    np.testing.assert_allclose(shuffled, expected, rtol=0, atol=1e-4)

    none = jd.conditions.hidden(given)
    hidden = output(text=none.text, mask=none.mask, vector=none.vector)
    keys = rng.example_keys(rng.key(0), jnp.arange(2))
    dropped = output(keys)
    np.testing.assert_allclose(dropped, hidden, rtol=0, atol=1e-5)
    assert abs(dropped - expected).max() > 0.01

    level = Level(jnp.float32(300), jnp.float32(0.8), jnp.float32(0.6))
    denoiser = bind(network, params, given)
    guided = jax.jit(classifier_free_guidance(denoiser, 3.0))(x, level)
    at = jax.jit(lambda denoiser: denoiser(x, level).eps)
    one, two = at(denoiser), at(bind(network, params, none._replace(image=given.image)))
    np.testing.assert_allclose(guided.eps, two + 3 * (one - two), rtol=0, atol=1e-4)

    def refused(match, **changes):
        condition = given._replace(**changes)

        def call():
            check_condition(condition, network)
            jax.eval_shape(network.apply, {"params": params}, x, t, condition)

        with pytest.raises(InputError, match=match):
            call()

    refused("text must be given to this network, got None", text=None, mask=None)
    refused(r"text must be \[batch, tokens, 6\], got", text=np.zeros((2, 6, 5)))
    refused(r"vector must be \[batch, 3\], got", vector=np.zeros((2, 4)))
    refused("image must have shape", image=np.zeros((2, 8, 8, 3)))
    refused("labels must be None", labels=np.array([0, 1]))


def test_learned_positions_are_for_one_size():
    network, (x, t) = network_of(positions="learned"), inputs()
    params = random_params(network)
    assert params["positions"].shape == (4, 4, 16)
    expected = applied(network, params, x, t)
    moved = {**params, "positions": np.roll(params["positions"], 1, 0)}
    assert abs(applied(network, moved, x, t) - expected).max() > 0.01
    with pytest.raises(InputError, match="size 8x8 of the learned positions, got 8x4"):
        applied(network, params, x[:, :, :4], t)


def test_fixed_positions_span_the_range_of_training():
    """At half the size every position is one of those at the whole size."""
    found = fixed_positions(2, 3, 16, (4, 6))
    whole = fixed_positions(4, 6, 16, (4, 6))
    np.testing.assert_array_equal(found, whole[::2, ::2])
    np.testing.assert_allclose(whole[1, 2, :2], np.sin([2, 0.2]), atol=1e-6)
    np.testing.assert_allclose(whole[1, 2, 12:14], np.cos([1, 0.1]), atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"width": 16, "heads": 3}, "heads must divide the width 16, got 3"),
        ({"width": 6, "heads": 1}, "width must be a multiple of 4, got 6"),
        ({"size": "H"}, "size must be"),
        ({"sample_size": (8,)}, "sample_size must be height and width"),
        ({"sample_size": (8, 7)}, "image width must be a multiple of 2, the side of a"),
        ({"attention_by": "cudnn"}, "attention_by must be xla or chunked with dtype"),
        ({"null_class": False}, "label_dropout must be 0 if null_class is off"),
    ],
)
def test_options_that_do_not_fit(changes, match):
    with pytest.raises(InputError, match=match):
        DiTConfig(**changes)


def test_an_image_must_have_whole_patches():
    with pytest.raises(InputError, match="image height must be a multiple of 2"):
        network_of().config.check_image_shape(7, 8)


@pytest.mark.long
@pytest.mark.usefixtures("standard_promotion")
def test_half_precision():
    x, t = inputs()
    params = random_params(network_of(qk_norm=True))
    expected = applied(network_of(qk_norm=True), params, x, t)
    for dtype in ("bfloat16", "float16"):
        network = network_of(qk_norm=True, dtype=dtype)
        found = applied(network, params, x, t)
        assert found.dtype == np.float32
        assert abs(found - expected).max() < 0.05 * abs(expected).max()


@pytest.mark.long
@pytest.mark.usefixtures("standard_promotion")
def test_sit_learns_the_velocity_of_a_straight_path():
    """SiT (Ma et al. 2024) is the same network. Each class is one grey."""
    greys = np.array([32, 224], np.uint8)
    labels = np.arange(64) % 2
    pixels = np.broadcast_to(greys[labels][:, None, None, None], (64, 8, 8, 1))
    data = jd.data.from_arrays(pixels, labels)
    network = dataclasses.replace(TINY, depth=1, label_dropout=0.0).build(1, 2)
    schedule = jd.schedules.RectifiedFlow().build()
    prediction = jd.predictions.Velocity()
    model = jd.Model(network, schedule, prediction, (8, 8, 1), num_classes=2)
    losses = []
    state = jd.fit(
        model, data.batches(32), 250, progress=False, ema_decay=0.9,
        on_step=lambda step, metrics: losses.append(float(metrics["loss"])),
    )  # fmt: skip
    assert np.mean(losses[-20:]) < 0.3 * np.mean(losses[:5])
    drawn = jd.sample(
        model.denoiser(state.ema, np.arange(8) % 2), jd.samplers.FlowEuler(), schedule,
        jax.random.key(0), (8, 8, 8, 1),
    )  # fmt: skip
    means = np.asarray(drawn).reshape(4, 2, -1).mean((0, 2))
    np.testing.assert_allclose(means, greys / 127.5 - 1, atol=0.15)
