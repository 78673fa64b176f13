"""Pipelines of unCLIP: UnCLIPPipeline and UnCLIPImageVariationPipeline.

    model_index.json                         the pipeline and its parts
    tokenizer/, text_encoder/                prompt -> tokens and vector
    prior/, prior_scheduler/                 vector of the text -> vector of an image
    image_encoder/, feature_extractor/       or picture -> vector of an image
    text_proj/, decoder/, decoder_scheduler/ vectors -> small image
    super_res_first/, super_res_last/, super_res_scheduler/ small image -> large image

The decoder is read at once, the other parts when they are first used.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from jaxdiff.components.component import Component, network_of, write_component
from jaxdiff.components.files import NETWORK, read_part
from jaxdiff.components.unet_2d_folder import KIND as UNET
from jaxdiff.components.unet_2d_folder import read_model
from jaxdiff.errors import InputError
from jaxdiff.losses.objectives import Hybrid, Simple
from jaxdiff.pretrained.folder_parts import INDEX, SCHEDULER, VERSION
from jaxdiff.pretrained.latent_pipelines import (
    check_parts,
    licence_of,
    part_classes,
    part_network,
    read_scheduled,
    say,
)
from jaxdiff.pretrained.scheduler_export import scheduler_record
from jaxdiff.pretrained.schedulers_unclip import unclip_scheduler_of
from jaxdiff.runs.non_finite import check_params
from jaxdiff.runs.parts import Parts, copy_part
from jaxdiff.runs.parts_info import Encoder, PartsInfo, StageInfo, UnCLIPInfo
from jaxdiff.runs.run import Run
from jaxdiff.storage.files import new_folder, write_json_atomic
from jaxdiff.training.experiment import DataInfo, Experiment
from jaxdiff.training.initialize import build_model

KINDS = ("UnCLIPPipeline", "UnCLIPImageVariationPipeline")
"""Classes of pipelines that are read."""
PRIOR_STEPS, STEPS, ENLARGE_STEPS = 25, 25, 7
PRIOR_GUIDANCE, GUIDANCE = 4.0, 8.0
"""Numbers of steps and guidance scales of a call without them."""
NETWORKS = {
    "text_encoder": ("CLIPTextModelWithProjection",),
    "image_encoder": ("CLIPVisionModelWithProjection",),
    "prior": ("PriorTransformer",), "text_proj": ("UnCLIPTextProjModel",),
    "decoder": ("UNet2DConditionModel",), "super_res_first": (UNET,),
    "super_res_last": (UNET,), "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),
    **{
        f"{stage}_scheduler": ("UnCLIPScheduler",)
        for stage in ("prior", "decoder", "super_res")
    },
}  # fmt: skip
_SHARED = {
    "text_encoder", "tokenizer", "text_proj", "decoder", "decoder_scheduler",
    "super_res_first", "super_res_last", "super_res_scheduler",
}  # fmt: skip
_OWN = {
    KINDS[0]: {"prior", "prior_scheduler"},
    KINDS[1]: {"image_encoder", "feature_extractor"},
}
_LIBRARIES = {
    "text_proj": [
        "diffusers.pipelines.deprecated.unclip.text_proj", "UnCLIPTextProjModel"
    ],
    "prior": ["diffusers", "PriorTransformer"],
    "super_res_first": ["diffusers", UNET], "super_res_last": ["diffusers", UNET],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "text_encoder": ["transformers", "CLIPTextModelWithProjection"],
    "image_encoder": ["transformers", "CLIPVisionModelWithProjection"],
    "feature_extractor": ["transformers", "CLIPImageProcessor"],
}  # fmt: skip
"""Library and class of each part, for model_index.json."""
_ENCODER = Encoder(network="text_encoder", tokenizer="tokenizer")


def read_unclip_pipeline(
    path: Path,
    *,
    num_steps: int | None = None,
    variant: str | None = None,
    allow_bin: bool = False,
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    base: Experiment | None = None,
) -> Run:
    """Reads a pipeline; arguments and errors are those of `from_diffusers`.

    `num_steps` is the number of steps of the decoder.
    """
    index = read_part(path / INDEX)
    classes = part_classes(index)
    own = _OWN[index["_class_name"]]
    check_parts(classes, _SHARED | own, NETWORKS, index, path)
    if dtype == "float16":
        raise InputError(
            "dtype must be float32 or bfloat16 for a pipeline that enlarges, got "
            "float16"
        )
    file = path / "decoder" / NETWORK
    network = network_of(classes["decoder"], read_part(file), str(file), dtype)
    channels = network.in_channels
    learns = network.out_channels == 2 * channels
    steps = STEPS if num_steps is None else num_steps
    scheduled = read_scheduled(path, "UnCLIPScheduler", steps, "decoder_scheduler")
    variance = getattr(scheduled.scheduler, "variance_type", None)
    if learns != (variance == "learned_range") or network.config.condition_channels:
        raise InputError(
            f"'{file}': out_channels must be twice in_channels exactly if the "
            f"scheduler's variance_type is learned_range, got {network.out_channels} "
            f"and {channels} with {variance}"
        )
    encoder = part_network(path, "text_encoder", classes).config
    _check_widths(path, classes, encoder, network.config)
    unclip = UnCLIPInfo(
        prior=read_prior(path, "prior_scheduler") if "prior" in classes else None,
        projection="text_proj",
        enlarge=_enlargement(path, channels),
        image_encoder="image_encoder" if "image_encoder" in own else "",
        processor="feature_extractor" if "feature_extractor" in own else "",
    )
    info = PartsInfo(
        pipeline=index["_class_name"], encoders=(_ENCODER,), autoencoder="",
        network="decoder", dtype=dtype, variant=variant, allow_bin=allow_bin,
        licence=licence_of(path), unclip=unclip,
    )  # fmt: skip
    experiment = replace(
        base or Experiment(),
        network=network.config,
        schedule=scheduled.options,
        prediction=scheduled.scheduler.prediction(learn_variance=learns),
        objective=Hybrid() if learns else Simple(),
        sampling=replace(scheduled.sampling, guidance=GUIDANCE, chunk=8),
        conditional=False,
    )
    height, width = network.config.sample_size or (64, 64)
    data = DataInfo((height, width, channels), None, None)
    experiment.check(scheduled.schedule)
    model = build_model(experiment, data, schedule=scheduled.schedule)
    say({}, info.licence, path)
    parts = Parts(info, path)
    params = parts.network().params
    check_params(params)
    return Run(experiment, data, model, params, 0, parts=parts)


def read_prior(path: Path, scheduler: str, name: str = "UnCLIPScheduler") -> StageInfo:
    """Returns the prior of a pipeline.

    Args:
        path: folder of the pipeline.
        scheduler: folder of the prior's scheduler.
        name: class of that scheduler.
    """
    scheduled = read_scheduled(path, name, PRIOR_STEPS, scheduler)
    return StageInfo(
        network="prior",
        schedule=scheduled.options,
        prediction=scheduled.scheduler.prediction(learn_variance=False),
        sampling=replace(scheduled.sampling, guidance=PRIOR_GUIDANCE, chunk=64),
    )


def _enlargement(path: Path, channels: int) -> StageInfo:
    """Returns the stage that enlarges the decoder's images.

    Raises:
        InputError: the two networks differ, or take other images.
    """
    models = [read_model(path / f"super_res_{part}") for part in ("first", "last")]
    for model in models:
        if (
            model.image_shape[-1] != channels
            or model.outputs != channels
            or model.config.condition_channels != channels
            or model.image_shape != models[0].image_shape
        ):
            raise InputError(
                f"'{path / 'super_res_last' / NETWORK}': in_channels must be "
                f"{2 * channels} and out_channels {channels}, with one sample_size as "
                "in super_res_first, got other numbers"
            )
    scheduled = read_scheduled(
        path, "UnCLIPScheduler", ENLARGE_STEPS, "super_res_scheduler"
    )
    return StageInfo(
        network="super_res_first",
        last="super_res_last",
        schedule=scheduled.options,
        prediction=scheduled.scheduler.prediction(learn_variance=False),
        sampling=replace(scheduled.sampling, chunk=4),
    )


def _check_widths(
    path: Path, classes: Mapping[str, str], encoder: Any, decoder: Any
) -> None:
    """Checks that the parts fit each other.

    Raises:
        InputError: a part has another number of features than its input.
    """
    projection = part_network(path, "text_proj", classes).config
    wanted = {
        "clip_embeddings_dim": (projection.features, encoder.width),
        "projection_dim of text_encoder": (encoder.projection, encoder.width),
        "time_embed_dim": (projection.time_channels, decoder.embedding_channels),
        "cross_attention_dim": (projection.text_channels, decoder.text_channels),
    }
    if "image_encoder" in classes:
        image = part_network(path, "image_encoder", classes).config.projection
        wanted["projection_dim of image_encoder"] = image, projection.features
    if "prior" in classes:
        prior = part_network(path, "prior", classes).config
        wanted["embedding_dim of prior"] = prior.features, projection.features
    for name, (value, other) in wanted.items():
        if value != other:
            raise InputError(
                f"'{path / INDEX}': {name} must be {other}, as in the part beside it, "
                f"got {value}"
            )


def write_unclip_pipeline(run: Run, path: Path) -> dict[str, Any]:
    """Writes a pipeline; arguments and result are those of `to_diffusers`."""
    parts, experiment = run.parts, run.experiment
    assert parts is not None, "the caller has checked it"
    unclip = parts.info.unclip
    assert unclip is not None, "the caller has checked it"
    assert unclip.enlarge is not None, "every such pipeline enlarges"
    stages: dict[str, Any] = {"decoder": experiment, "super_res": unclip.enlarge}
    if unclip.prior is not None:
        stages["prior"] = unclip.prior
    version = {"_diffusers_version": VERSION}
    index: dict[str, Any] = {"_class_name": parts.info.pipeline, **version}
    records: dict[str, Any] = {}
    call: dict[str, Any] = {}
    for name, stage in stages.items():
        scheduler, steps = unclip_scheduler_of(
            stage.schedule, stage.prediction, stage.sampling
        )
        records[f"{name}_scheduler"] = scheduler_record(scheduler)
        index[f"{name}_scheduler"] = ["diffusers", type(scheduler).__name__]
        call[f"{name}_num_inference_steps"] = steps
        if name != "super_res":
            call[f"{name}_guidance_scale"] = stage.sampling.guidance
    with new_folder(path) as writing:
        writing.mkdir(parents=True)
        decoder = Component("UNet2DConditionModel", run.network, run.params)
        write_component(decoder, writing / "decoder")
        index["decoder"] = ["diffusers", decoder.kind]
        for name, has_weights in parts.info.folders():
            if name == "decoder":
                continue
            index[name] = _LIBRARIES[name]
            copy_part(parts, name, writing / name, has_weights)
        for name, record in records.items():
            (writing / name).mkdir()
            write_json_atomic(writing / name / SCHEDULER, {**record, **version})
        write_json_atomic(writing / INDEX, index)
    return call
