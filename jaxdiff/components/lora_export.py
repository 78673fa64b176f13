"""Files of LoRA, out: the names of diffusers and of kohya."""

import json
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxdiff.adapters.lora import LoRA, LoRALayer, check_fits
from jaxdiff.components.component import Component
from jaxdiff.components.lora_files import HEADER, Adapters
from jaxdiff.components.lora_names import KOHYA, TEXT_2, UNET, Target, targets_of
from jaxdiff.components.weights import packed_tensors
from jaxdiff.errors import InputError
from jaxdiff.storage.files import replacing

_OF_TEXT = ("lora_linear_layer.down", "lora_linear_layer.up")


def write_lora(
    adapter: Adapters | LoRA,
    path: str | os.PathLike[str],
    networks: Mapping[str, Component],
    *,
    format: Literal["diffusers", "kohya"] = "diffusers",
) -> None:
    """Writes a file of LoRA, float32; `read_lora` reads the same numbers.

    Args:
        adapter: adapters of the networks; a `LoRA` alone is one of "unet".
        path: safetensors file to write.
        networks: networks of the model by name; see `read_lora`.
        format: "diffusers" for diffusers' `load_lora_weights`, with alphas in the
            header; or "kohya", with alphas as tensors.

    Raises:
        InputError: the adapter has embeddings, or does not fit the networks; or the
            file cannot be written.
    """
    given = Adapters({UNET: adapter}) if isinstance(adapter, LoRA) else adapter
    if given.embeddings:
        raise InputError(
            "adapter must have no embeddings to be written, got "
            f"{', '.join(given.embeddings)}. Leave them out."
        )
    both = TEXT_2 in networks  # kohya numbers two text encoders
    arrays: dict[str, np.ndarray] = {}
    header: dict[str, Any] = {}
    for network, lora in given.loras.items():
        check_fits(networks[network].params, lora)
        targets = {t.kernel: t for t in targets_of(network, networks[network])}
        layers = {targets[kernel]: layer for kernel, layer in lora.layers.items()}
        for target, layer in layers.items():
            down, up = _theirs(layer, target)
            if format == "kohya":
                name = KOHYA[network][-1 if both else 0] + target.module.replace(
                    ".", "_"
                )
                alpha = np.asarray(layer.scale * layer.rank, np.float32)
                arrays |= {
                    f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up,
                    f"{name}.alpha": alpha,
                }  # fmt: skip
            else:
                # Diffusers finds a text encoder's layers by its own names only.
                names = ("lora_A", "lora_B") if network == UNET else _OF_TEXT
                for factor, tensor in zip(names, (down, up), strict=True):
                    arrays[f"{network}.{target.module}.{factor}.weight"] = tensor
        entries = _peft_config(layers)
        header |= {f"{network}.{key}": value for key, value in entries.items()}
    texts = {HEADER: json.dumps(header)} if format == "diffusers" else {}
    with replacing(Path(path)) as file:
        file.write(packed_tensors(arrays, texts))


def _theirs(layer: LoRALayer, target: Target) -> tuple[np.ndarray, np.ndarray]:
    """Returns the factors of a layer in PyTorch's layout."""
    down, up = (np.asarray(x, np.float32) for x in (layer.down, layer.up))
    sides = target.place.shape[2:]
    ones = (1, 1) if sides else ()
    up = up.reshape(up.shape[-2:]).T
    down = down.transpose(3, 2, 0, 1) if down.ndim == 4 else down.T
    return down.reshape(*down.shape[:2], *sides), up.reshape(*up.shape, *ones)


def _peft_config(layers: Mapping[Target, LoRALayer]) -> dict[str, Any]:
    """Returns peft's configuration of layers: ranks and alphas, with exceptions."""
    # A text encoder's names lack their first part in newer versions of transformers.
    names = {target: target.module.removeprefix("text_model.") for target in layers}
    ranks = {names[target]: layer.rank for target, layer in layers.items()}
    alphas = {
        names[target]: float(layer.scale) * layer.rank
        for target, layer in layers.items()
    }
    entries: dict[str, Any] = {"target_modules": sorted(ranks)}
    for values, one, others in (
        (ranks, "r", "rank_pattern"), (alphas, "lora_alpha", "alpha_pattern")
    ):  # fmt: skip
        usual = Counter(values.values()).most_common(1)[0][0]
        entries[one] = usual
        entries[others] = {n: value for n, value in values.items() if value != usual}
    return entries
