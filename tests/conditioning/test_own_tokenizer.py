"""Tokenizer of one's own: deterministic, for any text, stored with its checksum."""

import random

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.conditioning import read_tokenizer
from jaxdiff.conditioning.own_tokenizer import (
    digest_of_folder,
    make_tokenizer,
    tokenizer_digest,
    write_tokenizer,
)
from jaxdiff.conditions import hidden
from jaxdiff.errors import InputError
from jaxdiff.typing import Condition

ANIMALS, COLOURS = ("cat", "frog", "owl"), ("red", "green", "blue")
CAPTIONS = [f"a {colour} {animal}" for colour in COLOURS for animal in ANIMALS]
TEXTS = ["a red cat", "Ein Käse", "猫と🦊", "עברית ᚠᚢᚦ", "e\u0301", "<|pad|> \x00"]


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer(CAPTIONS, vocabulary=278, length=40)


def test_the_same_captions_give_the_same_tokenizer(tokenizer):
    shuffled = random.Random(0).sample(CAPTIONS, len(CAPTIONS))
    assert tokenizer_digest(make_tokenizer(shuffled, 278, 40)) == tokenizer_digest(
        tokenizer
    )
    assert tokenizer_digest(make_tokenizer(CAPTIONS[1:], 278, 40)) != tokenizer_digest(
        tokenizer
    )
    assert tokenizer_digest(make_tokenizer(CAPTIONS, 277, 40)) != tokenizer_digest(
        tokenizer
    )
    assert tokenizer_digest(make_tokenizer(CAPTIONS, 278, 39)) != tokenizer_digest(
        tokenizer
    )


def test_captions_take_few_tokens(tokenizer):
    assert tokenizer.vocabulary == 278
    (mask,) = tokenizer("a red cat").mask
    assert mask.sum() <= 5  # three words and the end, or two parts
    assert (tokenizer("  A  RED\ncat ").ids == tokenizer("a red cat").ids).all()


@pytest.mark.parametrize("text", TEXTS)
def test_every_text_has_tokens(tokenizer, text):
    found = tokenizer(text)
    kept = found.ids[found.mask]
    assert kept[-1] == 0  # the end
    assert (kept[:-1] > 0).all()
    assert not found.ids[~found.mask].any()
    wanted = text.lower().replace("e\u0301", "\xe9")
    assert tokenizer.decode(kept).strip() == wanted


def test_no_text_is_a_hidden_text(tokenizer):
    tokens, mask = map(jnp.asarray, tokenizer("a red cat"))
    none = hidden(Condition(tokens=tokens, mask=mask))
    np.testing.assert_array_equal(none.tokens, tokenizer("").ids)
    np.testing.assert_array_equal(none.mask, tokenizer("").mask)


def test_files_hold_the_tokenizer(tokenizer, tmp_path):
    assert digest_of_folder(tmp_path) is None
    write_tokenizer(tokenizer, tmp_path)
    assert digest_of_folder(tmp_path) == tokenizer_digest(tokenizer)
    read = read_tokenizer(tmp_path)
    assert tokenizer_digest(read) == tokenizer_digest(tokenizer)
    for text in (*TEXTS, "long " * 30):
        a, b = tokenizer.windows(text), read.windows(text)
        np.testing.assert_array_equal(a.ids, b.ids)
    path = tmp_path / "tokenizer.json"
    path.write_text(path.read_text().replace('"NFC"', '"NFD"'))
    assert digest_of_folder(tmp_path) != tokenizer_digest(tokenizer)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [((256, 8), "text.vocabulary must be at least 257"), ((300, 1), "length must be")],
)
def test_too_small_tokenizers_are_refused(sizes, message):
    with pytest.raises(InputError, match=message):
        make_tokenizer(CAPTIONS, *sizes)
