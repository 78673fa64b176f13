"""Text encoder inside a network: tokens and their encoded text are one condition."""

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.conditioning import Tokens, encode
from jaxdiff.denoisers.network import check_condition
from jaxdiff.errors import InputError
from jaxdiff.networks import CrossAttentionUNetConfig, DiTConfig, TextTransformerConfig
from jaxdiff.training.model import param_shapes
from jaxdiff.typing import Condition

TEXT = TextTransformerConfig(vocabulary=20, length=6, width=8, layers=1, heads=2)
CONFIGS: dict[str, Any] = {
    "dit": DiTConfig(width=8, depth=1, heads=1, text=TEXT, vector_channels=8),
    "in-context": DiTConfig(width=8, depth=1, heads=1, text=TEXT, text_by="in-context"),
    "unet": CrossAttentionUNetConfig(
        widths=(4,), blocks=(1,), down=("plain",), up=("plain",), heads=(1,),
        layers=(1,), text_only=(False,), groups=2, text=TEXT,
        class_embedding="linear", vector_channels=8,
    ),
}  # fmt: skip
IDS = np.array([[3, 4, 5, 0, 0, 0], [7, 0, 9, 9, 9, 9]], np.int32)
MASK = np.array([[1, 1, 1, 1, 0, 0], [1, 1, 0, 0, 0, 0]], bool)


@cache
def made(kind):
    """Returns a network, and random parameters: many begin at 0."""
    network, draw = CONFIGS[kind].build(3), np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: (0.3 * draw.normal(size=leaf.shape)).astype(np.float32),
        param_shapes(network, (4, 4, 3), None),
    )
    return network, params, jax.jit(network.apply)


def output(kind, condition):
    _, params, apply = made(kind)
    x = np.random.default_rng(1).normal(size=(2, 4, 4, 3)).astype(np.float32)
    return np.asarray(apply({"params": params}, x, jnp.array([3.0, 500.0]), condition))


def encoded(kind):
    network, params, _ = made(kind)
    found = encode(TEXT.build(), params["text_encoder"], Tokens(IDS, MASK))
    wants = "vector" in network.takes
    return found if wants else found._replace(vector=None)


@pytest.mark.parametrize("kind", CONFIGS)
def test_tokens_and_their_encoded_text_give_one_output(kind):
    found = output(kind, Condition(tokens=IDS, mask=MASK))
    wanted = output(kind, encoded(kind))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * abs(wanted).max())
    # Padding says nothing, and every other token matters.
    other = output(kind, Condition(tokens=np.where(MASK, IDS, 1), mask=MASK))
    np.testing.assert_allclose(other, found, rtol=0, atol=1e-5 * abs(found).max())
    other = output(kind, Condition(tokens=np.where(IDS == 4, 1, IDS), mask=MASK))
    assert abs(other[0] - found[0]).max() > 1e-3 * abs(found).max()


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_network_takes_tokens_or_a_text(kind):
    network, *_ = made(kind)
    assert network.needs == ()
    check_condition(Condition(tokens=IDS, mask=MASK), network)
    check_condition(encoded(kind), network)
    example = network.example_condition((4, 4, 3))
    assert example.tokens.shape == example.mask.shape == (1, TEXT.length)
    with pytest.raises(InputError, match="text must be given to this network"):
        check_condition(Condition(), network)
    with pytest.raises(InputError, match="text or tokens, got both"):
        check_condition(encoded(kind)._replace(tokens=IDS), network)
    with pytest.raises(InputError, match="tokens must be integers, got float"):
        check_condition(Condition(tokens=IDS / 1.0), network)
    with pytest.raises(InputError, match="tokens or text must be given"):
        output(kind, Condition())


def test_a_text_encoder_has_the_width_of_the_tokens():
    assert CONFIGS["unet"].token_channels == CONFIGS["dit"].token_channels == 8
    with pytest.raises(InputError, match=r"text_channels must be text\.width, 8"):
        DiTConfig(text=TEXT, text_channels=9)
    levels: dict[str, Any] = {
        "widths": (8,),
        "blocks": (1,),
        "down": ("plain",),
        "up": ("plain",),
    }
    with pytest.raises(InputError, match="text must be none for a network that att"):
        CrossAttentionUNetConfig(
            **levels, heads=(1,), layers=(1,), text_only=(False,), groups=2,
            middle="block", text=TEXT,
        )  # fmt: skip
