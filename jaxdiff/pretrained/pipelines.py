"""Pipelines of latents, each by the module that reads and writes its class."""

from pathlib import Path
from typing import Any

from jaxdiff.components.files import read_part
from jaxdiff.errors import InputError
from jaxdiff.networks import CrossAttentionUNet
from jaxdiff.pretrained import (
    class_pipelines,
    stable_unclip_pipelines,
    text_pipelines,
    unclip_pipelines,
)
from jaxdiff.pretrained.class_pipelines import Numerics
from jaxdiff.pretrained.folder_parts import INDEX
from jaxdiff.runs.run import Run

KINDS = (
    *text_pipelines.KINDS, class_pipelines.KIND, *unclip_pipelines.KINDS,
    *stable_unclip_pipelines.KINDS,
)  # fmt: skip
"""Classes of pipelines that are read."""


def read_pipeline(path: Path, numerics: Numerics, **given: Any) -> Run | None:
    """Reads a pipeline of latents; None for a folder of another kind.

    Arguments and errors are those of `from_diffusers`.
    """
    known = (path / INDEX).is_file()
    name = read_part(path / INDEX).get("_class_name") if known else None
    if name == class_pipelines.KIND:
        return class_pipelines.read_class_pipeline(path, numerics=numerics, **given)
    if numerics != "diffusers":
        raise InputError(
            "numerics must be diffusers for a model that is no "
            f"{class_pipelines.KIND}, got {numerics}. Leave it out."
        )
    if name in (*text_pipelines.KINDS,):
        return text_pipelines.read_text_pipeline(path, **given)
    if name in unclip_pipelines.KINDS:
        return unclip_pipelines.read_unclip_pipeline(path, **given)
    if name in stable_unclip_pipelines.KINDS:
        return stable_unclip_pipelines.read_stable_unclip(path, **given)
    return None


def write_pipeline(run: Run, path: Path) -> dict[str, Any]:
    """Writes a pipeline of latents; see `to_diffusers`."""
    assert run.parts is not None, "the caller has checked it"
    name = run.parts.info.pipeline
    if name == class_pipelines.KIND:
        return class_pipelines.write_class_pipeline(run, path)
    if name in unclip_pipelines.KINDS:
        return unclip_pipelines.write_unclip_pipeline(run, path)
    if name in stable_unclip_pipelines.KINDS:
        return stable_unclip_pipelines.write_stable_unclip(run, path)
    if name not in KINDS or not isinstance(run.network, CrossAttentionUNet):
        raise InputError(
            "the run must be one that starts from a pipeline of diffusers to be "
            "exported, got another network on latents. Keep the run."
        )
    return text_pipelines.write_text_pipeline(run, path)
