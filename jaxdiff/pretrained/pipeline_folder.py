"""Model folders in diffusers' layout: reading and writing.

    model_index.json                                   the pipeline and its parts
    unet/config.json                                   the network
    unet/diffusion_pytorch_model.safetensors           its parameters
    scheduler/scheduler_config.json                    schedule, prediction, sampler

The first published models, such as google/ddpm-cat-256, have all files in one folder.
A bare UNet2DModel folder holds the files of unet/ alone. `jaxdiff.json` is jaxdiff's
own file, with the entries that diffusers has no place for.
"""

import os
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxdiff.checks import any_last_signal
from jaxdiff.components.files import NETWORK, read_part
from jaxdiff.components.unet_2d import Model
from jaxdiff.components.unet_2d_folder import (
    described,
    read_fields,
    read_parameters,
)
from jaxdiff.components.weights import STEM, write_tensors
from jaxdiff.errors import InputError, shown
from jaxdiff.losses.objectives import Hybrid, Simple
from jaxdiff.networks import Fourier, LevelOptions
from jaxdiff.pretrained.class_pipelines import Numerics
from jaxdiff.pretrained.folder_parts import (
    INDEX,
    SCHEDULER,
    VERSION,
    Parts,
    find_parts,
)
from jaxdiff.pretrained.pipelines import KINDS, read_pipeline, write_pipeline
from jaxdiff.pretrained.scheduler_export import scheduler_of, scheduler_record
from jaxdiff.pretrained.schedulers import Common, read_scheduler
from jaxdiff.pretrained.schedulers_continuous import OfEDM
from jaxdiff.pretrained.schedulers_of_times import DDIMScheduler, DDPMScheduler
from jaxdiff.pretrained.schedulers_unscaled import Unscaled
from jaxdiff.runs.enlarge import kind_of_condition
from jaxdiff.runs.load import load
from jaxdiff.runs.non_finite import check_params
from jaxdiff.runs.run import Run
from jaxdiff.schedules.continuous import VP
from jaxdiff.schedules.discrete import Schedule
from jaxdiff.serialization import from_dict, to_dict
from jaxdiff.storage import compilation_cache
from jaxdiff.storage.files import (
    check_new_folder,
    new_folder,
    read_json,
    write_json_atomic,
)
from jaxdiff.training.experiment import DataInfo, Experiment
from jaxdiff.training.initialize import build_model
from jaxdiff.training.model import Model as TrainedModel

OURS = "jaxdiff.json"


def from_diffusers(
    path: str | os.PathLike[str],
    *,
    num_steps: int | None = None,
    size: int | None = None,
    variant: str | None = None,
    null_class: bool = False,
    allow_bin: bool = False,
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    numerics: Numerics = "diffusers",
    base: Experiment | None = None,
) -> Run:
    """Loads the model in a local folder of Hugging Face's diffusers library.

    Nothing in the folder is executed. Every tensor is used once and every parameter is
    filled; otherwise an error is raised.

    Args:
        path: a folder with a model_index.json, or with unet/ and scheduler/, or a bare
            UNet2DModel folder.
        num_steps: number of sampler steps, which such a folder does not contain. By
            default the number of a call in diffusers: 1000 for a DDPMPipeline, 50 for
            a DDIMPipeline. Without a pipeline all times for DDPM and 50 for DDIM.
            Always 20 for DPM-Solver++ and UniPC.
        size: height and width of the images, for a network whose sample_size is null.
        variant: variant of the weights' files, such as "fp16".
        null_class: if True, the last class embedding stands for no class, so that
            guidance is possible.
        allow_bin: if True, read a .bin file if there is no safetensors file.
        dtype: type of the parameters and of the computation, for a pipeline of latents.
        numerics: numerics of a diffusion transformer, whose time embedding in diffusers
            is not the one of its training; see `class_pipelines.as_trained`.
        base: source of the options that the folder lacks: data and training; with a
            bare UNet2DModel also schedule, prediction and sampling. DDPM's by default.

    Returns:
        The model, as `load` returns it. A network with more input channels than images
        have, or with labels that are no classes, cannot be trained or sampled; evaluate
        it with `run.network.apply`.

    Raises:
        InputError: a file is missing or damaged, an option is not supported, or the
            tensors do not match the configuration.

    Warns:
        UserWarning: diffusers draws other images, the weights are those of a variant,
            entries of a configuration were ignored, or the scheduler that a network
            needs is missing.
    """
    compilation_cache.enable()
    path = Path(path)
    found = read_pipeline(
        path, numerics, num_steps=num_steps, variant=variant, allow_bin=allow_bin,
        dtype=dtype, base=base,
    )  # fmt: skip
    if found is not None:
        return found
    parts = find_parts(path, KINDS)
    ours = read_json(path / OURS) if (path / OURS).exists() else {}
    null_class = null_class or ours.get("null_class") is True
    inner = parts.network
    base = base or Experiment()
    options = read_fields(inner / NETWORK, size)
    scheduler = None if parts.scheduler is None else _read_scheduler(parts)
    learns = base.prediction.learn_variance
    if scheduler is not None:
        learns = getattr(scheduler, "variance_type", None) == "learned_range"
    try:
        model = options.model(null_class, learns)
    except InputError as error:
        raise InputError(f"'{inner / NETWORK}': {error}") from error
    with any_last_signal():
        if scheduler is not None:
            base = _with_scheduler(base, parts, scheduler, model, num_steps, ours)
        elif isinstance(model.config.embedding, Fourier):
            base = _with_times_above_zero(base, inner)
        experiment = replace(base, network=model.config, conditional=True)
        schedule = experiment.schedule.build()
    experiment.check(schedule)
    info = DataInfo(model.image_shape, model.num_classes, _names(ours, model))
    built = build_model(experiment, info, schedule=schedule)
    outputs = _outputs(built)
    if outputs != model.outputs:
        raise InputError(
            f"'{inner / NETWORK}': out_channels must be {outputs} "
            f"for this prediction, got {model.outputs}"
        )
    params = read_parameters(inner, model, variant, allow_bin)
    check_params(params)
    return Run(experiment, info, built, params, 0)


