"""Files of LoRA: diffusers', peft's, kohya's and cloneofsimo's names.

PyTorch stores `down` as [rank, in] and `up` as [out, rank]; those of convolutions are
[rank, in, height, width] and [out, rank, 1, 1]. The scale of a layer is alpha / rank.
Alpha is a tensor in kohya's files. In others it is in adapter_config.json or in the
header; without both it is the rank.
"""

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxdiff.adapters.lora import LoRA, LoRALayer
from jaxdiff.components.component import Component
from jaxdiff.components.files import read_part
from jaxdiff.components.lora_names import (
    TEXT,
    TEXT_2,
    UNET,
    Target,
    names_of,
    numbered,
    original_blocks,
    targets_of,
)
from jaxdiff.components.weights import Tensor, metadata_of, tensors_of_file
from jaxdiff.errors import InputError, first_few, shown

CONFIG = "adapter_config.json"
FILES = ("adapter_model", "pytorch_lora_weights")
"""First parts of the names of the files in a folder: peft's and diffusers'."""
HEADER = "lora_adapter_metadata"
"""Entry of the header in which diffusers writes peft's configuration."""
_REFUSED = {
    "DoRA": r"\.(dora_scale|lora_magnitude_vector)",
    "LoHa": r"\.hada_", "LoKr": r"\.lokr_", "OFT": r"[._]oft_",
    "LoCon with a core (Tucker)": r"\.lora_mid\.",
}  # fmt: skip
"""Other kinds of adapters, by the names of their tensors."""
_FACTOR = re.compile(
    r"(?P<layer>.+?)(?:"
    r"\.lora_(?P<peft>[AB])(?:\.\w+)?\.weight"
    r"|(?:\.lora|_lora|\.lora_linear_layer)\.(?P<diffusers>down|up)\.weight"
    r"|\.lora_(?P<kohya>down|up)\.weight"
    r"|(?:\.lora|_lora|\.lora_linear_layer)?\.(?P<alpha>alpha))"
)
"""Name of a tensor: a layer, and its part."""
_NUMBERED = re.compile(rf"({TEXT_2}|{TEXT}|{UNET}):(\d+):(up|down)")
_EMBED = "<embed>"


@dataclass(frozen=True)
class Adapters:
    """Contents of a file of LoRA.

    Attributes:
        loras: adapters by the name of the network: "unet", "text_encoder" and
            "text_encoder_2".
        embeddings: vectors of new tokens by token, and by the name of the text encoder,
            float32 [vectors, width].
    """

    loras: dict[str, LoRA]
    embeddings: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)


def read_lora(
    path: str | os.PathLike[str],
    networks: Mapping[str, Component],
    *,
    allow_bin: bool = False,
) -> Adapters:
    """Reads a file of LoRA for the networks of a model.

    Every tensor is used once. The types F32, F16 and BF16 become float32.

    Args:
        path: safetensors file; or a folder with one of `FILES`, and with peft's
            adapter_config.json.
        networks: networks of the model by name: "unet", "text_encoder" and
            "text_encoder_2".
        allow_bin: if True, also read a .bin or .pt file, a pickle; see `read_torch`.

    Raises:
        InputError: the file is damaged, holds another kind of adapter, or does not fit
            the networks; the message lists the tensors.
    """
    file = file_in(Path(path))
    tensors = tensors_of_file(file, allow_bin)
    header = metadata_of(file) if file.suffix == ".safetensors" else {}
    for kind, pattern in _REFUSED.items():
        if any(re.search(pattern, name) for name in tensors):
            raise InputError(f"'{file}' must hold LoRA, got {kind}.")
    targets = [
        target
        for name, component in networks.items()
        for target in targets_of(name, component)
    ]
    if any(_NUMBERED.fullmatch(name) for name in tensors):
        return _of_numbers(file, tensors, header, targets)
    chosen = _by_names(file, tensors, targets, networks)
    config = _config(file, header)
    loras: dict[str, dict[str, LoRALayer]] = {}
    for target, parts in chosen:
        rank = tensors[parts["down"]].shape[0]
        if "alpha" in parts:
            scale = float(tensors[parts["alpha"]].read().item()) / rank
        else:
            scale = _scale(config, target, rank)
        layer = _layer(tensors, parts, target, scale)
        loras.setdefault(target.network, {})[target.kernel] = layer
    return Adapters({name: LoRA(layers) for name, layers in loras.items()})


