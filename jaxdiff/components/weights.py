"""Tensors of a model folder: names and shapes are checked before any values are read.

By default only safetensors files are read, which hold numbers and no code. The library
of this format checks that sizes, shapes and the file's length agree.
"""

import json
import math
import re
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxdiff.components.files import check_no_pointer, read_part
from jaxdiff.errors import InputError, first_line, require, shown
from jaxdiff.storage.files import open_regular
from jaxdiff.storage.torch_pickle import read_torch

STEM = "diffusion_pytorch_model"
"""First part of the weight files' names in diffusers."""
TRANSFORMERS, PYTORCH = "model", "pytorch_model"
"""First parts of the names in transformers: of safetensors and of .bin files."""
_DTYPES = ("F32", "F16", "BF16")


class Tensor(NamedTuple):
    """Shape and type of a tensor in a file, and a function that reads its values."""

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], np.ndarray]


def find_tensors(
    folder: Path,
    variant: str | None = None,
    allow_bin: bool = False,
    stem: str = STEM,
) -> dict[str, Tensor]:
    """Returns the tensors of a model folder by name; no values are read yet.

    Args:
        folder: folder of the model's config.json.
        variant: variant in the files' names, such as "fp16". By default the files
            without a variant, or the only variant if there are none.
        allow_bin: if True, read a .bin file if there is no safetensors file of this
            variant. It is a pickle; `read_torch` makes only arrays of it and executes
            nothing.
        stem: first part of the weight files' names.

    Raises:
        InputError: there are no such files, or they are damaged.

    Warns:
        UserWarning: the tensors are those of a variant, which `variant` does not name.
    """
    path = _chosen(folder, variant, allow_bin, stem)
    if path.suffix == ".json":
        return _of_index(path)
    if path.suffix == ".safetensors":
        return _of_file(path)
    return _of_pickle(path)


def _of_pickle(path: Path) -> dict[str, Tensor]:
    check_no_pointer(path)
    return {
        name: Tensor(array.shape, name_of(array.dtype), partial(np.asarray, array))
        for name, array in read_torch(path).items()
    }


def tensors_of_file(path: Path, allow_bin: bool = False) -> dict[str, Tensor]:
    """Returns the tensors of one file by name; no values are read yet.

    Args:
        path: safetensors file.
        allow_bin: if True, also read other files, as pickles; see `find_tensors`.

    Raises:
        InputError: the file is damaged, or is a pickle and allow_bin is False.
    """
    if path.suffix == ".safetensors":
        return _of_file(path)
    check_bin(path, allow_bin)
    return _of_pickle(path)


def check_bin(path: Path, allow_bin: bool) -> None:
    """Raises an error for a pickle without permission to read it."""
    if not allow_bin:
        raise InputError(
            f"'{path}' must be a safetensors file, got another one. Read a .bin or .pt "
            "file, a pickle, with --bin."
        )


def metadata_of(path: Path) -> dict[str, str]:
    """Returns the texts in the header of a safetensors file.

    Raises:
        InputError: the file is damaged.
    """
    safetensors = require("safetensors")
    try:
        open_regular(path).close()
        with safetensors.safe_open(path, "numpy") as file:
            return file.metadata() or {}
    except (OSError, safetensors.SafetensorError) as error:
        raise _unreadable(path, error) from error


def weight_files(
    folder: Path, variant: str | None = None, allow_bin: bool = False
) -> list[Path]:
    """Returns the files that `find_tensors` reads: an index or the only file first.

    Raises:
        InputError: there are no such files, or an index is damaged.
    """
    diffusers = any(path.name.startswith(STEM) for path in folder.glob("*"))
    first = _chosen(folder, variant, allow_bin, STEM if diffusers else TRANSFORMERS)
    if first.suffix != ".json":
        return [first]
    return [first, *(first.with_name(name) for name in _named(first)[0])]


