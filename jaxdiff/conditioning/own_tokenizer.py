"""Tokenizer of one's own, made from the captions of the training data.

Byte-pair encoding of UTF-8 bytes (Sennrich et al. 2016; Radford et al. 2019): every
text has tokens, in any script. A text ends with the token of number 0, which also pads.
The numbers [0, 0, ...] with a mask of the first are therefore the empty text, which
`conditions.hidden` gives to a network.
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from jaxdiff.conditioning.tokenizers import Tokenizer, with_length
from jaxdiff.errors import InputError, require
from jaxdiff.storage.files import write_atomic

END = "<|endoftext|>"
LEAST = 257
"""Smallest vocabulary: the bytes and the end."""


def make_tokenizer(texts: Iterable[str], vocabulary: int, length: int) -> Tokenizer:
    """Makes a tokenizer from texts; the same texts give the same tokenizer.

    Texts are compared in lower case, in Unicode's normal form C, with single spaces.

    Args:
        texts: texts to learn the tokens from, in any number.
        vocabulary: largest number of tokens; few texts give fewer.
        length: number of tokens of a text, with the end and padding.

    Raises:
        InputError: the vocabulary or the length is too small.
    """
    if vocabulary < LEAST:
        raise InputError(
            f"text.vocabulary must be at least {LEAST}, the bytes and the end of a "
            f"text, got {vocabulary}"
        )
    tokenizers = require("tokenizers")
    pieces, normal = tokenizers.pre_tokenizers, tokenizers.normalizers
    library = tokenizers.Tokenizer(tokenizers.models.BPE())
    library.normalizer = normal.Sequence(
        [
            normal.NFC(),
            normal.Replace(tokenizers.Regex(r"\s+"), " "),
            normal.Strip(),
            normal.Lowercase(),
        ]
    )
    library.pre_tokenizer = pieces.ByteLevel(add_prefix_space=True)
    library.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocabulary, min_frequency=2, show_progress=False,
        special_tokens=[END], initial_alphabet=sorted(pieces.ByteLevel.alphabet()),
    )  # fmt: skip
    library.train_from_iterator(texts, trainer)
    library.post_processor = tokenizers.processors.TemplateProcessing(
        single=f"$A {END}", special_tokens=[(END, library.token_to_id(END))]
    )
    return with_length(library, length, END)


def tokenizer_files(tokenizer: Tokenizer) -> dict[str, bytes]:
    """Returns the files from which `read_tokenizer` reads a tokenizer, by name."""
    config = {"model_max_length": tokenizer.length, "pad_token": tokenizer.pad[0]}
    library = json.loads(tokenizer.library.to_str())
    return {
        "tokenizer.json": _plain(library), "tokenizer_config.json": _plain(config),
    }  # fmt: skip


def write_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Writes a tokenizer to a folder, which is made if there is none."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in tokenizer_files(tokenizer).items():
        write_atomic(folder / name, data)


def tokenizer_digest(tokenizer: Tokenizer) -> str:
    """Returns the SHA-256 of a tokenizer's files."""
    return _digest(tokenizer_files(tokenizer))


def digest_of_folder(folder: Path) -> str | None:
    """Returns the SHA-256 of the files in a folder; None if one is missing."""
    names = "tokenizer.json", "tokenizer_config.json"
    if not all((folder / name).is_file() for name in names):
        return None
    return _digest({name: (folder / name).read_bytes() for name in names})


def _digest(files: dict[str, bytes]) -> str:
    found = hashlib.sha256()
    for name, data in sorted(files.items()):
        found.update(f"{name} {len(data)}\n".encode() + data)
    return found.hexdigest()


def _plain(data: object) -> bytes:
    return json.dumps(data, ensure_ascii=False, indent=1).encode()