def file_in(path: Path) -> Path:
    """Returns the file of LoRA in a folder, or the file itself.

    Raises:
        InputError: the folder has none of `FILES`.
    """
    if not path.is_dir():
        return path
    endings = (".safetensors", ".bin")
    names = [stem + ending for ending in endings for stem in FILES]
    for name in names:
        if (path / name).is_file():
            return path / name
    raise InputError(
        f"'{path}' must hold {' or '.join(names[:2])}, got none. Name the file itself."
    )


def _by_names(
    file: Path,
    tensors: Mapping[str, Tensor],
    targets: Sequence[Target],
    networks: Mapping[str, Component],
) -> list[tuple[Target, dict[str, str]]]:
    """Returns the layers of a file, with the names of their tensors.

    Raises:
        InputError: a tensor has no place in the networks.
    """
    layers: dict[str, dict[str, str]] = {}
    unknown = []
    for name in tensors:
        match = _FACTOR.fullmatch(name)
        if match is None:
            unknown.append(f"{name}, which is no part of LoRA")
            continue
        peft = {"A": "down", "B": "up", None: None}[match["peft"]]
        part = peft or match["diffusers"] or match["kohya"] or "alpha"
        layer = match["layer"].removeprefix("base_model.model.")
        layer = layer.replace(".processor", "")
        if part in layers.setdefault(layer, {}):
            unknown.append(f"{name}, which is there twice")
        layers[layer][part] = name
    if unknown:
        raise _unfit(file, unknown)
    named = _table(targets, networks, bare=False)
    if not any(layer in named for layer in layers):
        # The names do not say of which network they are.
        tables = [
            _table([t for t in targets if t.network == name], networks, bare=True)
            for name in networks
        ]
        wrong = [_wrong(tensors, layers, table) for table in tables]
        named = tables[min(range(len(tables)), key=lambda i: len(wrong[i]))]
    wrong_ones = _wrong(tensors, layers, named)
    if wrong_ones or not layers:
        raise _unfit(file, wrong_ones or ["no tensors"])
    return [(named[layer], parts) for layer, parts in layers.items()]


def _table(
    targets: Sequence[Target], networks: Mapping[str, Component], bare: bool
) -> dict[str, Target]:
    """Returns the layers by all names that they have in files."""
    unet = networks.get(UNET)
    blocks = {} if unet is None else original_blocks(unet.network)
    return {
        name: target for target in targets for name in names_of(target, blocks, bare)
    }


def _wrong(
    tensors: Mapping[str, Tensor],
    layers: Mapping[str, dict[str, str]],
    named: Mapping[str, Target],
) -> list[str]:
    """Returns what does not fit the layers of a table; each layer fits once."""
    found, seen = [], set()
    for layer, parts in layers.items():
        place = layer in named and named[layer][:2]
        first = next(iter(parts.values()))
        missing = {"down", "up"} - parts.keys()
        if layer not in named:
            found.append(f"{first}, whose layer the model lacks")
        elif missing:
            found.append(f"{first} without {' and '.join(sorted(missing))}")
        elif place in seen:
            found.append(f"{first}, whose layer is there twice")
        elif not _fits(tensors, parts, named[layer]):
            shapes = [list(tensors[parts[part]].shape) for part in ("down", "up")]
            found.append(
                f"{first} of {shapes[0]} and {shapes[1]}, for "
                f"{list(named[layer].place.shape)}"
            )
        elif "alpha" in parts and math.prod(tensors[parts["alpha"]].shape) != 1:
            found.append(f"{parts['alpha']}, which is not one number")
        seen.add(place)
    return found


def _unfit(file: Path, wrong: Sequence[str]) -> InputError:
    return InputError(
        f"the tensors in '{file}' must fit the model, got {len(wrong)} that do not: "
        f"{first_few(wrong)}. Use an adapter of this model."
    )


def _fits(
    tensors: Mapping[str, Tensor], parts: Mapping[str, str], target: Target
) -> bool:
    """Returns True if the shapes of a layer's factors fit its kernel."""
    down, up = (tensors[parts[part]].shape for part in ("down", "up"))
    outs, ins, *sides = target.place.shape
    ones = ((), (1, 1))
    matrix = len(target.place.order) == 2
    return (
        len(down) >= 2
        and down[0] > 0
        and up[:2] == (outs, down[0])
        and up[2:] in ones
        and down[1] == ins
        and (down[2:] in ones if matrix else down[2:] == tuple(sides))
    )


