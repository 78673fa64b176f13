"""LoRA as functions of parameters; its names in files are in test_lora_files.py."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.adapters import (
    LoRA,
    LoRALayer,
    init_lora,
    merged,
    unmerged,
    with_lora,
)
from jaxdiff.errors import InputError
from jaxdiff.networks import CrossAttentionUNetConfig, DiTConfig
from jaxdiff.storage.read_state import by_name
from jaxdiff.training.model import param_shapes
from tests.helpers.compilations import compilations
from tests.helpers.components import random_params
from tests.helpers.lora import random_lora

NETWORK = CrossAttentionUNetConfig(
    widths=(4, 8), blocks=(1, 1), down=("transformer", "plain"), groups=2,
    up=("transformer", "plain"), heads=(2, 2), layers=(1, 1), text_channels=8,
    text_only=(False, False),
).build(4)  # fmt: skip
PARAMS = random_params(NETWORK, scale=0.5)
CONDITION = jd.Condition(text=np.ones((2, 3, 8), np.float32))
DENSE, CONV = "time_1/kernel", "conv_in/kernel"
SMALL: dict[str, Any] = {
    "time_1": {"kernel": np.ones((3, 2), np.float32), "bias": np.ones(2, np.float32)},
    "conv_in": {"kernel": np.ones((3, 3, 2, 4), np.float32)},
}


def bound():
    return jd.bind(NETWORK, PARAMS, CONDITION)


def test_merged_adds_the_scaled_product_and_unmerged_subtracts_it():
    lora = random_lora(SMALL)
    found = merged(SMALL, lora, 0.5)
    for name, axes in ((DENSE, 0), (CONV, 2)):
        layer = lora.layers[name]
        down, up = (np.asarray(x, np.float64) for x in (layer.down, layer.up))
        delta = 0.5 * float(layer.scale) * down @ up.reshape(up.shape[-2:])
        module, _ = name.split("/")
        assert np.abs(delta).max() > 0.01, axes
        np.testing.assert_allclose(
            found[module]["kernel"], 1 + delta, rtol=0, atol=1e-6
        )
    assert found["time_1"]["bias"] is SMALL["time_1"]["bias"]
    back = unmerged(found, lora, 0.5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), back, SMALL)


def test_a_convolution_of_the_factors_is_the_merged_convolution():
    lora = random_lora(SMALL, "conv_in")
    layer = lora.layers[CONV]
    x = jax.random.normal(jax.random.key(0), (1, 5, 5, 2))

    def convolved(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    narrow = convolved(x, layer.down)
    kernel = SMALL["conv_in"]["kernel"]
    expected = convolved(x, kernel) + layer.scale * narrow @ layer.up[0, 0]
    found = convolved(x, merged(SMALL, lora)["conv_in"]["kernel"])
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_kernels_keep_their_type_and_the_product_is_float32():
    half = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), SMALL)
    lora = random_lora(SMALL)
    found, exact = merged(half, lora), merged(SMALL, lora)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(exact), strict=True):
        assert a.dtype == jnp.bfloat16
        np.testing.assert_array_equal(a, jnp.asarray(b, jnp.bfloat16))


def test_a_new_adapter_of_attention_changes_nothing_yet():
    lora = init_lora(PARAMS, 64, key=jax.random.key(0))
    ends = {name.rpartition("/")[0].rpartition("/")[2] for name in lora.layers}
    assert ends == {"to_q", "to_k", "to_v", "to_out.0"}
    assert len(lora.layers) == 8 * 4  # four transformers with two attentions each
    layer = lora.layers["mid_block.attentions.0/transformer_blocks.0/attn2/to_k/kernel"]
    assert layer.down.shape == (8, 64)
    assert layer.up.shape == (64, 8)
    assert layer.rank == 64
    downs = np.concatenate([np.ravel(one.down) for one in lora.layers.values()])
    assert downs.std() == pytest.approx(1 / 64, rel=0.05)
    assert abs(downs.mean()) < 1e-3
    found = merged(PARAMS, lora, 3.0)
    jax.tree.map(np.testing.assert_array_equal, found, PARAMS)


def test_targets_and_alpha_are_chosen():
    lora = init_lora(
        PARAMS, 2, 3.0, key=jax.random.key(0), targets=(r"conv_\d", "proj_in")
    )
    ends = {name.rpartition("/")[0].rpartition("/")[2] for name in lora.layers}
    assert ends == {"conv_1", "conv_2", "proj_in"}
    layer = lora.layers["mid_block.resnets.0/conv_1/kernel"]
    assert (layer.down.shape, layer.up.shape) == ((3, 3, 8, 2), (1, 1, 2, 8))
    assert float(layer.scale) == 1.5


def test_stacked_kernels_have_an_adapter_for_each_block():
    """Each block of a DiT gets its own product; other numbers of blocks do not fit."""
    network = DiTConfig(width=8, depth=3, heads=2).build(3, 5)
    shapes = param_shapes(network, (8, 8, 3), 5)
    params = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), shapes)
    lora = init_lora(params, 2, key=jax.random.key(0))
    assert {name.rpartition("/attn1/")[2] for name in lora.layers} == {
        f"{name}/kernel" for name in ("to_q", "to_k", "to_v", "to_out.0")
    }
    name = "transformer_blocks/attn1/to_v/kernel"
    layer = lora.layers[name]
    assert (layer.down.shape, layer.up.shape) == ((3, 8, 2), (3, 2, 8))
    assert layer.kernel_shape == (3, 8, 8)

    up = np.random.default_rng(0).normal(size=(3, 2, 8)).astype(np.float32)
    layer = dataclasses.replace(layer, up=jnp.asarray(up))
    found = by_name(merged(params, LoRA({name: layer}), 0.5))[name]
    for block in range(3):
        delta = 0.5 * np.asarray(layer.down[block], np.float64) @ up[block]
        np.testing.assert_allclose(found[block], 1 + delta, rtol=0, atol=1e-6)

    fewer = dataclasses.replace(layer, up=layer.up[:1])
    with pytest.raises(InputError, match=r"to_v/kernel of the factors \[3, 8, 2\]"):
        merged(params, LoRA({name: fewer}))


def test_the_factors_take_gradients_and_alpha_takes_none():
    lora = random_lora(SMALL)

    def total(lora, scale):
        return sum(x.sum() for x in jax.tree.leaves(merged(SMALL, lora, scale)))

    found, by_scale = jax.grad(total, argnums=(0, 1))(lora, 0.5)
    for layer in found.layers.values():
        assert np.abs(layer.down).min() > 0
        assert np.abs(layer.up).min() > 0
        assert float(layer.scale) == 0
    slope = (total(lora, 1.0) - total(lora, 0.0)).item()
    assert float(by_scale) == pytest.approx(slope, rel=1e-4)


def test_adapters_compose_on_a_guided_denoiser():
    first, second = random_lora(PARAMS, "to_", 1), random_lora(PARAMS, "conv|ff", 2)
    guided = jd.classifier_free_guidance(
        bound(), 2.0, base=jd.Condition(text=-CONDITION.text)
    )
    found = with_lora(with_lora(jd.clip_x0(guided), first, 0.7), second, -0.4)
    params = merged(merged(PARAMS, first, 0.7), second, -0.4)
    expected = jd.clip_x0(
        jd.classifier_free_guidance(
            jd.bind(NETWORK, params, CONDITION), 2.0,
            base=jd.Condition(text=-CONDITION.text),
        )
    )  # fmt: skip
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b)
    assert str(jax.tree.structure(found)) == str(jax.tree.structure(expected))


def test_two_networks_with_the_same_parameters_share_the_merged_ones():
    weak = jd.guidance.autoguidance(bound(), bound(), 2.0)
    found = with_lora(weak, random_lora(PARAMS, "to_q"))
    parts = jd.denoisers.network.networks_of(found)
    assert len(parts) == 2
    assert parts[0].params is parts[1].params
    assert parts[0].params["conv_in"]["kernel"] is PARAMS["conv_in"]["kernel"]


def test_other_scales_and_adapters_compile_nothing():
    schedule = jd.Linear().build()
    sampler = jd.DDIM(spacing=jd.spacing.Trailing(num_steps=2))

    @jax.jit
    def drawn(denoiser):
        return jd.sample(denoiser, sampler, schedule, jax.random.key(0), (2, 4, 4, 4))

    one = random_lora(PARAMS, "to_[qk]", 1)
    first = drawn(with_lora(bound(), one, 0.5))
    drawn(with_lora(with_lora(bound(), one, 0.2), one, 0.1))
    with compilations() as count:
        others = [
            drawn(with_lora(bound(), one, scale))
            for scale in (2, jnp.float32(0.3), 1.5)
        ]
        drawn(with_lora(with_lora(bound(), one, 0.9), one, -0.7))
    assert count() == 0
    assert all(np.abs(first - other).max() > 1e-3 for other in others)


def test_a_scale_is_an_argument_of_a_compiled_function():
    one, level = random_lora(PARAMS, "to_[qk]", 1), jd.Linear().build().level(500)
    x_t = jax.random.normal(jax.random.key(0), (2, 4, 4, 4))

    @jax.jit
    def estimate(denoiser, scale):
        return with_lora(denoiser, one, scale)(x_t, level).eps

    found = estimate(bound(), 0.5)
    with compilations() as count:
        other = estimate(bound(), 0.9)
    assert count() == 0
    assert np.abs(found - other).max() > 1e-3
    expected = estimate(with_lora(bound(), one, 0.9), 0.0)
    np.testing.assert_allclose(other, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: merged({"a": {"kernel": np.ones((2, 2))}}, random_lora(SMALL)),
            "lora must fit the network, got conv_in/kernel, which the network lacks; "
            "time_1/kernel, which the network lacks. Use an adapter of this network.",
        ),
        (
            lambda: merged(
                SMALL | {"time_1": {"kernel": np.ones((3, 5))}}, random_lora(SMALL)
            ),
            "lora must fit the network, got time_1/kernel for [3, 2], not [3, 5]. Use "
            "an adapter of this network.",
        ),
        (
            lambda: merged(
                SMALL,
                LoRA({DENSE: LoRALayer(*(jnp.ones((3, 2)),) * 2, jnp.ones(()))}),
            ),
            "lora must fit the network, got time_1/kernel of the factors [3, 2] and "
            "[3, 2]. Use an adapter of this network.",
        ),
        (
            lambda: merged(SMALL, random_lora(SMALL), jnp.ones(2)),
            "scale must be one number, got the shape (2,)",
        ),
        (
            lambda: with_lora(jd.oracles.Gaussian.of(jnp.zeros(2), 1.0), LoRA({})),
            "denoiser must have a network for an adapter, got one without. Bind one, "
            "as run.denoiser() does.",
        ),
        (
            lambda: init_lora(PARAMS, 0, key=jax.random.key(0)),
            "rank must be at least 1, got 0",
        ),
        (
            lambda: init_lora(PARAMS, 1, key=jax.random.key(0), targets=("to_x",)),
            "targets must match modules of the network, got to_x",
        ),
    ],
)
def test_wrong_calls_are_one_line(call, message):
    with pytest.raises(InputError) as error:
        call()
    assert str(error.value) == message
