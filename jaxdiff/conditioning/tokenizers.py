"""Tokenizers of published text encoders, from their own files.

A folder holds tokenizer.json (T5, BERT, and newer CLIP folders), or CLIP's vocab.json
and merges.txt. Its tokenizer_config.json and special_tokens_map.json name the length
and the padding. The package `tokenizers` does the work.
"""

import os
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxdiff.errors import InputError, first_line, require, shown
from jaxdiff.storage.files import LARGEST, open_regular, read_json

MOST = 2**20
"""Largest length; larger ones in published files mean that there is none."""
_PIECES = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d"
    r"|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)
"""Pieces of a text that CLIP's tokenizer splits further (Radford et al. 2021)."""


class Tokens(NamedTuple):
    """Tokens of several texts.

    Attributes:
        ids: token numbers, int32 [batch, length].
        mask: False for padding, bool [batch, length].
    """

    ids: np.ndarray
    mask: np.ndarray


@dataclass(frozen=True)
class Tokenizer:
    """Tokenizer with a fixed length; `read_tokenizer` makes it.

    Attributes:
        length: number of tokens of a text, with special tokens and padding.
        vocabulary: number of tokens.
        pad: the token, and its number, that fills short texts.
        library: tokenizer of the package `tokenizers`.
        new: new tokens, and the text that stands for each; see `with_token`.
    """

    length: int
    vocabulary: int
    pad: tuple[str, int]
    library: Any = field(repr=False)
    new: Mapping[str, str] = field(default_factory=dict)

    def __call__(self, texts: str | Sequence[str]) -> Tokens:
        """Returns the tokens of texts; a text that is too long is cut.

        Args:
            texts: texts, or a single one.

        Raises:
            InputError: a text is not a valid string.

        Warns:
            UserWarning: it names the words that are cut off.
        """
        texts = [texts] if isinstance(texts, str) else texts
        found = [self._encoded(text) for text in texts]
        for text, encoding in zip(texts, found, strict=True):
            if encoding.overflowing:
                warnings.warn(
                    _cut(self._expanded(text), encoding, self.length), stacklevel=2
                )
        return _tokens(found, self.length)

    def windows(self, text: str) -> Tokens:
        """Returns all tokens of one text in windows, one after the other.

        Every window has the special tokens, as if it were a text of its own.

        Returns:
            Tokens [windows, length].

        Raises:
            InputError: the text is not a valid string.
        """
        encoding = self._encoded(text)
        return _tokens([encoding, *encoding.overflowing], self.length)

    def with_token(self, token: str, count: int) -> tuple["Tokenizer", list[int]]:
        """Returns the tokenizer with a new token, and the token's numbers.

        Args:
            token: text of the token, such as "<cat>".
            count: number of tokens that it stands for.

        Raises:
            InputError: the token is empty, or exists already.
        """
        names = [token, *(f"{token}_{i}" for i in range(1, count))]
        library = type(self.library).from_str(self.library.to_str())
        known = [name for name in names if library.token_to_id(name) is not None]
        if known or not token.strip():
            raise InputError(
                f"token must be new to the tokenizer, got {shown(token)}. Give another "
                "name."
            )
        library.add_tokens(names)
        new = {**self.new, token: " ".join(names)}
        numbers = [library.token_to_id(name) for name in names]
        size = library.get_vocab_size()
        return replace(self, vocabulary=size, library=library, new=new), numbers

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of tokens, without special tokens."""
        return str(self.library.decode(list(map(int, ids)))).replace("</w>", " ")

    def _encoded(self, text: str) -> Any:
        if not isinstance(text, str):
            raise InputError(f"a prompt must be text, got {shown(text)}")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InputError(
                f"a prompt must be valid Unicode, got {shown(text)} ({error.reason})"
            ) from None
        return self.library.encode(self._expanded(text))

    def _expanded(self, text: str) -> str:
        """Returns a text with all tokens that a new token stands for."""
        if not self.new:
            return text
        # As in the library, a new token in other letters is the same token.
        texts = {token.lower(): names for token, names in self.new.items()}
        longest_first = sorted(texts, key=len, reverse=True)
        pattern = "|".join(map(re.escape, longest_first))
        return re.sub(
            pattern, lambda found: texts[found[0].lower()], text, flags=re.IGNORECASE
        )


def read_tokenizer(
    folder: str | os.PathLike[str], length: int | None = None
) -> Tokenizer:
    """Reads the tokenizer of a published model.

    Args:
        folder: folder of the tokenizer's files.
        length: number of tokens of a text; by default the files' model_max_length.

    Raises:
        InputError: the files are missing or damaged, or name no length.
    """
    path = Path(folder)
    options = _options(path)
    if (path / "tokenizer.json").exists():
        library = _of_json(path / "tokenizer.json")
    elif (path / "vocab.json").exists() and (path / "merges.txt").exists():
        library = _clip(path, options)
    else:
        found = sorted(file.name for file in path.glob("*")) if path.is_dir() else []
        raise InputError(
            f"'{path}' must hold tokenizer.json, or vocab.json and merges.txt, got "
            f"{', '.join(found) or 'no files'}"
        )
    length = options.get("model_max_length") if length is None else length
    if not isinstance(length, int) or not 1 <= length <= MOST:
        raise InputError(
            f"length must be given for the tokenizer in '{path}', whose "
            f"model_max_length is {shown(length)}"
        )
    pad = _text(options.get("pad_token"))
    if pad is None or library.token_to_id(pad) is None:
        raise InputError(
            f"'{path}' must name a pad_token of its vocabulary, got {shown(pad)}"
        )
    return with_length(library, length, pad)


def with_length(library: Any, length: int, pad: str) -> Tokenizer:
    """Returns a tokenizer of the package `tokenizers` that cuts and pads texts.

    Args:
        library: tokenizer of the package.
        length: number of tokens of a text.
        pad: token of its vocabulary that fills short texts.

    Raises:
        InputError: the length leaves no token for the text.
    """
    special = library.num_special_tokens_to_add(False)
    if length <= special:
        raise InputError(
            f"length must be above {special}, the number of special tokens, got "
            f"{length}"
        )
    number = library.token_to_id(pad)
    library.enable_truncation(length)
    library.enable_padding(length=length, pad_id=number, pad_token=pad)
    return Tokenizer(length, library.get_vocab_size(), (pad, number), library)


def _options(path: Path) -> dict[str, Any]:
    """Returns the options of the two files; those of the special tokens win."""
    options: dict[str, Any] = {}
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (path / name).exists():
            options |= read_json(path / name)
    return options


def _text(token: Any) -> str | None:
    """Returns a token's text: older files have a dictionary in its place."""
    token = token.get("content") if isinstance(token, dict) else token
    return token if isinstance(token, str) else None


