"""Pipelines of text and latents: Stable Diffusion 1, 2 and XL, in diffusers' layout.

    model_index.json                the pipeline and its parts
    text_encoder/, tokenizer/       prompt -> condition; XL has a second pair, _2
    unet/, scheduler/               condition -> latents
    vae/                            latents -> image

The network is read at once, text encoders and autoencoder when they are first used.
"""

import re
import warnings
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from jaxdiff.checks import any_last_signal
from jaxdiff.components.component import (
    Component,
    component_class,
    network_of,
    write_component,
)
from jaxdiff.components.files import NETWORK, read_part
from jaxdiff.components.kinds import KINDS as KINDS_OF_NETWORKS
from jaxdiff.components.weights import STEM, TRANSFORMERS
from jaxdiff.errors import InputError, printable, shown
from jaxdiff.losses.objectives import Simple
from jaxdiff.pretrained.folder_parts import INDEX, SCHEDULER, VERSION
from jaxdiff.pretrained.scheduler_export import scheduler_of, scheduler_record
from jaxdiff.pretrained.schedulers import read_scheduler
from jaxdiff.pretrained.schedulers_of_times import DDIMScheduler
from jaxdiff.runs.load import Run
from jaxdiff.runs.non_finite import check_params
from jaxdiff.runs.parts import Encoder, Inputs, Parts, PartsInfo, copy_part
from jaxdiff.storage.files import new_folder, write_json_atomic
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
LIBRARIES = {STEM: "diffusers", TRANSFORMERS: "transformers"}
"""Library of a network, by the name of its weight files."""
LEFT_OUT = ("safety_checker", "feature_extractor", "image_encoder")
"""Parts that are not read: they do not change the images of a prompt."""