def _outputs(model: TrainedModel) -> int:
    """Returns the number of output channels of a network."""
    return model.image_shape[-1] * (1 + model.prediction.learn_variance)


def _read_scheduler(parts: Parts) -> Common:
    """Returns the scheduler of a folder that has one."""
    path = parts.scheduler
    assert path is not None, "the caller has checked it"
    # diffusers' DDIMPipeline makes a DDIMScheduler of any scheduler.
    ddim = parts.pipeline == "DDIMPipeline"
    name = "DDIMScheduler" if ddim else parts.scheduler_class
    return read_scheduler(read_part(path), f"'{path}'", name)


def _with_times_above_zero(base: Experiment, network: Path) -> Experiment:
    """Returns the experiment of a network without a scheduler that takes log t."""
    if isinstance(base.schedule.build(), Schedule):  # its times begin at 0
        base = replace(base, schedule=VP())
    warnings.warn(
        f"took the output of '{network}' for {type(base.prediction).__name__} at times "
        f"of {type(base.schedule).__name__}, because it has no scheduler. Published "
        "networks with time_embedding_type fourier take noise scales as times and give "
        "scores: evaluate those in Python with run.network.apply",
        stacklevel=3,
    )
    return base


def _with_scheduler(
    base: Experiment,
    parts: Parts,
    scheduler: Common,
    model: Model,
    num_steps: int | None,
    ours: dict[str, Any],
) -> Experiment:
    """Returns the experiment with a scheduler's schedule, prediction and sampling."""
    path = parts.scheduler
    learns = model.outputs == 2 * model.image_shape[-1]
    variance = getattr(scheduler, "variance_type", None)
    if learns != (variance == "learned_range"):
        raise InputError(
            f"'{path}': variance_type must be learned_range exactly if the network has "
            f"two outputs per channel, got {shown(variance)} and {model.outputs} "
            f"outputs for {model.image_shape[-1]} channels"
        )
    total = scheduler.num_train_timesteps
    try:
        if num_steps is not None and not 1 <= num_steps <= total:
            raise InputError(f"num_steps must lie in 1..{total}, got {num_steps}")
        betas = getattr(scheduler, "trained_betas", None)
        if betas is not None and "schedule" in ours:
            data = {"schedule": ours["schedule"]}
            options = from_dict(Experiment, data).schedule
            schedule: Any = options.build()
            given = np.asarray(betas, np.float32)
            if not np.array_equal(np.asarray(schedule.betas), given):
                raise InputError(f"trained_betas must equal the betas in {OURS}")
        else:
            options = scheduler.schedule()
            schedule = options.build()
        if num_steps is None:
            num_steps = _default_steps(parts.pipeline, scheduler, schedule)
        sampling = scheduler.sampling(schedule, num_steps)
    except InputError as error:
        raise InputError(f"'{path}': {error}") from error
    return replace(
        base,
        schedule=options,
        prediction=scheduler.prediction(learns),
        objective=Hybrid() if learns else Simple(),
        sampling=sampling,
    )


