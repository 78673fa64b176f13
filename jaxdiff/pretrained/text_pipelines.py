"""Pipelines of text and latents: Stable Diffusion 1, 2 and XL, in diffusers' layout.

    model_index.json                the pipeline and its parts
    text_encoder/, tokenizer/       prompt -> condition; XL has a second pair, _2
    unet/, scheduler/               condition -> latents
    vae/                            latents -> image

The network is read at once, text encoders and autoencoder when they are first used.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from jaxdiff.components.component import (
    Component,
    network_of,
)
from jaxdiff.components.files import NETWORK, read_part
from jaxdiff.errors import InputError, shown
from jaxdiff.losses.objectives import Simple
from jaxdiff.pretrained.folder_parts import INDEX
from jaxdiff.pretrained.latent_pipelines import (
    check_parts,
    licence_of,
    part_classes,
    part_network,
    read_scheduled,
    say,
    write_latents,
)
from jaxdiff.runs.non_finite import check_params
from jaxdiff.runs.parts import Parts
from jaxdiff.runs.parts_info import Encoder, Inputs, PartsInfo
from jaxdiff.runs.run import Run
from jaxdiff.training.experiment import DataInfo, Experiment
from jaxdiff.training.initialize import build_model


class Pipeline(NamedTuple):
    """Class of pipelines of diffusers, and the numbers of a call without them.

    Attributes:
        xl: if True, the parts are those of Stable Diffusion XL.
        inputs: inputs of the network besides latents, which it may have.
        steps: number of steps.
        guidance: guidance scale.
        image_guidance: guidance scale of an image; None for no such guidance.
    """

    xl: bool = False
    inputs: tuple[Inputs, ...] = ("none",)
    steps: int = 50
    guidance: float = 7.5
    image_guidance: float | None = None


_INPAINT: tuple[Inputs, ...] = ("none", "mask")
KINDS = {
    "StableDiffusionPipeline": Pipeline(),
    "StableDiffusionImg2ImgPipeline": Pipeline(),
    "StableDiffusionInpaintPipeline": Pipeline(inputs=_INPAINT),
    "StableDiffusionInstructPix2PixPipeline": Pipeline(
        inputs=("image",), steps=100, image_guidance=1.5
    ),
    "LatentConsistencyModelPipeline": Pipeline(steps=4, guidance=8.5),
    "LatentConsistencyModelImg2ImgPipeline": Pipeline(steps=4, guidance=8.5),
    "StableDiffusionXLPipeline": Pipeline(xl=True, guidance=5.0),
    "StableDiffusionXLImg2ImgPipeline": Pipeline(xl=True, guidance=5.0),
    "StableDiffusionXLInpaintPipeline": Pipeline(xl=True, inputs=_INPAINT),
}
"""Classes of pipelines that are read."""
NETWORKS = {
    "unet": ("UNet2DConditionModel",), "vae": ("AutoencoderKL", "AutoencoderTiny"),
    "text_encoder": ("CLIPTextModel",),
    "text_encoder_2": ("CLIPTextModelWithProjection",),
}  # fmt: skip


def read_text_pipeline(
    path: Path,
    *,
    num_steps: int | None = None,
    variant: str | None = None,
    allow_bin: bool = False,
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    base: Experiment | None = None,
) -> Run:
    """Reads a pipeline; arguments and errors are those of `from_diffusers`.

    Warns:
        UserWarning: it names the parts that are left out, and the licence.
    """
    index = read_part(path / INDEX)
    kind = KINDS[index["_class_name"]]
    classes = _classes(index, path)
    info = _parts_info(index, classes, path)
    info = replace(info, dtype=dtype, variant=variant, allow_bin=allow_bin)
    autoencoder = part_network(path, "vae", classes)
    record = read_part(path / "unet" / NETWORK)
    config = network_of(
        "UNet2DConditionModel", record, str(path / "unet" / NETWORK), dtype
    ).config
    channels = autoencoder.config.latent_channels
    inputs = _inputs(record, channels, kind, path)
    parts = Parts(replace(info, inputs=inputs), path)
    scheduled = read_scheduled(
        path, classes["scheduler"], kind.steps if num_steps is None else num_steps
    )
    schedule = scheduled.schedule
    experiment = replace(
        base or Experiment(),
        network=config,
        schedule=scheduled.options,
        prediction=scheduled.scheduler.prediction(learn_variance=False),
        objective=Simple(),
        sampling=replace(
            scheduled.sampling,
            guidance=kind.guidance,
            image_guidance=kind.image_guidance,
            chunk=1,
        ),
        conditional=False,
    )
    height, width = config.sample_size or (64, 64)
    shape = (height, width, channels)
    data = DataInfo(shape, None, None, data_range=None)
    experiment.check(schedule)
    model = build_model(experiment, data, schedule=schedule)
    say(classes, info.licence, path)
    network = parts.network()
    check_params(network.params)
    return Run(experiment, data, model, network.params, 0, parts=parts)


def _classes(index: Mapping[str, Any], path: Path) -> dict[str, str]:
    """Returns the class of each part of an index, without the parts that are null.

    Raises:
        InputError: a part is missing, of another class, or unknown.
    """
    found = part_classes(index)
    xl = KINDS[index["_class_name"]].xl
    refines = xl and "text_encoder" not in found
    wanted = {"unet", "vae", "scheduler"}
    wanted |= set() if refines else {"text_encoder", "tokenizer"}
    wanted |= {"text_encoder_2", "tokenizer_2"} if xl else set()
    check_parts(found, wanted, NETWORKS, index, path)
    return found


def _parts_info(
    index: Mapping[str, Any], classes: Collection[str], path: Path
) -> PartsInfo:
    """Returns how a pipeline uses its parts."""
    xl = KINDS[index["_class_name"]].xl
    encoders = tuple(
        Encoder(
            network=f"text_encoder{end}", tokenizer=f"tokenizer{end}",
            skip=int(xl), final_norm=not xl,
        )
        for end in ("", "_2")
        if f"text_encoder{end}" in classes
    )  # fmt: skip
    score = index.get("requires_aesthetics_score") is True
    return PartsInfo(
        pipeline=index["_class_name"],
        encoders=encoders,
        pooled=xl,
        numbers=("score" if score else "sizes") if xl else "none",
        zeros=xl and index.get("force_zeros_for_empty_prompt") is not False,
        autoencoder="vae",
        network="unet",
        licence=licence_of(path),
    )


def _inputs(
    record: Mapping[str, Any], channels: int, kind: Pipeline, path: Path
) -> Inputs:
    """Returns the inputs of a network besides latents.

    Raises:
        InputError: its channels are not those of such a pipeline.
    """
    known: dict[Inputs, int] = {"none": 0, "image": channels, "mask": channels + 1}
    numbers = {channels + known[name]: name for name in kind.inputs}
    given = record.get("in_channels", 4)
    if record.get("out_channels", 4) != channels or given not in numbers:
        raise InputError(
            f"'{path / 'unet' / NETWORK}': in_channels must be "
            f"{' or '.join(map(str, numbers))} and out_channels {channels} for latents "
            f"of {channels} channels in such a pipeline, got {shown(given)} and "
            f"{shown(record.get('out_channels', 4))}"
        )
    return numbers[given]


def write_text_pipeline(run: Run, path: Path) -> dict[str, Any]:
    """Writes a pipeline; arguments and result are those of `to_diffusers`."""
    assert run.parts is not None, "the caller has checked it"
    info, sampling = run.parts.info, run.experiment.sampling
    index: dict[str, Any] = {}
    if KINDS[info.pipeline].xl:
        index["force_zeros_for_empty_prompt"] = info.zeros
        index["text_encoder"] = index["tokenizer"] = [None, None]
        if info.numbers == "score":
            index["requires_aesthetics_score"] = True
    else:
        index["requires_safety_checker"] = False
        index["safety_checker"] = index["feature_extractor"] = [None, None]
    unet = Component("UNet2DConditionModel", run.network, run.params)
    call = write_latents(run, path, "unet", unet, index)
    if sampling.image_guidance is not None:
        call["image_guidance_scale"] = sampling.image_guidance
    return call
