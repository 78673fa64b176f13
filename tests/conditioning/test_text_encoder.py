"""Texts to conditions: encoders bound to parameters and tokenizers."""

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest

from jaxdiff.conditioning import TextEncoder, Tokens, encode, read_tokenizer
from jaxdiff.errors import InputError
from jaxdiff.networks import (
    BERTConfig,
    CLIPTextConfig,
    T5Config,
    TextTransformerConfig,
)
from tests.conditioning.test_tokenizers import clip as clip
from tests.helpers.compilations import compilations
from tests.helpers.components import random_params

SIZES: Any = {"vocabulary": 600, "width": 16, "layers": 2, "heads": 2}
NETWORKS: dict[str, Any] = {
    "clip": CLIPTextConfig(**SIZES, length=77, hidden=32),
    "t5": T5Config(**SIZES, head_channels=8, hidden=32),
    "bert": BERTConfig(**SIZES, length=77, hidden=32),
    "own": TextTransformerConfig(**SIZES, length=77),
}


@pytest.fixture(scope="module", params=NETWORKS)
def encoder(request, clip):
    network = NETWORKS[request.param].build()
    return TextEncoder(random_params(network), network, read_tokenizer(clip))


def test_a_text_has_its_condition_in_any_batch(encoder):
    found = encoder(["a cat", "a frog and a cat", ""])
    assert found.text.shape == (3, 77, 16)
    assert found.mask.shape == (3, 77)
    assert (found.vector is None) == isinstance(encoder.network.config, T5Config)
    alone = encoder("a frog and a cat")
    with compilations() as count:
        other = encoder("something else")
    assert not count()
    assert not np.allclose(other.text, alone.text)
    words = np.asarray(found.mask[1])
    np.testing.assert_allclose(alone.text[0][words], found.text[1][words], atol=1e-5)
    if found.vector is not None:
        np.testing.assert_allclose(alone.vector[0], found.vector[1], atol=1e-5)


def test_padding_changes_nothing_if_it_is_masked(encoder, clip):
    short = dataclasses.replace(encoder, tokenizer=read_tokenizer(clip, length=9))
    long, few = encoder("a cat"), short("a cat")
    words = np.asarray(few.mask[0])
    np.testing.assert_allclose(few.text[0][words], long.text[0, :9][words], atol=1e-5)
    unmasked = dataclasses.replace(encoder, masked=False)("a cat")
    assert unmasked.mask is None
    if not isinstance(encoder.network.config, CLIPTextConfig):  # it never looks back
        assert not np.allclose(unmasked.text[0, :3], long.text[0, :3], atol=1e-4)


def test_a_long_text_is_encoded_in_windows(encoder, clip):
    short = dataclasses.replace(encoder, tokenizer=read_tokenizer(clip, length=6))
    long, few = "cat frog cat frog photo cat", "a frog"
    found = short([long, few], windows=True)
    count = len(short.tokenizer.windows(long).ids)
    assert count > 1
    assert found.text.shape == (2, 6 * count, 16)
    for number, ids in enumerate(short.tokenizer.windows(long).ids):
        mask = short.tokenizer.windows(long).mask[number : number + 1]
        one = encode(encoder.network, encoder.params, Tokens(ids[None], mask))
        part = found.text[0, 6 * number : 6 * number + 6]
        np.testing.assert_allclose(part[mask[0]], one.text[0][mask[0]], atol=1e-5)
    assert not np.asarray(found.mask[1, 9:]).all()
    if found.vector is not None:
        with pytest.warns(UserWarning, match="cut the prompt"):
            first = short([long, few])
        np.testing.assert_allclose(found.vector, first.vector, atol=1e-5)


def test_clip_skips_blocks_and_its_norm(clip):
    network = NETWORKS["clip"].build()
    tokenizer = read_tokenizer(clip)
    plain = TextEncoder(random_params(network), network, tokenizer, masked=False)
    skipped = dataclasses.replace(plain, skip=1, final_norm=False)
    one, two = plain("a cat"), skipped("a cat")
    np.testing.assert_array_equal(one.vector, two.vector)
    variables = {"params": plain.params}
    wanted: Any = network.apply(
        variables, tokenizer("a cat").ids, None, skip=1, final_norm=False
    )
    np.testing.assert_allclose(two.text, wanted.tokens, atol=1e-5)


def test_the_own_encoder_starts_small_and_depends_on_order():
    network = TextTransformerConfig(**SIZES, length=8).build()
    params = network.init(jax.random.key(0), np.zeros((1, 8), int))["params"]
    ids = np.array([[1, 2, 3, 4], [2, 1, 3, 4]])
    found: Any = network.apply({"params": params}, ids)
    assert np.isfinite(found.tokens).all()
    assert not np.allclose(found.vector[0], found.vector[1], atol=1e-5)


def test_parts_of_different_models_are_refused(clip):
    tokenizer = read_tokenizer(clip)
    for options, match in (
        (
            {"vocabulary": 100},
            r"at most 100 tokens, those of the text encoder, got",
        ),
        ({"length": 10}, r"length must be at most 10, the text encoder's, got 77"),
    ):
        network = dataclasses.replace(NETWORKS["clip"], **options).build()
        with pytest.raises(InputError, match=match):
            TextEncoder({}, network, tokenizer)
    network = NETWORKS["t5"].build()
    tokens = Tokens(np.zeros((1, 4), np.int32), np.ones((1, 3), bool))
    params = random_params(network)
    with pytest.raises(InputError, match=r"mask must have the tokens' shape \(1, 4\)"):
        encode(network, params, tokens)
    with pytest.raises(InputError, match="skip must be 0 and final_norm True for T5"):
        encode(network, params, tokens, skip=1)
    clip_network = NETWORKS["clip"].build()
    with pytest.raises(InputError, match=r"skip must lie in 0\.\.2, the blocks, got 3"):
        encode(
            clip_network, random_params(clip_network),
            Tokens(np.zeros((1, 4), np.int32), np.ones((1, 4), bool)), skip=3,
        )  # fmt: skip
