"""Adapters of the command `sample`: files of LoRA and of textual inversion."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxdiff.components.lora_files import file_in
from jaxdiff.errors import InputError
from jaxdiff.runs.run import Run
from jaxdiff.storage.manifest import checksum

if TYPE_CHECKING:
    from jaxdiff.cli.sample import SampleOptions


def adapted(run: Run, options: "SampleOptions") -> Run:
    """Returns the run with all adapters of the command line.

    New tokens come first, because a file of LoRA may bring tokens too.

    Raises:
        InputError: a file does not fit the model, or a word is malformed.
    """
    for word in options.embedding:
        path, token = _parted(word)
        run = run.with_embedding(path, token, allow_bin=options.bin)
    for word in options.lora:
        path, scale = _with_scale(word)
        run = run.with_lora(path, scale, allow_bin=options.bin)
    return run


def adapters_of(options: "SampleOptions") -> dict[str, Any]:
    """Returns the adapters for the texts of a picture, with their checksums."""
    loras = [
        {"file": str(path), "scale": scale, "sha256": checksum(file_in(path))}
        for path, scale in map(_with_scale, options.lora)
    ]
    embeddings = [
        {"file": str(path), "token": token, "sha256": checksum(path)}
        for path, token in map(_parted, options.embedding)
    ]
    return {"lora": loras, "embedding": embeddings}


def _parted(word: str) -> tuple[Path, str | None]:
    """Returns a path and what follows its colon; a colon may be part of the path."""
    path, colon, rest = word.rpartition(":")
    if not colon or Path(word).exists():
        return Path(word), None
    return Path(path), rest


def _with_scale(word: str) -> tuple[Path, float]:
    """Returns a path and its scale, 1 by default."""
    path, text = _parted(word)
    try:
        scale = 1.0 if text is None else float(text)
    except ValueError:
        scale = math.nan
    if not math.isfinite(scale):
        raise InputError(
            f"lora must be a file, or a file and a scale such as {path}:0.8, got {word}"
        )
    return path, scale
