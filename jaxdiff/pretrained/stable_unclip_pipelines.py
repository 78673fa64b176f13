"""Pipelines of Stable Diffusion that take an image's vector: StableUnCLIPPipeline.

    prior_tokenizer/, prior_text_encoder/, prior/, prior_scheduler/  prompt -> vector
    image_encoder/, feature_extractor/                      or picture -> vector
    image_normalizer/, image_noising_scheduler/             vector -> noisy vector
    tokenizer/, text_encoder/, unet/, scheduler/, vae/      and prompt -> image

The network is read at once, the other parts when they are first used.
"""

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from jaxdiff.components.component import Component
from jaxdiff.components.files import NETWORK, read_part
from jaxdiff.errors import InputError
from jaxdiff.losses.objectives import Simple
from jaxdiff.pretrained.folder_parts import INDEX, SCHEDULER
from jaxdiff.pretrained.latent_pipelines import (
    check_parts,
    licence_of,
    part_classes,
    part_network,
    read_scheduled,
    say,
    write_latents,
)
from jaxdiff.pretrained.scheduler_export import scheduler_of, scheduler_record
from jaxdiff.pretrained.scheduler_export_fields import schedule_fields
from jaxdiff.pretrained.schedulers import read_scheduler
from jaxdiff.pretrained.schedulers_of_times import DDPMScheduler
from jaxdiff.pretrained.schedulers_unclip import UnCLIPScheduler, unclip_scheduler_of
from jaxdiff.pretrained.unclip_pipelines import read_prior
from jaxdiff.runs.non_finite import check_params
from jaxdiff.runs.parts import Parts
from jaxdiff.runs.parts_info import Encoder, NoisingInfo, PartsInfo, UnCLIPInfo
from jaxdiff.runs.run import Run
from jaxdiff.training.experiment import DataInfo, Experiment
from jaxdiff.training.initialize import build_model

KINDS = ("StableUnCLIPPipeline", "StableUnCLIPImg2ImgPipeline")
"""Classes of pipelines that are read."""
STEPS, GUIDANCE = 20, 10.0
"""Number of steps and guidance scale of a call without them."""
NETWORKS = {
    "unet": ("UNet2DConditionModel",), "vae": ("AutoencoderKL",),
    "text_encoder": ("CLIPTextModel",), "prior": ("PriorTransformer",),
    "prior_text_encoder": ("CLIPTextModelWithProjection",),
    "image_encoder": ("CLIPVisionModelWithProjection",),
    "image_normalizer": ("StableUnCLIPImageNormalizer",),
}  # fmt: skip
_SHARED = {
    "unet", "vae", "scheduler", "text_encoder", "tokenizer", "image_normalizer",
    "image_noising_scheduler",
}  # fmt: skip
_OWN = {
    KINDS[0]: {"prior", "prior_scheduler", "prior_text_encoder", "prior_tokenizer"},
    KINDS[1]: {"image_encoder", "feature_extractor"},
}


