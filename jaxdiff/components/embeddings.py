"""Files of textual inversion: the vectors of new tokens of a model's text encoders.

{"<cat>": [width] or [vectors, width]}                diffusers
{"string_to_param": {"*": [...]}, "name": "cat"}      A1111, .pt
{"emb_params": [vectors, width]}                      A1111, safetensors
{"clip_l": [...], "clip_g": [...]}                    Stable Diffusion XL
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxdiff.components.files import check_no_pointer
from jaxdiff.components.lora_names import TEXT, TEXT_2
from jaxdiff.components.weights import check_bin, tensors_of_file
from jaxdiff.errors import InputError, shown
from jaxdiff.storage.torch_pickle import read_torch_tree

_PAIRS = (("clip_l", "clip_g"), ("text_encoders_0", "text_encoders_1"))
"""Names of the vectors of Stable Diffusion XL's two text encoders: A1111's, and those
of diffusers' training script."""


def read_embedding(
    path: str | os.PathLike[str],
    widths: Mapping[str, int],
    token: str | None = None,
    *,
    allow_bin: bool = False,
) -> dict[str, dict[str, np.ndarray]]:
    """Reads a file of textual inversion.

    Args:
        path: safetensors file.
        widths: features of each text encoder, by its name: "text_encoder" and
            "text_encoder_2".
        token: text of the token. By default the file's name for it, or the file's own
            name.
        allow_bin: if True, also read a .bin or .pt file, a pickle; see `read_torch`.

    Returns:
        Vectors by token and by the name of the text encoder, float32 [vectors, width].

    Raises:
        InputError: the file is damaged, holds anything else, or fits no text encoder;
            or it has several tokens and one is given.
    """
    file = Path(path)
    check_no_pointer(file)
    if file.suffix == ".safetensors":
        tensors = tensors_of_file(file)
        found: dict[Any, Any] = {name: one.read() for name, one in tensors.items()}
    else:
        check_bin(file, allow_bin)
        found = read_torch_tree(file)
    names: dict[str, Any] = {}
    name = token or file.stem
    for pair in _PAIRS:
        if found.keys() == set(pair):
            both = zip((TEXT, TEXT_2), pair, strict=True)
            vectors = {encoder: _vectors(file, found[key]) for encoder, key in both}
            return {name: _fitting(file, vectors, widths)}
    if "string_to_param" in found:
        params = found["string_to_param"]
        if not isinstance(params, dict) or len(params) != 1:
            raise InputError(f"'{file}' must have one token, got {shown(params)}")
        own = found.get("name")
        own = own if isinstance(own, str) and own.strip() else file.stem
        names = {token or own: next(iter(params.values()))}
    elif found.keys() == {"emb_params"}:
        names = {name: found["emb_params"]}
    elif token is not None and len(found) != 1:
        raise InputError(
            f"token must be None for the {len(found)} tokens in '{file}', got "
            f"{shown(token)}. Leave it out."
        )
    else:
        names = {token or str(key): value for key, value in found.items()}
    if not names:
        raise InputError(f"'{file}' must have the vectors of a token, got none.")
    return {name: _placed(file, value, widths) for name, value in names.items()}


def _vectors(file: Path, value: Any) -> np.ndarray:
    if not isinstance(value, np.ndarray) or value.ndim not in (1, 2):
        kind = list(value.shape) if isinstance(value, np.ndarray) else shown(value)
        raise InputError(
            f"'{file}' must have vectors of new tokens, [width] or [vectors, width], "
            f"got {kind}. Give a file of textual inversion."
        )
    return np.atleast_2d(value).astype(np.float32)


def _placed(file: Path, value: Any, widths: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Returns vectors for the first text encoder of their width."""
    vectors = _vectors(file, value)
    for encoder, width in widths.items():
        if vectors.shape[1] == width:
            return {encoder: vectors}
    known = " or ".join(map(str, widths.values()))
    raise InputError(
        f"'{file}' must have vectors of {known} features for this model, got "
        f"{vectors.shape[1]}. Use an embedding of this model."
    )


def _fitting(
    file: Path, vectors: dict[str, np.ndarray], widths: Mapping[str, int]
) -> dict[str, np.ndarray]:
    """Returns the vectors of two text encoders, after a check."""
    there = {name: found.shape[1] for name, found in vectors.items()}
    if there != dict(widths):
        raise InputError(
            f"'{file}' must have vectors for text encoders of "
            f"{' and '.join(map(str, widths.values()))} features, got "
            f"{' and '.join(map(str, there.values()))}. Use an embedding of this model."
        )
    return vectors
