"""Parts of a model folder of diffusers: where the network and the scheduler are."""

from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

from jaxdiff.components.files import NETWORK, read_part
from jaxdiff.errors import InputError, shown
from jaxdiff.runs.folder import CHECKPOINTS

INDEX = "model_index.json"
SCHEDULER = "scheduler_config.json"
VERSION = "0.42.1"
"""Version of diffusers that wrote and read such folders in the tests."""
_PIPELINES = ("DDPMPipeline", "DDIMPipeline", "DiffusionPipeline")
_LATER = ("text_encoder", "tokenizer", "vae", "vqvae", "vqgan", "movq", "transformer")
"""Parts of models that are no U-Net of pixels."""


class Parts(NamedTuple):
    """Places of a model's parts.

    Attributes:
        network: folder of the network's config.json and weights.
        scheduler: file of the scheduler; None for a bare network.
        pipeline: class of the pipeline; None without an index.
        scheduler_class: class of the scheduler in the index; None without an index.
    """

    network: Path
    scheduler: Path | None = None
    pipeline: str | None = None
    scheduler_class: Any = None


def find_parts(path: Path, others: Collection[str] = ()) -> Parts:
    """Returns the parts of the folder of a model of pixels.

    Args:
        path: folder.
        others: classes of pipelines that are read elsewhere, for the message.

    Raises:
        InputError: the folder holds no such model, or one that is not supported.
    """
    if not path.is_dir():
        raise InputError(f"there is no folder '{path}'. Check the path.")
    if (path / INDEX).exists():
        index = read_part(path / INDEX)
        pipeline, scheduler_class = _check_index(index, path / INDEX, others)
        return Parts(
            _part(path, "unet", NETWORK).parent,
            _part(path, "scheduler", SCHEDULER),
            pipeline,
            scheduler_class,
        )
    if (path / CHECKPOINTS).exists():
        raise InputError(f"'{path}' is a run of jaxdiff. Use it without an import.")
    if (path / NETWORK).exists():
        return Parts(path)
    configs = (*path.glob(f"*/{NETWORK}"), *path.glob(f"*/{SCHEDULER}"))
    found = {config.parent.name for config in configs}
    others = sorted(name for name in found if name.startswith(_LATER))
    if others:
        raise InputError(
            f"'{path}' must hold the {INDEX} of a pipeline with {', '.join(others)}, "
            "got none. Download the whole folder."
        )
    if "unet" in found and found <= {"unet", "scheduler"}:
        scheduler = path / "scheduler" / SCHEDULER
        return Parts(path / "unet", scheduler if scheduler.exists() else None)
    if (path / SCHEDULER).exists() or found == {"scheduler"}:
        raise InputError(
            f"'{path}' must hold a network (unet/{NETWORK} or {NETWORK}), got only a "
            "scheduler. Name the folder of the whole model."
        )
    raise InputError(
        f"'{path}' must hold {INDEX}, {NETWORK} or unet/{NETWORK}, got "
        f"{', '.join(sorted(found)) or 'none'}. Name a folder that diffusers wrote."
    )


def _part(path: Path, name: str, file: str) -> Path:
    """Returns the file of a pipeline's part: in its own folder, or beside the index."""
    for place in (path / name / file, path / file):
        if place.exists():
            return place
    raise InputError(
        f"'{path}' must hold {name}/{file}, the {name} of its {INDEX}, got none. "
        "Download the whole folder."
    )


def _check_index(
    record: dict[str, Any], path: Path, others: Collection[str]
) -> tuple[str, Any]:
    """Returns the classes of the pipeline and of the scheduler in an index."""
    parts = {
        key: value
        for key, value in record.items()
        if isinstance(value, list) and not key.startswith("_") and any(value)
    }
    name = record.get("_class_name")
    if name not in _PIPELINES:
        alone = parts.get("unet", [])[-1:] == ["UNet2DModel"]
        remedy = f". Import its network alone from '{path.parent / 'unet'}'." * alone
        raise InputError(
            f"'{path}': _class_name must be one of "
            f"{', '.join((*_PIPELINES, *others))}, got {shown(name)}{remedy}"
        )
    if parts.keys() != {"unet", "scheduler"}:
        raise InputError(
            f"'{path}': the parts must be unet and scheduler, got "
            f"{', '.join(sorted(parts)) or 'none'}"
        )
    unet = parts["unet"]
    if unet[-1:] != ["UNet2DModel"]:
        raise InputError(f"'{path}': unet must be a UNet2DModel, got {shown(unet)}")
    return name, parts["scheduler"][-1]