def is_text_pipeline(path: Path) -> bool:
    """Returns True if a folder has the index of a pipeline that this module reads."""
    if not (path / INDEX).is_file():
        return False
    return read_part(path / INDEX).get("_class_name") in (*KINDS,)


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
    autoencoder = _network(path, "vae", classes)
    record = read_part(path / "unet" / NETWORK)
    config = network_of(
        "UNet2DConditionModel", record, str(path / "unet" / NETWORK), dtype
    ).config
    channels = autoencoder.config.latent_channels
    inputs = _inputs(record, channels, kind, path)
    parts = Parts(replace(info, inputs=inputs), path)
    scheduler = read_scheduler(
        read_part(path / "scheduler" / SCHEDULER),
        f"'{path / 'scheduler' / SCHEDULER}'",
        classes["scheduler"],
    )
    try:
        options = scheduler.schedule()
        with any_last_signal():
            schedule: Any = options.build()
        steps = kind.steps if num_steps is None else num_steps
        sampling = scheduler.sampling(schedule, steps)
    except InputError as error:
        raise InputError(f"'{path / 'scheduler' / SCHEDULER}': {error}") from error
    unlimited = sampling.clip_range is None and sampling.clip_quantile is None
    if sampling.clip and unlimited:
        sampling = replace(sampling, clip_range=1.0)  # latents have no range
    experiment = replace(
        base or Experiment(),
        network=config,
        schedule=options,
        prediction=scheduler.prediction(learn_variance=False),
        objective=Simple(),
        sampling=replace(
            sampling,
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
    _say(index, classes, info.licence, path)
    network = parts.network()
    check_params(network.params)
    return Run(experiment, data, model, network.params, 0, parts=parts)


def _classes(index: Mapping[str, Any], path: Path) -> dict[str, str]:
    """Returns the class of each part of an index, without the parts that are null.

    Raises:
        InputError: a part is missing, of another class, or unknown.
    """
    found = {
        key: value[-1]
        for key, value in index.items()
        if isinstance(value, list) and not key.startswith("_") and any(value)
    }
    xl = KINDS[index["_class_name"]].xl
    refines = xl and "text_encoder" not in found
    wanted = {"unet", "vae", "scheduler"}
    wanted |= set() if refines else {"text_encoder", "tokenizer"}
    wanted |= {"text_encoder_2", "tokenizer_2"} if xl else set()
    missing = sorted(wanted - found.keys())
    unknown = sorted(found.keys() - wanted - {*LEFT_OUT})
    for names, word in ((missing, "must have"), (unknown, "must not have")):
        if names:
            raise InputError(
                f"'{path / INDEX}' {word} {' and '.join(names)}, for a "
                f"{index['_class_name']}. Choose another folder."
            )
    for part, classes in NETWORKS.items():
        if part in found and found[part] not in classes:
            raise InputError(
                f"'{path / INDEX}': {part} must be a {' or '.join(classes)}, got "
                f"{shown(found[part])}"
            )
    for part in sorted(wanted):
        if not (path / part).is_dir():
            raise InputError(
                f"'{path}' must hold the folder {part}, as its {INDEX} says, got none. "
                "Download the whole folder."
            )
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
        licence=_licence(path),
    )


def _network(path: Path, part: str, classes: Mapping[str, str]) -> Any:
    """Returns the network of a part, without parameters."""
    file = path / part / NETWORK
    return network_of(classes[part], read_part(file), str(file))


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


def _licence(path: Path) -> str | None:
    """Returns the licence in the head of a folder's README.md, or None."""
    file = path / "README.md"
    if not file.is_file():
        return None
    with file.open(encoding="utf-8", errors="replace") as lines:
        head = lines.read(10_000)
    match = re.search(r"^license(?:_name)?:\s*(\S+)\s*$", head, re.MULTILINE)
    return match and match[1].strip("'\"")


def _say(
    index: Mapping[str, Any],
    classes: Mapping[str, str],
    licence: str | None,
    path: Path,
) -> None:
    """Warns about parts that are left out, and names the licence."""
    left = [f"{part} ({classes[part]})" for part in LEFT_OUT if part in classes]
    if left:
        warnings.warn(
            printable(f"left out {', '.join(left)}, which no prompt needs"),
            stacklevel=4,
        )
    if licence is not None:
        warnings.warn(
            printable(f"the licence of '{path}' is {licence}. Read it first"),
            stacklevel=4,
        )


def write_text_pipeline(run: Run, path: Path) -> dict[str, Any]:
    """Writes a pipeline; arguments and result are those of `to_diffusers`."""
    parts = run.parts
    assert parts is not None, "the caller has checked it"
    info, sampling = parts.info, run.experiment.sampling
    scheduler, steps = scheduler_of(
        run.experiment.schedule, run.schedule, run.experiment.prediction, sampling
    )
    version = {"_diffusers_version": VERSION}
    index: dict[str, Any] = {"_class_name": info.pipeline, **version}
    if KINDS[info.pipeline].xl:
        index["force_zeros_for_empty_prompt"] = info.zeros
        index["text_encoder"] = index["tokenizer"] = [None, None]
        if info.numbers == "score":
            index["requires_aesthetics_score"] = True
    else:
        index["requires_safety_checker"] = False
        index["safety_checker"] = index["feature_extractor"] = [None, None]
    index["scheduler"] = ["diffusers", type(scheduler).__name__]
    with new_folder(path) as writing:
        writing.mkdir(parents=True)
        for name, has_weights in info.folders():
            index[name] = ["transformers", "CLIPTokenizer"]
            if has_weights:
                kind = component_class(parts.folder / name)
                index[name] = [LIBRARIES[KINDS_OF_NETWORKS[kind].stem], kind]
            if name == info.network:
                unet = Component("UNet2DConditionModel", run.network, run.params)
                write_component(unet, writing / name)
            else:
                copy_part(parts, name, writing / name, has_weights)
        (writing / "scheduler").mkdir()
        record = {**scheduler_record(scheduler), **version}
        write_json_atomic(writing / "scheduler" / SCHEDULER, record)
        write_json_atomic(writing / INDEX, index)
    call: dict[str, Any] = {
        "num_inference_steps": steps, "guidance_scale": sampling.guidance
    }  # fmt: skip
    if sampling.image_guidance is not None:
        call["image_guidance_scale"] = sampling.image_guidance
    if isinstance(scheduler, DDIMScheduler):
        sampler: Any = sampling.sampler
        call["eta"] = float(sampler.eta)
    return call