def plain_name(file: Path) -> str:
    """Returns the name of a weight file, or of an index, without its variant."""
    stem = STEM if file.name.startswith(STEM) else TRANSFORMERS
    return f"{stem}.safetensors{'.index.json' if file.suffix == '.json' else ''}"


def has_variant(folder: Path, variant: str | None) -> bool:
    """Returns True if a folder has weights of this variant."""
    return variant is not None and any(folder.glob(f"*.{variant}.*"))


def _chosen(folder: Path, variant: str | None, allow_bin: bool, stem: str) -> Path:
    """Returns the file of the weights, or their index; see `find_tensors`."""
    names = _candidates(folder, variant, stem)
    old = PYTORCH if stem == TRANSFORMERS else stem
    binary = folder / f"{old}{f'.{variant}' if variant else ''}.bin"
    if not names and variant is None and not (binary.exists() and allow_bin):
        names = _variants(folder, stem)
        if names:
            plain = f"; {binary.name}, a pickle, is read with --bin" * binary.exists()
            warnings.warn(
                f"read the variant {names[0]} of the weights in '{folder}', because it "
                f"has no {stem}.safetensors{plain}",
                stacklevel=3,
            )
    if names:
        return folder / names[0]
    if binary.exists() and allow_bin:
        return binary
    ending = f" of the variant {variant}" if variant else ""
    pickle = ". Read its .bin file, a pickle, with --bin." * binary.exists()
    raise InputError(
        f"'{folder}' must hold weights{ending}, got no {stem}.safetensors{pickle}"
    )


def _candidates(folder: Path, variant: str | None, stem: str) -> list[str]:
    """Returns the names of existing files that may hold the weights, the best first."""
    names = [f"{stem}.safetensors", f"{stem}.safetensors.index.json"]
    if variant is not None:
        names = [
            f"{stem}.{variant}.safetensors",
            f"{stem}.safetensors.index.{variant}.json",
            f"{stem}.safetensors.{variant}.index.json",  # older versions
        ]
    return [name for name in names if (folder / name).is_file()]


def _variants(folder: Path, stem: str) -> list[str]:
    """Returns the file of the only variant of the weights; [] if there is none.

    Raises:
        InputError: there are several variants.
    """
    pattern = re.compile(
        rf"{stem}\.(?!safetensors)([^.]+)\.safetensors"
        rf"|{stem}\.safetensors\.(?:index\.([^.]+)|([^.]+)\.index)\.json"
    )
    files = sorted(path.name for path in folder.iterdir())
    found: dict[str, str] = {}
    for name in files:
        match = pattern.fullmatch(name)
        if match and "-of-" not in name:
            found.setdefault(next(filter(None, match.groups())), name)
    if len(found) > 1:
        raise InputError(
            f"'{folder}' must have one variant of the weights, got "
            f"{', '.join(found.values())}. Choose one with --variant."
        )
    return list(found.values())


def _of_file(path: Path) -> dict[str, Tensor]:
    """Returns the tensors of one safetensors file."""
    check_no_pointer(path)
    safetensors = require("safetensors")
    try:
        open_regular(path).close()  # the library would wait for a pipe
        with safetensors.safe_open(path, "numpy") as file:
            heads = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            shapes = {name: tuple(head.get_shape()) for name, head in heads.items()}
            dtypes = {name: head.get_dtype() for name, head in heads.items()}
    except (OSError, safetensors.SafetensorError) as error:
        raise _unreadable(path, error) from error

    def reader(name: str) -> Callable[[], np.ndarray]:
        def read() -> np.ndarray:
            try:
                with safetensors.safe_open(path, "numpy") as file:
                    return file.get_tensor(name)
            except (OSError, safetensors.SafetensorError) as error:
                raise _unreadable(path, error) from error

        return read

    return {name: Tensor(shapes[name], dtypes[name], reader(name)) for name in shapes}


