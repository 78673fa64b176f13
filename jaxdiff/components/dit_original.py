"""Diffusion transformer in its authors' layout: one .pt file (Peebles & Xie 2023).

The file is a pickle; `read_torch` makes only arrays of it, and executes nothing. The
options follow from the tensors, except the number of heads. The numerics are those of
the training. Names are translated to diffusers', with query, key and value apart.
"""

import math
import os
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np

from jaxdiff.components.component import Component, param_shapes
from jaxdiff.components.dit import DIT
from jaxdiff.components.places import read_params
from jaxdiff.components.weights import Tensor, name_of
from jaxdiff.errors import InputError
from jaxdiff.networks.dit import fixed_positions
from jaxdiff.networks.dit_options import SIZES, DiTConfig
from jaxdiff.storage.torch_pickle import read_torch

_EMBED = "transformer_blocks.{}.norm1.emb"
_NAMES = {
    "x_embedder.proj": "pos_embed.proj",
    "final_layer.adaLN_modulation.1": "proj_out_1",
    "final_layer.linear": "proj_out_2",
}  # fmt: skip
_SHARED = {
    "t_embedder.mlp.0": f"{_EMBED}.timestep_embedder.linear_1",
    "t_embedder.mlp.2": f"{_EMBED}.timestep_embedder.linear_2",
    "y_embedder.embedding_table": f"{_EMBED}.class_embedder.embedding_table",
}  # fmt: skip
_OF_BLOCK = {
    "attn.proj": "attn1.to_out.0", "mlp.fc1": "ff.net.0.proj", "mlp.fc2": "ff.net.2",
    "adaLN_modulation.1": "norm1.linear",
}  # fmt: skip
_QKV = ("attn1.to_q", "attn1.to_k", "attn1.to_v")
_CLOSE = 1e-3
"""Largest difference of the file's positions from the formula's."""


def read_dit(
    file: str | os.PathLike[str], *, heads: int | None = None, dtype: str = "float32"
) -> Component:
    """Reads a diffusion transformer from its authors' file.

    Args:
        file: file of the state, such as DiT-XL-2-256x256.pt.
        heads: number of attention heads; None for the number of the published size.
        dtype: type of the parameters and of the computation.

    Raises:
        InputError: the file is damaged, or holds another network.
    """
    path = Path(file)
    arrays = read_torch(path)
    try:
        config = _options(arrays, heads, dtype)
        outputs = len(arrays["final_layer.linear.bias"]) // config.patch**2
        classes = len(arrays["y_embedder.embedding_table.weight"]) - 1
        network = config.build(
            outputs, classes, arrays["x_embedder.proj.weight"].shape[1]
        )
    except KeyError as error:
        raise InputError(
            f"'{file}' must hold a diffusion transformer, got no tensor {error}"
        ) from None
    except (InputError, IndexError, TypeError, ValueError) as error:
        raise InputError(f"'{file}': {error}") from None
    found = _renamed(arrays, config.sizes.depth)
    tensors = {
        name: Tensor(array.shape, name_of(array.dtype), partial(np.asarray, array))
        for name, array in found.items()
    }
    shapes = param_shapes(network)
    params = read_params(shapes, DIT.places(network, shapes), tensors, path, dtype)
    return Component("DiTTransformer2DModel", network, params)


def _options(
    arrays: Mapping[str, np.ndarray], heads: int | None, dtype: str
) -> DiTConfig:
    """Returns the options that the tensors' names and shapes imply."""
    width, _, patch, _ = arrays["x_embedder.proj.weight"].shape
    depth = 1 + max(int(m[1]) for m in map(_block, arrays) if m)
    if heads is None:
        sizes = {(size.width, size.depth): size.heads for size in SIZES.values()}
        if (width, depth) not in sizes:
            raise InputError(
                "heads must be given for a network of another size than the published "
                f"ones, got {width} channels and {depth} blocks"
            )
        heads = sizes[width, depth]
    positions = arrays["pos_embed"]
    side = math.isqrt(positions.shape[1])
    expected = fixed_positions(side, side, width, (side, side)).reshape(1, -1, width)
    if positions.shape != expected.shape or not np.allclose(
        positions, expected, atol=_CLOSE
    ):
        raise InputError("pos_embed must be fixed sinusoids of a square, got others")
    return DiTConfig(
        width=width, depth=depth, heads=heads, patch=patch,
        sample_size=(side * patch, side * patch), dtype=dtype,  # type: ignore[arg-type]
    )  # fmt: skip


def _block(name: str) -> re.Match[str] | None:
    return re.fullmatch(r"blocks\.(\d+)\.(.+)\.(weight|bias)", name)


def _renamed(arrays: Mapping[str, np.ndarray], depth: int) -> dict[str, np.ndarray]:
    """Returns the tensors by diffusers' names; an unknown name stays."""
    found: dict[str, np.ndarray] = {}
    for name, array in arrays.items():
        module, _, end = name.rpartition(".")
        block = _block(name)
        if name == "pos_embed":
            continue
        if module in _SHARED:
            for i in range(depth):
                found[f"{_SHARED[module].format(i)}.{end}"] = array
        elif block is not None and block[2] == "attn.qkv" and len(array) % 3 == 0:
            for part, piece in zip(_QKV, np.split(array, 3), strict=True):
                found[f"transformer_blocks.{block[1]}.{part}.{end}"] = piece
        elif block is not None:
            module = _OF_BLOCK.get(block[2], block[2])
            found[f"transformer_blocks.{block[1]}.{module}.{end}"] = array
        else:
            found[f"{_NAMES[module]}.{end}" if module in _NAMES else name] = array
    return found