def _layer(
    tensors: Mapping[str, Tensor],
    parts: Mapping[str, str],
    target: Target,
    scale: float,
) -> LoRALayer:
    """Returns the factors of a layer in our layout."""
    down, up = (
        np.asarray(tensors[parts[part]].read()).astype(np.float32)
        for part in ("down", "up")
    )
    up = up.reshape(up.shape[:2]).T
    if len(target.place.order) == 2:
        down = down.reshape(down.shape[:2]).T
    else:
        down, up = down.transpose(2, 3, 1, 0), up[None, None]
    return LoRALayer(jnp.asarray(down), jnp.asarray(up), jnp.float32(scale))


def _config(file: Path, header: Mapping[str, str]) -> dict[str, Any]:
    """Returns peft's configuration of a file, by network, or of all under ""."""
    if (file.parent / CONFIG).is_file() and file.stem == FILES[0]:
        return {"": read_part(file.parent / CONFIG)}
    try:
        entries = json.loads(header.get(HEADER, "{}"))
    except (ValueError, RecursionError):
        entries = None
    if not isinstance(entries, dict):
        raise InputError(
            f"'{file}' must have a dictionary in JSON as {HEADER} of its header, got "
            f"{shown(header[HEADER])}. Save it again."
        )
    found: dict[str, Any] = {}
    for name, value in entries.items():
        network, _, entry = name.partition(".")
        found.setdefault(network, {})[entry] = value
    return found


def _scale(config: Mapping[str, Any], target: Target, rank: int) -> float:
    """Returns alpha / rank of a layer, by peft's configuration."""
    entries = config.get(target.network, config.get("", {}))
    alpha = entries.get("lora_alpha", rank)
    try:
        for pattern, value in (entries.get("alpha_pattern") or {}).items():
            if re.fullmatch(rf"(.*\.)?({pattern})", target.module):
                alpha = value
                break
    except (re.error, AttributeError):
        raise InputError(
            "alpha_pattern must have numbers by patterns, got "
            f"{shown(entries['alpha_pattern'])}"
        ) from None
    if type(alpha) not in (int, float):
        raise InputError(f"lora_alpha must be a number, got {shown(alpha)}")
    root = entries.get("use_rslora", False)  # Kalajdzievski 2023
    return alpha / (math.sqrt(rank) if root else rank)


def _of_numbers(
    file: Path,
    tensors: Mapping[str, Tensor],
    header: Mapping[str, str],
    targets: Sequence[Target],
) -> Adapters:
    """Reads a file of cloneofsimo, whose layers have numbers; their scale is 1."""
    embeddings, unknown = {}, []
    numbers: dict[str, dict[int, dict[str, str]]] = {}
    for name, tensor in tensors.items():
        match = _NUMBERED.fullmatch(name)
        if match:
            layers = numbers.setdefault(match[1], {})
            layers.setdefault(int(match[2]), {})[match[3]] = name
        elif header.get(name) == _EMBED and len(tensor.shape) == 1:
            vector = np.asarray(tensor.read()).astype(np.float32)
            embeddings[name] = {TEXT: vector[None]}
        else:
            unknown.append(f"{name}, which is no part of LoRA")
    if unknown:
        raise _unfit(file, unknown)
    loras = {}
    for network, layers in numbers.items():
        parts = [layers[number] for number in sorted(layers)]
        found = [target for target in targets if target.network == network]
        wrong: list[str] = []
        for order in ("old", "new") if network == UNET else ("text",):
            chosen = numbered(found, order)
            wrong = [f"{len(parts)} layers of {network}, not {len(chosen)}"]
            if len(parts) == len(chosen):
                names = {target.module: target for target in chosen}
                layers_of = dict(zip(names, parts, strict=True))
                wrong = _wrong(tensors, layers_of, names)
            if not wrong:
                break
        if wrong:
            raise _unfit(file, wrong)
        loras[network] = LoRA(
            {
                target.kernel: _layer(tensors, part, target, scale=1)
                for target, part in zip(chosen, parts, strict=True)
            }
        )
    return Adapters(loras, embeddings)