def _default_steps(pipeline: str | None, scheduler: Common, schedule: Any) -> int:
    """Returns the number of steps of a call in diffusers without one.

    A DDPMPipeline takes 1000 steps. With a scheduler that has a number of its own, or
    with more times than the schedule has, the scheduler's number replaces it.
    """
    total = scheduler.num_train_timesteps
    own = min(scheduler.STEPS or _fewer(scheduler, schedule, total), total)
    if pipeline != "DDPMPipeline" or not isinstance(
        scheduler, DDPMScheduler | DDIMScheduler
    ):
        return own
    steps = min(1000, total)
    return steps if _has_grid(scheduler, schedule, steps) else own


def _fewer(scheduler: Common, schedule: Any, steps: int) -> int:
    """Returns `steps`, or 50 if the scheduler has no grid of that number."""
    return steps if _has_grid(scheduler, schedule, steps) else 50


def _has_grid(scheduler: Common, schedule: Any, steps: int) -> bool:
    """Returns True if the scheduler has a grid of this number of steps."""
    try:
        scheduler.grid(steps, schedule).levels(schedule)
    except InputError:
        return False
    return True


def _names(ours: dict[str, Any], model: Model) -> tuple[str, ...] | None:
    """Returns the class names stored in jaxdiff.json, or None if they do not fit."""
    names = ours.get("class_names")
    fits = isinstance(names, list) and len(names) == model.num_classes
    if not fits or not all(isinstance(name, str) for name in names or []):
        return None
    return tuple(names or [])


def network_of(run: Run) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Returns a run's network as in diffusers: its config.json, and its tensors.

    Raises:
        InputError: diffusers has no such network.
    """
    config, info = run.experiment.network, run.info
    if not isinstance(config, LevelOptions):
        raise InputError(
            "network must be unet or ncsnpp in a pipeline of pixels for diffusers, got "
            f"{config.FLAG}. Write it alone, with write_component."
        )
    model = Model(config, info.image_shape, _outputs(run.model), info.num_classes)
    return described(model, run.params)


def to_diffusers(
    run: Run | str | os.PathLike[str], path: str | os.PathLike[str]
) -> dict[str, Any]:
    """Writes a model as a folder that diffusers' `from_pretrained` loads.

    Args:
        run: a run folder, or a model from `load` or `from_diffusers`. Its averaged
            parameters are written.
        path: a new or empty folder.

    Returns:
        Arguments for calling the pipeline like the run's own sampling:
        "num_inference_steps", and for DDIM "eta" and "use_clipped_model_output".

    Raises:
        InputError: diffusers has no such network, schedule, prediction or sampler; a
            parameter is not finite; or the folder cannot be written.
    """
    run = run if isinstance(run, Run) else load(run)
    path = Path(path)
    check_new_folder(path)
    check_params(run.params)
    kind = kind_of_condition(run.experiment)
    if kind is not None:
        raise InputError(
            "the run must be one that diffusers has a pipeline for to be exported, got "
            f"{kind}. Keep the run."
        )
    if run.parts is not None:
        return write_pipeline(run, path)
    experiment, info = run.experiment, run.info
    sampling = experiment.sampling
    unet, arrays = network_of(run)
    scheduler, steps = scheduler_of(
        experiment.schedule, run.schedule, experiment.prediction, sampling
    )
    if isinstance(scheduler, Unscaled | OfEDM):
        raise InputError(
            "sampler must have a scheduler that does not scale x_t, for diffusers' "
            f"pipelines of pixels, got {type(scheduler).__name__}. Export with another "
            "--sampler, such as ddim or dpm-solver."
        )
    call: dict[str, Any] = {"num_inference_steps": steps}
    if isinstance(scheduler, DDIMScheduler):
        sampler: Any = sampling.sampler
        call["eta"] = float(sampler.eta)
        call["use_clipped_model_output"] = sampling.clip and not sampling.keep_eps
    pipeline = (
        "DDIMPipeline" if isinstance(scheduler, DDIMScheduler) else "DDPMPipeline"
    )
    version = {"_diffusers_version": VERSION}
    index = {
        "_class_name": pipeline, **version,
        "scheduler": ["diffusers", type(scheduler).__name__],
        "unet": ["diffusers", "UNet2DModel"],
    }  # fmt: skip
    ours = {
        "null_class": info.num_classes is not None and experiment.network.null_class,
        "class_names": info.class_names,
        "schedule": to_dict(experiment)["schedule"],
    }
    with new_folder(path) as writing:
        (writing / "unet").mkdir(parents=True)
        (writing / "scheduler").mkdir()
        write_tensors(writing / "unet" / f"{STEM}.safetensors", arrays)
        write_json_atomic(
            writing / "unet" / NETWORK,
            {"_class_name": "UNet2DModel", **version, **unet},
        )
        write_json_atomic(
            writing / "scheduler" / SCHEDULER,
            {**scheduler_record(scheduler), **version},
        )
        write_json_atomic(writing / OURS, ours)
        write_json_atomic(writing / INDEX, index)
    return call
