"""Folders of diffusers' UNet2DModel: reading and writing."""

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxdiff.components.files import NETWORK, known_entries, read_part
from jaxdiff.components.places import read_params, tensors_of
from jaxdiff.components.unet_2d import Model, UNet2DModel
from jaxdiff.components.unet_2d_export import unet_2d_of
from jaxdiff.components.unet_2d_names import places
from jaxdiff.components.weights import STEM, find_tensors, write_tensors
from jaxdiff.errors import InputError, shown
from jaxdiff.serialization import from_dict, to_dict
from jaxdiff.storage.files import write_json_atomic
from jaxdiff.typing import Params

KIND = "UNet2DModel"


def read_fields(path: Path, size: int | None = None) -> UNet2DModel:
    """Returns the fields of a network's config.json.

    Args:
        path: the file.
        size: height and width of the images, if the file's sample_size is null.

    Raises:
        InputError: the file has another class, unsupported entries or another size.
    """
    record = read_part(path)
    name = record.get("_class_name", KIND)
    if name not in (KIND, "UNetUnconditionalModel"):
        raise InputError(
            f"'{path}': _class_name must be {KIND}, got {shown(name)}. Import "
            "the whole pipeline of a network with text."
        )
    known = [field.name for field in fields(UNet2DModel)]
    data = known_entries(record, known, f"'{path}'")
    if size is not None:
        if data.get("sample_size") not in (None, size, [size, size]):
            raise InputError(
                f"size must be the sample_size of '{path}', "
                f"{shown(data['sample_size'])}, got {size}"
            )
        data["sample_size"] = size
    if type(data.get("sample_size")) is int:
        data["sample_size"] = [data["sample_size"]] * 2
    return from_dict(UNet2DModel, data, f"'{path}' has unsupported entries")


def read_model(folder: Path, dtype: str = "float32") -> Model:
    """Returns the network of a folder, without its parameters.

    Twice as many outputs as inputs are a learned variance. Other input channels beyond
    the outputs' are a condition's image.

    Raises:
        InputError: an entry has an unsupported value.
    """
    path = folder / NETWORK
    given = read_fields(path)
    learns = given.out_channels == 2 * given.in_channels
    try:
        model = given.model(null_class=False, learn_variance=learns)
        config: Any = replace(model.config, dtype=dtype)  # type: ignore[arg-type]
    except InputError as error:
        raise InputError(f"'{path}': {error}") from error
    return model._replace(config=config)


def read_parameters(
    folder: Path,
    model: Model,
    variant: str | None = None,
    allow_bin: bool = False,
    dtype: str = "float32",
) -> Params:
    """Reads the parameters of a network from the files of the weights.

    Raises:
        InputError: the files are missing or damaged, or do not match the network.
    """
    shapes = model.shapes()
    found = places(shapes, len(model.config.widths))
    tensors = find_tensors(folder, variant, allow_bin)
    return read_params(shapes, found, tensors, folder, dtype)


def described(model: Model, params: Params) -> tuple[dict[str, Any], Any]:
    """Returns a network as in diffusers: its config.json, and its tensors by name.

    Raises:
        InputError: diffusers has no such network.
    """
    record = to_dict(unet_2d_of(model))
    height, width = record["sample_size"]
    if height == width:
        record["sample_size"] = height
    arrays = jax.tree.map(np.asarray, params)
    found = tensors_of(arrays, places(arrays, len(model.config.widths)))
    return record, found


def write_unet_2d(model: Model, params: Params, folder: Path) -> None:
    """Writes a folder that diffusers' `from_pretrained` reads.

    Args:
        model: network, and the shape and classes of its images.
        params: its parameters; they are written in their types.
        folder: a new folder.

    Raises:
        InputError: diffusers has no such network.
    """
    record, arrays = described(model, params)
    folder.mkdir(parents=True)
    write_tensors(folder / f"{STEM}.safetensors", arrays)
    write_json_atomic(folder / NETWORK, {"_class_name": KIND, **record})
