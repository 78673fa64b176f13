"""Text and image encoders, autoencoders and denoising networks of published folders.

A component's folder has a config.json and its weights. Its configuration becomes the
options of one of our networks, whose modules have the names of the tensors.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.components.files import NETWORK, read_part
from jaxdiff.components.kind import Kind, check_inputs, plain
from jaxdiff.components.kinds import KINDS
from jaxdiff.components.places import read_params, tensors_of, wanted_tensors
from jaxdiff.components.weights import (
    STEM,
    find_tensors,
    write_tensors,
)
from jaxdiff.errors import InputError, shown
from jaxdiff.storage.files import check_new_folder, new_folder, write_json_atomic
from jaxdiff.typing import Params


@dataclass(frozen=True)
class Component:
    """Published network with its parameters.

    Attributes:
        kind: class in transformers or diffusers, such as "CLIPTextModel".
        network: Flax module; its options are `network.config`.
        params: parameters, float32 or the type they were read in.
    """

    kind: str
    network: Any
    params: Params


def read_component(
    folder: str | os.PathLike[str],
    *,
    dtype: str = "float32",
    variant: str | None = None,
    allow_bin: bool = False,
    shardings: Any = None,
) -> Component:
    """Reads an encoder of texts or images, an autoencoder, a U-Net or a transformer.

    The tensors are read one by one, each to its devices.

    Args:
        folder: folder of config.json and the weights.
        dtype: type of the parameters and of the computation: "float32", "bfloat16" or,
            if the network has the range, "float16".
        variant: variant of the weight files, such as "fp16".
        allow_bin: if True, read a .bin file if there is no safetensors file.
        shardings: tree of shardings like the parameters; None for the first device.

    Raises:
        InputError: the folder holds no such network, or its files are damaged.
    """
    path = Path(folder)
    record = read_part(path / NETWORK)
    name, kind = _kind_of(record, path)
    network = network_of(name, record, str(path / NETWORK), dtype)
    shapes = param_shapes(network)
    tensors = find_tensors(path, variant, allow_bin, kind.stem)
    if kind.prefix and not any(n.startswith(kind.prefix) for n in tensors):
        tensors = {
            n if "projection" in n else f"{kind.prefix}{n}": tensor
            for n, tensor in tensors.items()
        }
    places = kind.places(network, shapes)
    wanted = wanted_tensors(places)
    tensors = {
        n: tensor
        for n, tensor in tensors.items()
        if n in wanted or not re.fullmatch(kind.ignored, n)
    }
    params = read_params(shapes, places, tensors, path, dtype, shardings)
    return Component(name, network, params)


def write_component(component: Component, folder: str | os.PathLike[str]) -> None:
    """Writes a folder that transformers' or diffusers' `from_pretrained` reads.

    Args:
        component: network with parameters; they are written in their types.
        folder: a new or empty folder.

    Raises:
        InputError: the folder is not empty, or cannot be written.
    """
    path = Path(folder)
    check_new_folder(path)
    kind = KINDS[component.kind]
    record = config_of(component.kind, component.network)
    with new_folder(path) as writing:
        writing.mkdir(parents=True)
        write_json_atomic(writing / NETWORK, record)
        places = kind.places(component.network, component.params)
        arrays = tensors_of(component.params, places)
        write_tensors(writing / f"{kind.stem}.safetensors", arrays)


def component_class(folder: Path) -> str:
    """Returns the published class of a component.

    Raises:
        InputError: the folder holds no such network.
    """
    return _kind_of(read_part(folder / NETWORK), folder)[0]


def network_of(
    name: str,
    record: Mapping[str, Any],
    where: str = "config.json",
    dtype: str = "float32",
) -> Any:
    """Returns the network of a published configuration.

    Args:
        name: published class, such as "CLIPTextModel".
        record: contents of config.json.
        where: name of the file, for messages.
        dtype: type of the computation.

    Raises:
        InputError: an entry has an unsupported value.
    """
    kind = KINDS[name]
    entries = {**kind.defaults, **kind.fixed, **record}
    for entry, value in kind.fixed.items():
        if plain(entries[entry]) != value:
            raise InputError(
                f"'{where}': {entry} must be {value}, got {shown(entries[entry])}"
            )
    given = {ours: plain(entries[theirs]) for theirs, ours in kind.entries.items()}
    try:
        options = kind.options(**given, **kind.read(entries), dtype=dtype)
        return kind.build(options, entries)
    except (InputError, TypeError, ValueError) as error:
        raise InputError(f"'{where}': {error}") from None


def param_shapes(network: Any) -> Params:
    """Returns the shapes of a component's parameters, without any memory."""
    config = network.config
    rest: tuple[Any, ...] = ()
    if hasattr(network, "example_inputs"):
        key = jax.random.key(0)
        return jax.eval_shape(network.init, key, *network.example_inputs())["params"]
    if hasattr(network, "example_condition"):
        channels = network.in_channels or network.out_channels
        size = config.smallest_size
        shape: tuple[int, ...] = (1, size, size, channels)
        rest = jnp.zeros(1), network.example_condition(shape[1:])
    elif hasattr(config, "size"):
        shape = (1, config.size, config.size, config.channels)
    elif hasattr(config, "factor"):
        shape = (1, config.factor, config.factor, config.image_channels)
    else:
        shape = (1, 2)
    kind = np.float32 if len(shape) == 4 else np.int32
    given = jax.ShapeDtypeStruct(shape, kind)
    return jax.eval_shape(network.init, jax.random.key(0), given, *rest)["params"]


def config_of(name: str, network: Any) -> dict[str, Any]:
    """Returns the config.json of a published class with the options of our network."""
    kind, options = KINDS[name], network.config
    check_inputs(options)
    record = {
        **kind.fixed,
        **{theirs: getattr(options, ours) for theirs, ours in kind.entries.items()},
        **kind.write(options),
        **kind.describe(network),
    }
    if kind.stem == STEM:
        return {"_class_name": name, **record}
    return {"architectures": [name], **record}


def _kind_of(record: dict[str, Any], path: Path) -> tuple[str, Kind]:
    named = record.get("_class_name") or record.get("architectures")
    name = named[0] if isinstance(named, list) and named else named
    if not isinstance(name, str) or name not in KINDS:
        raise InputError(
            f"'{path / NETWORK}': the network must be one of {', '.join(KINDS)}, got "
            f"{shown(name)}"
        )
    return name, KINDS[name]