def _of_json(path: Path) -> Any:
    tokenizers = require("tokenizers")
    try:
        with open_regular(path, LARGEST) as file:
            return tokenizers.Tokenizer.from_buffer(file.read())
    except Exception as error:  # the library raises plain exceptions
        raise InputError(
            f"'{path}' must be a tokenizer, got: {first_line(error)}. Download it "
            "again."
        ) from error


def _clip(path: Path, options: dict[str, Any]) -> Any:
    """Returns CLIP's tokenizer: byte-pair encoding of words in lower case."""
    tokenizers = require("tokenizers")
    start, end, unknown = (
        _text(options.get(name)) or default
        for name, default in (
            ("bos_token", "<|startoftext|>"), ("eos_token", "<|endoftext|>"),
            ("unk_token", "<|endoftext|>"),
        )
    )  # fmt: skip
    vocabulary = read_json(path / "vocab.json")
    missing = sorted({start, end, unknown} - vocabulary.keys())
    if missing or not all(isinstance(n, int) for n in vocabulary.values()):
        raise InputError(
            f"'{path / 'vocab.json'}' must map CLIP's tokens to numbers, got "
            + (f"no {', '.join(missing)}" if missing else "other values")
        )
    merges = _merges(path / "merges.txt")
    try:
        model = tokenizers.models.BPE(
            vocab=vocabulary, merges=merges, continuing_subword_prefix="",
            end_of_word_suffix="</w>", unk_token=unknown,
        )  # fmt: skip
    except Exception as error:  # the library raises plain exceptions
        raise InputError(
            f"'{path / 'merges.txt'}' must match vocab.json, got: {first_line(error)}"
        ) from error
    library = tokenizers.Tokenizer(model)
    kinds = tokenizers.normalizers, tokenizers.pre_tokenizers, tokenizers.processors
    normalizers, pre_tokenizers, processors = kinds
    library.normalizer = normalizers.Sequence(
        [
            normalizers.NFC(),
            normalizers.Replace(tokenizers.Regex(r"\s+"), " "),
            normalizers.Lowercase(),
        ]
    )
    split = pre_tokenizers.Split(tokenizers.Regex(_PIECES), "removed", invert=True)
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    library.decoder = tokenizers.decoders.ByteLevel()
    library.post_processor = processors.RobertaProcessing(
        (end, vocabulary[end]), (start, vocabulary[start]), False, False
    )
    special = dict.fromkeys(
        token
        for token in (start, end, unknown, _text(options.get("pad_token")))
        if token in vocabulary
    )
    library.add_special_tokens(
        [tokenizers.AddedToken(token, normalized=False) for token in special]
    )
    return library


def _merges(path: Path) -> list[tuple[str, str]]:
    """Returns the pairs of merges.txt, whose first line may name a version."""
    with open_regular(path, LARGEST) as file:
        data = file.read()
    try:
        lines = data.decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"'{path}' must be text in UTF-8, got {error}") from error
    if lines[0].startswith("#version"):
        del lines[0]
    pairs = [tuple(line.split()) for line in lines if line.strip()]
    if any(len(pair) != 2 for pair in pairs):
        wrong = next(pair for pair in pairs if len(pair) != 2)
        raise InputError(f"'{path}' must have pairs of tokens, got {shown(wrong)}")
    return pairs  # type: ignore[return-value]


def _tokens(encodings: Sequence[Any], length: int) -> Tokens:
    shape = (len(encodings), length)
    ids = np.array([e.ids for e in encodings], np.int32).reshape(shape)
    mask = np.array([e.attention_mask for e in encodings], bool).reshape(shape)
    return Tokens(ids, mask)


def _cut(text: str, encoding: Any, length: int) -> str:
    """Returns the warning about the words that are cut off."""
    first = encoding.overflowing[0]
    starts = [
        begin
        for (begin, stop), special in zip(
            first.offsets, first.special_tokens_mask, strict=True
        )
        if not special and stop > begin
    ]
    start = min(starts, default=0)
    whole = len(text[:start].rsplit(maxsplit=1)[-1]) if text[:start].strip() else 0
    if text[start - 1 : start].isspace():
        whole = 0  # the first word that is cut off is cut off whole
    rest = text[start - whole :]
    return (
        f"cut the prompt after {length} tokens, without {shown(rest)}. Shorten it, or "
        "encode it in windows."
    )