def _named(path: Path) -> tuple[list[str], dict[str, str]]:
    """Returns the files that an index names, and the file of each tensor."""
    places = read_part(path).get("weight_map")
    if not isinstance(places, dict) or not all(
        isinstance(x, str) for x in places.values()
    ):
        raise InputError(f"'{path}' must be an index with a weight_map of names")
    names = sorted(set(places.values()))
    for name in names:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise InputError(
                f"'{path}' must name safetensors files in its folder, got {shown(name)}"
            )
    return names, places


def _of_index(path: Path) -> dict[str, Tensor]:
    """Returns the tensors of the files that an index names."""
    found: dict[str, Tensor] = {}
    names, places = _named(path)
    for name in names:
        tensors = _of_file(path.with_name(name))
        wanted = {tensor for tensor, place in places.items() if place == name}
        differing = sorted(wanted ^ tensors.keys())
        if differing:
            raise InputError(
                f"'{path.with_name(name)}' must hold the tensors that its index names, "
                f"got differences in {', '.join(differing)}"
            )
        found |= tensors
    return found


def check_tensors(
    tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], where: Path
) -> None:
    """Checks names, shapes and types of the tensors.

    Args:
        tensors: tensors of a folder, by name.
        shapes: expected shapes, by name.
        where: the folder, for error messages.

    Raises:
        InputError: a tensor is missing, unknown, or of another shape or type; the
            message lists them.
    """
    missing = sorted(shapes.keys() - tensors.keys())
    unknown = sorted(tensors.keys() - shapes.keys())
    both = sorted(shapes.keys() & tensors.keys())
    wrong = [
        f"{name} is {list(tensors[name].shape)}, not {list(shapes[name])}"
        for name in both
        if tensors[name].shape != shapes[name]
    ]
    types = [
        f"{name} is {tensors[name].dtype}, not {' or '.join(_DTYPES)}"
        for name in both
        if tensors[name].dtype not in _DTYPES
    ]
    reasons = [
        f"{len(names)} {word}: {', '.join(names)}"
        for names, word in (
            (missing, "missing"), (unknown, "unknown"), (wrong, "of another shape"),
            (types, "of another type"),
        )
        if names
    ]  # fmt: skip
    if reasons:
        raise InputError(
            f"the tensors in '{where}' must match its config.json, got "
            f"{'; '.join(reasons)}"
        )


def write_tensors(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes a safetensors file in the form that diffusers writes for PyTorch."""
    module: Any = require("safetensors.numpy")
    module.save_file(_contiguous(arrays), path, metadata={"format": "pt"})


def packed_tensors(
    arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> bytes:
    """Returns the bytes of a small safetensors file, with texts for its header."""
    module: Any = require("safetensors.numpy")
    return module.save(_contiguous(arrays), {"format": "pt", **metadata})


def _contiguous(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: np.ascontiguousarray(a) for name, a in arrays.items()}


def name_of(dtype: np.dtype) -> str:
    """Returns the name of a type in safetensors."""
    return {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}.get(
        dtype.name, dtype.name
    )


def _unreadable(path: Path, error: Exception) -> InputError:
    return InputError(
        f"'{path}' must be a complete safetensors file, got: {first_line(error)}. "
        "Download it again."
    )


def file_size(shapes: Mapping[str, tuple[int, ...]], dtype: str = "F32") -> int:
    """Returns the bytes of the safetensors file that PyTorch writes of these tensors.

    Args:
        shapes: shapes of the tensors by name.
        dtype: type of all tensors: "F32", "F16" or "BF16".
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end, width = 0, 4 if dtype == "F32" else 2
    for name in sorted(shapes):
        begin, end = end, end + width * math.prod(shapes[name])
        header[name] = {
            "dtype": dtype, "shape": list(shapes[name]), "data_offsets": [begin, end]
        }  # fmt: skip
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    # The header begins with its length, and is padded to a multiple of 8 bytes.
    return 8 + -(-len(text) // 8) * 8 + end
