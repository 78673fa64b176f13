"""Adapters of a run: LoRA and new tokens, for its network and its text encoders."""

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from jaxdiff.adapters.lora import LoRA, merged
from jaxdiff.components.component import Component
from jaxdiff.components.embeddings import read_embedding
from jaxdiff.components.lora_files import Adapters, read_lora
from jaxdiff.components.lora_names import UNET
from jaxdiff.conditioning.new_tokens import with_token
from jaxdiff.conditioning.prompts import Prompts
from jaxdiff.errors import InputError, shown
from jaxdiff.networks.clip import CLIPText
from jaxdiff.networks.cross_attention_unet import CrossAttentionUNet
from jaxdiff.runs.parts import Parts
from jaxdiff.typing import Array

if TYPE_CHECKING:
    from jaxdiff.runs.run import Run

AnyPath: TypeAlias = str | os.PathLike[str]
AnyLoRA: TypeAlias = Adapters | LoRA | AnyPath
Embeddings: TypeAlias = Mapping[str, Mapping[str, np.ndarray]]
"""Vectors of new tokens by token and text encoder; see `Adapters`."""


def networks_of_run(run: "Run") -> dict[str, Component]:
    """Returns the networks of a run that files of LoRA name.

    Raises:
        InputError: the run is no model of text.
    """
    if run.parts is None or not isinstance(run.network, CrossAttentionUNet):
        raise InputError(
            "the run must be a model of text for a file of LoRA, got another one. "
            "Import one, such as Stable Diffusion."
        )
    unet = Component("UNet2DConditionModel", run.network, run.params)
    pairs = zip(run.parts.info.encoders, run.parts.prompts.encoders, strict=True)
    return {UNET: unet} | {
        place.network: Component("CLIPTextModel", encoder.network, encoder.params)
        for place, encoder in pairs
        if isinstance(encoder.network, CLIPText)
    }


def with_lora(
    run: "Run",
    adapter: AnyLoRA,
    scale: float | Array,
    allow_bin: bool,
) -> "Run":
    """Returns a run with an adapter merged; calls compose.

    The sampling loop takes the merged parameters as arguments. Another scale or adapter
    compiles nothing again.

    Args:
        run: trained model.
        adapter: path of a file of LoRA, see `read_lora`; or an adapter. A `LoRA` alone
            is one of the network.
        scale: factor of the adapter [], any real number.
        allow_bin: if True, also read a .bin or .pt file, a pickle.

    Raises:
        InputError: the file or the adapter does not fit the model.
    """
    if isinstance(adapter, LoRA):
        return replace(run, params=merged(run.params, adapter, scale))
    if not isinstance(adapter, Adapters):
        adapter = read_lora(adapter, networks_of_run(run), allow_bin=allow_bin)
    loras = dict(adapter.loras)
    if UNET in loras:
        params = merged(run.params, loras.pop(UNET), scale)
        run = replace(run, params=params)
    if not loras and not adapter.embeddings:
        return run
    parts = _parts(run)
    places = [place.network for place in parts.info.encoders]
    unknown = loras.keys() - set(places)
    if unknown:
        raise InputError(
            f"the adapter must be for the text encoders {', '.join(places)}, got "
            f"{', '.join(sorted(unknown))}"
        )
    encoders = tuple(
        replace(encoder, params=merged(encoder.params, loras[place], scale))
        if place in loras
        else encoder
        for place, encoder in zip(places, parts.prompts.encoders, strict=True)
    )
    run = _with_prompts(run, replace(parts.prompts, encoders=encoders))
    return with_tokens(run, adapter.embeddings)


def with_embedding(
    run: "Run", file: AnyPath, token: str | None, allow_bin: bool
) -> "Run":
    """Returns a run with the new tokens of a file of textual inversion.

    Args:
        run: model of text.
        file: see `read_embedding`.
        token: text of the token; the file's own by default.
        allow_bin: if True, also read a .bin or .pt file, a pickle.

    Raises:
        InputError: the file does not fit the model, or the token exists.
    """
    parts = _parts(run)
    pairs = zip(parts.info.encoders, parts.prompts.encoders, strict=True)
    widths = {
        place.network: encoder.network.config.width
        for place, encoder in pairs
        if isinstance(encoder.network, CLIPText)
    }
    found = read_embedding(file, widths, token, allow_bin=allow_bin)
    return with_tokens(run, found)


def with_tokens(run: "Run", embeddings: Embeddings) -> "Run":
    """Returns a run with new tokens.

    Args:
        run: model of text.
        embeddings: vectors by token and text encoder, float [vectors, width].

    Raises:
        InputError: a token exists, or its vectors do not fit.
    """
    parts = _parts(run)
    encoders = list(parts.prompts.encoders)
    places = [place.network for place in parts.info.encoders]
    for token, vectors in embeddings.items():
        for place, found in vectors.items():
            if place not in places:
                raise InputError(
                    f"the text encoder of {shown(token)} must be one of "
                    f"{', '.join(places)}, got {place}"
                )
            number = places.index(place)
            encoders[number] = with_token(encoders[number], token, found)
    return _with_prompts(run, replace(parts.prompts, encoders=tuple(encoders)))


def _parts(run: "Run") -> Parts:
    if run.parts is None:
        raise InputError(
            "the run must be a model of text, got one of pixels. Import one, such as "
            "Stable Diffusion."
        )
    return run.parts


def _with_prompts(run: "Run", prompts: Prompts) -> "Run":
    return replace(run, parts=replace(_parts(run), adapted=prompts))