def read_stable_unclip(
    path: Path,
    *,
    num_steps: int | None = None,
    variant: str | None = None,
    allow_bin: bool = False,
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    base: Experiment | None = None,
) -> Run:
    """Reads a pipeline; arguments and errors are those of `from_diffusers`."""
    index = read_part(path / INDEX)
    classes = part_classes(index)
    own = _OWN[index["_class_name"]]
    check_parts(classes, _SHARED | own, NETWORKS, index, path)
    config = part_network(path, "unet", classes).config
    features = part_network(path, "image_normalizer", classes).config.features
    channels = part_network(path, "vae", classes).config.latent_channels
    if config.class_embedding != "layers" or config.vector_channels != 2 * features:
        raise InputError(
            f"'{path / 'unet' / NETWORK}': class_embed_type must be projection and "
            f"projection_class_embeddings_input_dim {2 * features}, for vectors of "
            f"{features} features and their noise, got {config.class_embedding} and "
            f"{config.vector_channels}"
        )
    takes_prompts = "prior" in own
    file = path / "image_noising_scheduler" / SCHEDULER
    name = classes["image_noising_scheduler"]
    options = read_scheduler(read_part(file), f"'{file}'", name).schedule()
    unclip = UnCLIPInfo(noising=NoisingInfo(scale="image_normalizer", schedule=options))
    if takes_prompts:
        kind = classes["prior_scheduler"]
        if kind == UnCLIPScheduler.__name__:
            warnings.warn(
                "kept the prior's steps from each time to the next with an "
                f"UnCLIPScheduler; diffusers' {KINDS[0]} steps by one time and draws "
                "other images",
                stacklevel=4,
            )
        unclip = replace(
            unclip,
            prior=read_prior(path, "prior_scheduler", kind),
            prior_encoder=Encoder(
                network="prior_text_encoder", tokenizer="prior_tokenizer"
            ),
        )
    else:
        unclip = replace(
            unclip, image_encoder="image_encoder", processor="feature_extractor"
        )
    info = PartsInfo(
        pipeline=index["_class_name"], autoencoder="vae", network="unet",
        encoders=(Encoder(network="text_encoder", tokenizer="tokenizer"),),
        dtype=dtype, variant=variant, allow_bin=allow_bin, licence=licence_of(path),
        unclip=unclip,
    )  # fmt: skip
    parts = Parts(info, path)
    steps = STEPS if num_steps is None else num_steps
    scheduled = read_scheduled(path, classes["scheduler"], steps)
    network = parts.network()
    experiment = replace(
        base or Experiment(),
        network=network.network.config,
        schedule=scheduled.options,
        prediction=scheduled.scheduler.prediction(learn_variance=False),
        objective=Simple(),
        sampling=replace(scheduled.sampling, guidance=GUIDANCE, chunk=1),
        conditional=False,
    )
    height, width = config.sample_size or (96, 96)
    data = DataInfo((height, width, channels), None, None, data_range=None)
    experiment.check(scheduled.schedule)
    model = build_model(experiment, data, schedule=scheduled.schedule)
    say({}, info.licence, path)
    check_params(network.params)
    return Run(experiment, data, model, network.params, 0, parts=parts)


def write_stable_unclip(run: Run, path: Path) -> dict[str, Any]:
    """Writes a pipeline; arguments and result are those of `to_diffusers`."""
    assert run.parts is not None, "the caller has checked it"
    unclip = run.parts.info.unclip
    assert unclip is not None, "the caller has checked it"
    assert unclip.noising is not None, "every such pipeline has it"
    index: dict[str, Any] = {
        "image_normalizer": ["stable_diffusion", "StableUnCLIPImageNormalizer"],
        "feature_extractor": ["transformers", "CLIPImageProcessor"],
    }
    if not unclip.processor:
        del index["feature_extractor"]
    theirs: Any = unclip.noising.schedule
    known = DDPMScheduler.__dataclass_fields__
    options = schedule_fields(theirs, theirs.build())
    noising: Any = DDPMScheduler(**{k: v for k, v in options.items() if k in known})
    schedulers = {"image_noising_scheduler": noising}
    call: dict[str, Any] = {}
    prior = unclip.prior
    if prior is not None:
        given = prior.schedule, prior.prediction, prior.sampling
        try:
            scheduler: Any
            scheduler, steps = unclip_scheduler_of(*given)
        except InputError:
            schedule = prior.schedule.build()
            scheduler, steps = scheduler_of(
                prior.schedule, schedule, prior.prediction, prior.sampling
            )
        schedulers["prior_scheduler"] = scheduler
        call["prior_num_inference_steps"] = steps
        call["prior_guidance_scale"] = prior.sampling.guidance
    for name, scheduler in schedulers.items():
        index[name] = ["diffusers", type(scheduler).__name__]
    records = {name: scheduler_record(one) for name, one in schedulers.items()}
    unet = Component("UNet2DConditionModel", run.network, run.params)
    return {**write_latents(run, path, "unet", unet, index, records), **call}
