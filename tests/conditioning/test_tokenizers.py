"""Tokenizers hold against transformers, on a vocabulary of their own."""

import json
import random
import shutil

import numpy as np
import pytest

from jaxdiff.conditioning import read_tokenizer
from jaxdiff.errors import InputError
from tests.helpers.pytorch import transformers

WORDS = [
    "a",
    "the",
    "cat",
    "frog",
    "photo",
    "of",
    "astronaut",
    "riding",
    "in",
    "space's",
    "it's",
    "don't",
    "4k,",
    "(high:1.2)",
    "naïve",
    "café",
    "ÜBER",
    "猫",
    "カエル",
    "кот",
    "مرحبا",
    "😀",
    "👩🏽\u200d🚒",
    "1234",
    "3.14",
    "--",
    "...",
    "!!!",
    "<|endoftext|>",
    "<|startoftext|>",
    "x²",
    "½",
    "\t",
    "\n",
    "\u200b",
    "\x00",
    "\x07",
    "Zürich",
    "é",
    "ﬁ",
]
RANGES = (0, 0x2FF), (0x400, 0x3000), (0x1F300, 0x1FAFF), (0x4E00, 0x9FFF)


def byte_symbols():
    """Returns the symbols that stand for the 256 bytes (Radford et al. 2019)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return [*map(chr, printable), *(chr(256 + i) for i in range(len(others)))]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Folder of a CLIP tokenizer: bytes, 12 merges and the special tokens."""
    folder = tmp_path_factory.mktemp("clip")
    merges = [
        ("c", "a"), ("ca", "t</w>"), ("f", "r"), ("o", "g</w>"), ("fr", "og</w>"),
        ("a", "s"), ("as", "t"), ("p", "h"), ("ph", "o"), ("pho", "t"),
        ("phot", "o</w>"),
        ("!", "!</w>"),
    ]  # fmt: skip
    symbols = byte_symbols()
    tokens = [*symbols, *(f"{s}</w>" for s in symbols), *("".join(m) for m in merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    lines = ["#version: 0.2", *map(" ".join, merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n")
    options = {"model_max_length": 77, "pad_token": "<|endoftext|>"}
    options["tokenizer_class"] = "CLIPTokenizer"
    (folder / "tokenizer_config.json").write_text(json.dumps(options))
    return folder


def texts():
    rnd = random.Random(0)
    some = [" ".join(rnd.choices(WORDS, k=rnd.randint(0, 40))) for _ in range(600)]
    any_text = [
        "".join(
            chr(rnd.randint(*rnd.choice(RANGES))) for _ in range(rnd.randint(1, 30))
        )
        for _ in range(400)
    ]
    return [*some, *any_text, "", "!", "hello!", " hi ! there!!", "word " * 200]


@pytest.mark.parametrize("pad", ["<|endoftext|>", "!"])
@pytest.mark.filterwarnings("ignore:cut the prompt")
def test_clip_has_the_tokens_of_transformers(clip, tmp_path, pad):
    """Stable Diffusion 1 pads with the end of a text, Stable Diffusion 2 with "!"."""
    folder = shutil.copytree(clip, tmp_path / "tokenizer")
    (folder / "special_tokens_map.json").write_text(json.dumps({"pad_token": pad}))
    given = texts()
    theirs = transformers.CLIPTokenizer.from_pretrained(folder)
    expected = theirs(
        given, padding="max_length", truncation=True, max_length=77, return_tensors="np"
    )
    found = read_tokenizer(folder)(given)
    np.testing.assert_array_equal(found.ids, expected["input_ids"])
    np.testing.assert_array_equal(found.mask, expected["attention_mask"])
    theirs.save_pretrained(tmp_path / "json")  # writes tokenizer.json
    for path in (tmp_path / "json").glob("*.txt"):
        path.unlink()
    again = read_tokenizer(tmp_path / "json", 77)(given)
    np.testing.assert_array_equal(again.ids, found.ids)


def test_a_long_prompt_is_cut_with_its_words_or_has_windows(clip):
    tokenizer = read_tokenizer(clip, length=8)
    long = "cat frog cat frog photo of cats"
    with pytest.warns(UserWarning, match=r"after 8 tokens, without 'of cats'\. "):
        cut = tokenizer(["cat", long])
    assert cut.ids.shape == (2, 8)
    assert cut.mask.sum(axis=1).tolist() == [3, 8]
    windows = tokenizer.windows(long)
    assert windows.ids.shape == (2, 8)
    np.testing.assert_array_equal(windows.ids[0], cut.ids[1])
    words = [
        tokenizer.decode(window[mask]) for window, mask in zip(*windows, strict=True)
    ]
    assert "".join(words).split() == long.split()
    short = tokenizer.windows("cat")
    np.testing.assert_array_equal(short.ids, cut.ids[:1])


def test_t5_and_bert_files_are_read(tmp_path):
    """Their tokenizer.json holds a model, its rules and its special tokens."""
    import tokenizers as library

    models = library.models
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [(f"▁{word}", -3.0) for word in ("a", "cat", "frog")]
    pieces += [(chr(code), -5.0) for code in range(97, 123)]
    t5 = library.Tokenizer(models.Unigram(pieces, unk_id=2))
    t5.pre_tokenizer = library.pre_tokenizers.Metaspace()
    t5.post_processor = library.processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    t5.enable_padding(length=50)  # the file's own padding and truncation do not count
    t5.enable_truncation(3)
    folder = tmp_path / "t5"
    folder.mkdir()
    t5.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"pad_token": "<pad>"}))
    found = read_tokenizer(folder, 6)(["a cat", "frogs", ""])
    assert found.ids.tolist() == [
        [4, 5, 1, 0, 0, 0], [6, 25, 1, 0, 0, 0], [1, 0, 0, 0, 0, 0]
    ]  # fmt: skip
    assert found.mask.sum(axis=1).tolist() == [3, 3, 1]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "cat", "frog", "##s"]
    bert = library.Tokenizer(
        models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]")
    )
    bert.normalizer = library.normalizers.BertNormalizer()
    bert.pre_tokenizer = library.pre_tokenizers.BertPreTokenizer()
    bert.post_processor = library.processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    folder = tmp_path / "bert"
    folder.mkdir()
    bert.save(str(folder / "tokenizer.json"))
    options = {"pad_token": "[PAD]", "model_max_length": 6}
    (folder / "tokenizer_config.json").write_text(json.dumps(options))
    theirs = transformers.BertTokenizer.from_pretrained(folder)
    given = ["A cat", "frogs, cats", "x"]
    expected = theirs(given, padding="max_length", truncation=True, max_length=6)
    found = read_tokenizer(folder)(given)
    assert found.ids.tolist() == expected["input_ids"]
    assert found.mask.tolist() == np.array(expected["attention_mask"], bool).tolist()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda f: (f / "merges.txt").unlink(), r"must hold tokenizer\.json, or vocab"),
        (
            lambda f: (f / "merges.txt").write_text("a b c"),
            r"must have pairs of tokens",
        ),
        (
            lambda f: (f / "merges.txt").write_text("q zz"),
            r"must match vocab\.json, got",
        ),
        (
            lambda f: (f / "vocab.json").write_text("{}"),
            r"must map CLIP's tokens .* no",
        ),
        (lambda f: (f / "vocab.json").write_text("[1]"), r"must hold a JSON object"),
        (lambda f: (f / "tokenizer.json").write_text("{"), r"must be a tokenizer, got"),
        (
            lambda f: (f / "tokenizer_config.json").write_text('{"pad_token": "x"}'),
            r"length must be given",
        ),
        (
            lambda f: (f / "tokenizer_config.json").write_text(
                '{"pad_token": "nothing", "model_max_length": 9}'
            ),
            r"must name a pad_token of its vocabulary, got 'nothing'",
        ),
    ],
)
def test_broken_files_are_one_line(clip, tmp_path, change, match):
    folder = shutil.copytree(clip, tmp_path / "broken")
    change(folder)
    with pytest.raises(InputError, match=match) as caught:
        read_tokenizer(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("prompt", "match"),
    [(3, "must be text, got 3"), ("\ud800", "must be valid Unicode")],
)
def test_a_prompt_that_is_no_text_is_one_line(clip, prompt, match):
    with pytest.raises(InputError, match=match):
        read_tokenizer(clip)([prompt])
