"""Files of textual inversion, and new tokens of text encoders."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from jaxdiff.components.embeddings import read_embedding
from jaxdiff.conditioning import TextEncoder, read_tokenizer
from jaxdiff.conditioning.new_tokens import with_token
from jaxdiff.errors import InputError
from jaxdiff.networks import BERTConfig, CLIPTextConfig
from tests.conditioning.test_tokenizers import clip as clip
from tests.helpers.components import random_params
from tests.helpers.pytorch import torch

WIDTHS = {"text_encoder": 6, "text_encoder_2": 10}
TABLE = "text_model.embeddings.token_embedding"


def vectors(count, width=6, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, width)).astype(np.float32)


def saved(path, contents):
    """Saves a file as its ending says, and returns its path."""
    if path.suffix == ".safetensors":
        save_file(contents, path)
    else:
        torch.save(contents, path)
    return path


@pytest.mark.parametrize(
    ("name", "contents", "expected"),
    [
        ("a.safetensors", {"<cat>": vectors(1)[0]}, {"<cat>": vectors(1)}),
        ("a.safetensors", {"<cat>": vectors(3)}, {"<cat>": vectors(3)}),
        ("frog.safetensors", {"emb_params": vectors(2)}, {"frog": vectors(2)}),
        (
            "a.safetensors",
            {"<s1>": vectors(1)[0], "<s2>": vectors(2)},
            {"<s1>": vectors(1), "<s2>": vectors(2)},
        ),
    ],
)
def test_safetensors_files_are_read(tmp_path, name, contents, expected):
    found = read_embedding(saved(tmp_path / name, contents), WIDTHS)
    assert found.keys() == expected.keys()
    for token, one in expected.items():
        assert found[token].keys() == {"text_encoder"}
        np.testing.assert_array_equal(found[token]["text_encoder"], one)


@pytest.mark.parametrize("names", ["clip_l clip_g", "text_encoders_0 text_encoders_1"])
def test_two_text_encoders_have_vectors_of_their_own(tmp_path, names):
    one, two = vectors(2), vectors(2, 10)
    contents = dict(zip(names.split(), (one, two), strict=True))
    path = saved(tmp_path / "dog.safetensors", contents)
    found = read_embedding(path, WIDTHS)
    np.testing.assert_array_equal(found["dog"]["text_encoder"], one)
    np.testing.assert_array_equal(found["dog"]["text_encoder_2"], two)
    assert read_embedding(path, WIDTHS, "<x>").keys() == {"<x>"}
    with pytest.raises(InputError, match="encoders of 6 features, got 6 and 10"):
        read_embedding(path, {"text_encoder": 6})


def test_pickles_are_read_with_permission(tmp_path):
    tensor = torch.tensor(vectors(2, 10))
    theirs = saved(tmp_path / "a.bin", {"<cat>": tensor})
    a1111 = {
        "string_to_token": {"*": 265}, "name": "frog", "step": 3, "sd_checkpoint": None,
        "string_to_param": {"*": torch.nn.Parameter(tensor)},
    }  # fmt: skip
    old = tmp_path / "old.pt"
    torch.save(a1111, old, _use_new_zipfile_serialization=False)
    for path, token in (
        (theirs, "<cat>"), (saved(tmp_path / "b.pt", a1111), "frog"), (old, "frog")
    ):  # fmt: skip
        with pytest.raises(InputError, match="a pickle, with --bin"):
            read_embedding(path, WIDTHS)
        found = read_embedding(path, WIDTHS, allow_bin=True)
        np.testing.assert_array_equal(found[token]["text_encoder_2"], tensor.numpy())
    evil = saved(tmp_path / "evil.pt", {"a": print})
    with pytest.raises(InputError, match="it would run"):
        read_embedding(evil, WIDTHS, allow_bin=True)


@pytest.mark.parametrize(
    ("contents", "token", "message"),
    [
        ({"a": vectors(1, 7)}, None, "must have vectors of 6 or 10 features .* got 7"),
        ({"a": np.ones((1, 2, 6))}, None, r"must have vectors .* got \[1, 2, 6\]"),
        ({"a": vectors(1), "b": vectors(1)}, "c", "token must be None for the 2 tok"),
        ({}, None, "must have the vectors of a token, got none"),
    ],
)
def test_files_that_do_not_fit_are_one_line(tmp_path, contents, token, message):
    path = saved(tmp_path / "a.safetensors", contents)
    with pytest.raises(InputError, match=message):
        read_embedding(path, WIDTHS, token)


@pytest.fixture(scope="module")
def encoder(clip):
    network = CLIPTextConfig(
        vocabulary=526, length=77, width=6, layers=1, heads=2, hidden=8
    ).build()
    return TextEncoder(
        random_params(network), network, read_tokenizer(clip), masked=False
    )


def test_a_new_token_has_the_rows_of_its_vectors(encoder):
    found = with_token(encoder, "<big-cat>", vectors(3))
    found = with_token(found, "frogs", vectors(1, seed=1))
    table = found.params[TABLE]["embedding"]
    np.testing.assert_array_equal(table[:526], encoder.params[TABLE]["embedding"])
    np.testing.assert_array_equal(table[526:], [*vectors(3), *vectors(1, seed=1)])
    cat, frog = encoder.tokenizer(["cat", "frog"]).ids[:, 1]
    ids = found.tokenizer("a cat <big-cat>, frog frogs <BIG-cat>").ids[0]
    a = encoder.tokenizer("a").ids[0, 1]
    comma = encoder.tokenizer(",").ids[0, 1]
    expected = [524, a, cat, 526, 527, 528, comma, frog, 529, 526, 527, 528, 525]
    assert ids[: len(expected)].tolist() == expected
    # The encoder is unchanged.
    assert encoder.tokenizer.vocabulary == 526
    assert 526 not in encoder.tokenizer("<big-cat>").ids


def test_a_new_token_is_the_word_whose_vector_it_has(encoder):
    cat = encoder.tokenizer("cat").ids[0, 1]
    row = np.asarray(encoder.params[TABLE]["embedding"][cat])[None]
    found = with_token(encoder, "<same>", np.repeat(row, 2, 0))
    one, two = encoder("a cat cat frog"), found("a <same> frog")
    for name in ("text", "vector"):
        a, b = getattr(one, name), getattr(two, name)
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)
        assert np.abs(encoder("a cat frog")._asdict()[name] - b).max() > 1e-3
    long = "<same> " * 40
    with pytest.warns(UserWarning, match="cut the prompt after 77 tokens"):
        assert found(long).text.shape == (1, 77, 6)
    assert found(long, windows=True).text.shape == (1, 154, 6)


@pytest.mark.parametrize(
    ("token", "given", "message"),
    [
        ("<x>", vectors(1, 5), r"vectors must be \[number, 6\] .* got \[1, 5\]"),
        ("<x>", vectors(1)[0], r"vectors must be \[number, 6\] .* got \[6\]"),
        ("<x>", vectors(1) * np.nan, "vectors of '<x>' must be finite"),
        ("cat</w>", vectors(1), "token must be new to the tokenizer, got 'cat</w>'"),
        (" ", vectors(1), "token must be new to the tokenizer, got ' '"),
    ],
)
def test_wrong_tokens_are_one_line(encoder, token, given, message):
    with pytest.raises(InputError, match=message):
        with_token(encoder, token, given)


def test_only_clip_takes_new_tokens(encoder):
    network = BERTConfig(
        vocabulary=526, length=77, width=6, layers=1, heads=2, hidden=8
    ).build()
    bert = TextEncoder({}, network, encoder.tokenizer)
    with pytest.raises(InputError, match="encoder must be CLIP's for a new token"):
        with_token(bert, "<x>", vectors(1))
