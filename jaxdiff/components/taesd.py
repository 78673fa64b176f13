"""Tiny autoencoders in the layout of their authors: two .pth files (TAESD, TAEF2).

The files are pickles; `read_torch` makes only arrays of them, and executes nothing.
Layers are numbered; the decoder's first layer is the clamp, which has no tensors. The
options follow from the tensors.
"""

import os
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np

from jaxdiff.components.component import Component, param_shapes
from jaxdiff.components.files import NETWORK
from jaxdiff.components.places import read_params
from jaxdiff.components.published_names import published_places
from jaxdiff.components.weights import Tensor, name_of
from jaxdiff.errors import InputError
from jaxdiff.networks.autoencoder_tiny import AutoencoderTinyConfig
from jaxdiff.storage.torch_pickle import read_torch


def taesd_files(folder: Path) -> tuple[Path, Path] | None:
    """Returns the files of encoder and decoder in a folder, or None.

    They end in _encoder.pth and _decoder.pth, with one beginning, and the folder has no
    config.json.
    """
    if (folder / NETWORK).exists():
        return None
    encoders = sorted(folder.glob("*_encoder.pth"))
    if len(encoders) != 1:
        return None
    name = encoders[0].name.removesuffix("_encoder.pth")
    decoder = folder / f"{name}_decoder.pth"
    return (encoders[0], decoder) if decoder.is_file() else None


def read_taesd(
    encoder: str | os.PathLike[str],
    decoder: str | os.PathLike[str],
    *,
    dtype: str = "float32",
) -> Component:
    """Reads a tiny autoencoder from the files of its encoder and its decoder.

    Args:
        encoder: file of the encoder, such as taesd_encoder.pth.
        decoder: file of the decoder.
        dtype: type of the parameters and of the computation.

    Raises:
        InputError: a file is damaged, or holds another network.
    """
    arrays: dict[str, np.ndarray] = {}
    for part, file, first in (("encoder", encoder, 0), ("decoder", decoder, 1)):
        for name, array in read_torch(Path(file)).items():
            found = re.fullmatch(r"(\d+)\.(.+)", name)
            if found is None or int(found[1]) < first:
                raise InputError(
                    f"'{file}' must hold numbered layers, got the tensor {name!r}"
                )
            arrays[f"{part}.layers.{int(found[1]) - first}.{found[2]}"] = array
    try:
        options = _options(arrays, dtype)
    except (KeyError, IndexError) as error:
        raise InputError(
            f"'{encoder}' and '{decoder}' must be the parts of a tiny autoencoder, got "
            f"no tensor {error}"
        ) from None
    network = options.build()
    shapes = param_shapes(network)
    tensors = {
        name: Tensor(array.shape, name_of(array.dtype), partial(np.asarray, array))
        for name, array in arrays.items()
    }
    where, places = Path(encoder).parent, published_places(shapes)
    params = read_params(shapes, places, tensors, where, dtype)
    return Component("AutoencoderTiny", network, params)


def _options(arrays: Mapping[str, np.ndarray], dtype: str) -> AutoencoderTinyConfig:
    """Returns the options that the tensors' names and shapes imply."""
    levels = {part: _levels(arrays, part) for part in ("encoder", "decoder")}
    last = max(int(n.split(".")[2]) for n in arrays if n.startswith("encoder."))
    first = arrays["encoder.layers.0.weight"]
    return AutoencoderTinyConfig(
        image_channels=first.shape[1],
        latent_channels=arrays[f"encoder.layers.{last}.weight"].shape[0],
        width=first.shape[0],
        encoder_blocks=levels["encoder"],
        decoder_blocks=levels["decoder"],
        pooled=any(".pool." in name for name in arrays),
        dtype=dtype,  # type: ignore[arg-type]
    )


def _levels(arrays: Mapping[str, np.ndarray], part: str) -> tuple[int, ...]:
    """Returns the number of blocks of each level; convolutions stand between levels."""
    pattern = re.compile(rf"{part}\.layers\.(\d+)\.(conv\.0\.)?weight")
    found = sorted((int(m[1]), bool(m[2])) for m in map(pattern.fullmatch, arrays) if m)
    counts, blocks = [], 0
    for _, is_block in found[1:]:
        if is_block:
            blocks += 1
        else:
            counts.append(blocks)
            blocks = 0
    return tuple(counts)
