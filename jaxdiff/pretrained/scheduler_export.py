"""Export of schedule, prediction and sampler to a scheduler_config.json."""

import warnings
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np

from jaxdiff.denoisers.predictions import EDM, Prediction, V
from jaxdiff.errors import InputError
from jaxdiff.pretrained.scheduler_export_fields import (
    clipping_fields,
    sampler_fields,
    schedule_fields,
)
from jaxdiff.pretrained.scheduler_fields import (
    LEAST_ALPHA,
    PREDICTIONS,
    Common,
    Discrete,
)
from jaxdiff.pretrained.schedulers_continuous import (
    EDMDPMSolverMultistepScheduler,
    EDMEulerScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
)
from jaxdiff.pretrained.schedulers_multistep import (
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    UniPCMultistepScheduler,
    half_log_snr,
)
from jaxdiff.pretrained.schedulers_of_times import (
    DDIMScheduler,
    DDPMScheduler,
    LCMScheduler,
    PNDMScheduler,
)
from jaxdiff.pretrained.schedulers_unscaled import (
    DPMSolverSDEScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    KDPM2AncestralDiscreteScheduler,
    KDPM2DiscreteScheduler,
    LMSDiscreteScheduler,
)
from jaxdiff.samplers import (
    DDIM,
    DDPM,
    DEIS,
    DPM2,
    LCM,
    LMS,
    PNDM,
    DiffusersGrid,
    DPM2Ancestral,
    DPMSolver,
    DPMSolverSDE,
    Euler,
    EulerAncestral,
    FlowEuler,
    FlowHeun,
    Heun,
    Karras,
    LCMTimes,
    Leading,
    Sampler,
    UniformLogSNR,
    UniPC,
)
from jaxdiff.schedules import VE, RectifiedFlow, ScheduleOptions
from jaxdiff.schedules.discrete import (
    Schedule,
)
from jaxdiff.serialization import option_name, to_dict
from jaxdiff.training.experiment import Sampling
from jaxdiff.typing import Level

_DISCRETE: dict[type[Sampler], type[Discrete]] = {
    DDPM: DDPMScheduler,
    DDIM: DDIMScheduler,
    PNDM: PNDMScheduler,
    LCM: LCMScheduler,
    DPMSolver: DPMSolverMultistepScheduler,
    UniPC: UniPCMultistepScheduler,
    DEIS: DEISMultistepScheduler,
    Euler: EulerDiscreteScheduler,
    EulerAncestral: EulerAncestralDiscreteScheduler,
    Heun: HeunDiscreteScheduler,
    LMS: LMSDiscreteScheduler,
    DPM2: KDPM2DiscreteScheduler,
    DPM2Ancestral: KDPM2AncestralDiscreteScheduler,
    DPMSolverSDE: DPMSolverSDEScheduler,
}
"""Scheduler of each sampler on a discrete schedule."""


def scheduler_of(
    schedule_options: ScheduleOptions,
    schedule: Any,
    prediction: Prediction,
    sampling: Sampling,
) -> tuple[Common, int]:
    """Returns a scheduler of diffusers, and the number of steps to call it with.

    Raises:
        InputError: diffusers has no such schedule, prediction, sampler or spacing.

    Warns:
        UserWarning: diffusers draws other images with this scheduler.
    """
    sampler = sampling.sampler
    spacing: Any = sampler.spacing
    levels = spacing.levels(schedule)
    to_data = bool(levels.sigma[-1] == 0)
    count = getattr(spacing, "num_steps", len(levels.t) - 1)
    if isinstance(schedule, Schedule):
        kinds: Sequence[Common] = _discrete(
            schedule_options, schedule, prediction, sampling, count
        )
    else:
        kinds = [_continuous(schedule_options, prediction, sampling)]
    for found in kinds:
        try:
            made = found.sampling(schedule, count)
            theirs = made.sampler.grid(schedule)
        except InputError:  # the scheduler has no such number of steps
            continue
        if type(found.prediction(prediction.learn_variance)) is not type(prediction):
            continue
        if _same(theirs, levels, to_data):
            _check_rule(found, made.sampler, sampler)
            _warn_of_differences(found, sampler, made.sampler, schedule)
            return found, count
    cls = _DISCRETE.get(type(sampler), Common)
    name = cls.__name__ if isinstance(schedule, Schedule) else "schedulers"
    raise InputError(
        f"spacing must be available in diffusers' {name}, got {sampler.spacing}. "
        "Export with another --sampler."
    )


def _discrete(
    options: ScheduleOptions,
    schedule: Schedule,
    prediction: Prediction,
    sampling: Sampling,
    count: int,
) -> list[Discrete]:
    """Returns the schedulers that may have the sampler's spacing."""
    sampler = sampling.sampler
    cls = _DISCRETE.get(type(sampler))
    if cls is None:
        names = ", ".join(option_name(kind) for kind in _DISCRETE)
        raise InputError(
            f"sampler must be one of {names} for diffusers, got "
            f"{option_name(type(sampler))}. Export with another --sampler."
        )
    kinds = {kind: name for name, kind in PREDICTIONS.items()}
    if type(prediction) not in kinds:
        raise InputError(
            "prediction must be eps, x0 or v for diffusers, got "
            f"{type(prediction).__name__}"
        )
    learned = prediction.learn_variance
    own = {field.name for field in fields(cls)}
    shared = {
        **schedule_fields(options, schedule),
        "prediction_type": kinds[type(prediction)],
        **clipping_fields(cls, sampling),
        **sampler_fields(sampler, learned, count),
    }
    if shared.get("rescale_betas_zero_snr") and "rescale_betas_zero_snr" not in own:
        raise InputError(
            f"schedule must keep signal at its end for diffusers' {cls.__name__}, got "
            "zero-terminal-snr. Export with another --sampler."
        )
    base: Any = cls(**{key: value for key, value in shared.items() if key in own})
    return [
        replace(base, **{key: value for key, value in changes.items() if key in own})
        for changes in _grid_fields(sampler.spacing, schedule)
    ]


def _grid_fields(spacing: Any, schedule: Schedule) -> list[dict[str, Any]]:
    """Returns the fields that may give a spacing, one dictionary per attempt."""
    to_data = bool(spacing.levels(schedule).sigma[-1] == 0)
    found: dict[str, Any] = {
        "final_sigmas_type": "zero" if to_data else "sigma_min",
        "set_alpha_to_one": to_data,
    }
    offset = spacing.offset if isinstance(spacing, Leading) else 0
    if isinstance(spacing, LCMTimes):
        found["original_inference_steps"] = spacing.original_steps
    kinds = ["leading", "trailing", "linspace"]
    if isinstance(spacing, Karras | UniformLogSNR):
        karras = isinstance(spacing, Karras)
        found |= {"use_karras_sigmas": karras, "use_exponential_sigmas": not karras}
    if isinstance(spacing, DiffusersGrid):
        offset = spacing.steps_offset
        kinds.sort(key=lambda kind: kind != spacing.timestep_spacing)
        if spacing.num_times is not None:
            ends = half_log_snr(schedule)[spacing.num_times - 1 : spacing.num_times + 1]
            found["lambda_min_clipped"] = float(ends.mean())
        # Lu's rule is the exponential one with rounded times.
        lu = spacing.sigmas == "exponential" and spacing.rounding == "nearest"
        found |= {
            "use_karras_sigmas": spacing.sigmas == "karras",
            "use_exponential_sigmas": spacing.sigmas == "exponential" and not lu,
            "use_beta_sigmas": spacing.sigmas == "beta",
            "use_lu_lambdas": lu,
            "sigma_min": spacing.sigma_min,
            "sigma_max": spacing.sigma_max,
        }
    return [
        {
            **found, "timestep_spacing": kind,
            "steps_offset": offset if kind == "leading" else 0,
        }
        for kind in kinds
    ]  # fmt: skip


def _continuous(
    options: ScheduleOptions, prediction: Prediction, sampling: Sampling
) -> Common:
    """Returns the scheduler of a continuous schedule."""
    sampler = sampling.sampler
    flows: dict[Any, Any] = {
        FlowEuler: FlowMatchEulerDiscreteScheduler,
        FlowHeun: FlowMatchHeunDiscreteScheduler,
    }
    made: Common | None = None
    if isinstance(options, RectifiedFlow) and type(sampler) in flows:
        made = flows[type(sampler)](shift=options.shift)
    elif isinstance(options, VE) and type(sampler) in (Euler, DPMSolver):
        made = _of_ve(options, prediction, sampling)
    if made is None:
        raise InputError(
            "schedule and sampler must be straight-path with flow-euler or flow-heun, "
            "variance-exploding with euler or dpm-solver, or discrete for diffusers, "
            f"got {option_name(type(options))} with {option_name(type(sampler))}"
        )
    theirs: Any = made.schedule()
    if replace(theirs, num_steps=getattr(options, "num_steps", 0)) != options:
        raise InputError(
            f"schedule must be {theirs} for diffusers' {type(made).__name__}, got "
            f"{options}"
        )
    if sampling.clip and not made.clipping()["clip"]:
        raise InputError(
            f"sampling.clip must be false for diffusers' {type(made).__name__}, got "
            "true. Export with --no-sampling.clip."
        )
    return made


def _of_ve(options: VE, prediction: Prediction, sampling: Sampling) -> Common | None:
    """Returns the scheduler of a variance-exploding schedule, or None."""
    sampler: Any = sampling.sampler
    karras = isinstance(sampler.spacing, Karras)
    ends: dict[str, Any] = {
        "sigma_min": options.sigma_min, "sigma_max": options.sigma_max
    }  # fmt: skip
    if isinstance(prediction, V) and isinstance(sampler, Euler):
        return EulerDiscreteScheduler(
            **ends, timestep_type="continuous", prediction_type="v_prediction",
            use_karras_sigmas=karras, use_exponential_sigmas=not karras,
        )  # fmt: skip
    if not isinstance(prediction, EDM):
        return None
    cls: Any = EDMEulerScheduler
    shared: dict[str, Any] = {
        **ends, "num_train_timesteps": options.num_steps, "rho": options.rho,
        "sigma_data": prediction.data_deviation,
        "sigma_schedule": "karras" if karras else "exponential",
    }  # fmt: skip
    if isinstance(sampler, DPMSolver):
        cls = EDMDPMSolverMultistepScheduler
        shared |= sampler_fields(sampler, prediction.learn_variance, 0)
        shared |= clipping_fields(cls, sampling)
    own = {field.name for field in fields(cls)}
    made: Common = cls(**{key: value for key, value in shared.items() if key in own})
    return made


def _same(theirs: Level, levels: Level, to_data: bool) -> bool:
    """Returns True if two grids have the same times and noise levels."""
    if len(theirs.t) != len(levels.t) or bool(theirs.sigma[-1] == 0) != to_data:
        return False
    if not np.allclose(theirs.t[:-1], levels.t[:-1], rtol=0, atol=0.01):
        return False
    ours, other = (np.maximum(at.alpha, LEAST_ALPHA) for at in (levels, theirs))
    return np.allclose(ours, other, rtol=1e-4)


def _check_rule(scheduler: Common, theirs: Any, sampler: Sampler) -> None:
    """Checks that diffusers' rule for a step is the sampler's.

    Raises:
        InputError: an option of the sampler has no equal there.
    """
    free = ("eta",) if isinstance(scheduler, DDIMScheduler) else ()
    for field in fields(type(sampler)):
        mine, other = (getattr(one, field.name) for one in (sampler, theirs))
        if field.name in ("spacing", *free) or mine == other:
            continue
        # A step onto the data has order 1 anyway.
        last = isinstance(sampler, DPMSolver) and sampler.order < 3
        if field.name == "lower_order_final" and last and theirs.spacing.to_data:
            continue
        raise InputError(
            f"{field.name} must be {other} for diffusers' {type(scheduler).__name__}, "
            f"got {mine}"
        )


def _warn_of_differences(
    scheduler: Common, sampler: Sampler, theirs: Sampler, schedule: Any
) -> None:
    """Warns if diffusers draws other images from these times."""
    grids = [one.grid(schedule) for one in (sampler, theirs)]
    alphas = [float(grid.alpha[0]) for grid in grids]
    least: Any = theirs.spacing
    if isinstance(scheduler, Discrete) and alphas[0] < alphas[1] == np.float32(
        getattr(least, "least_alpha", 0)
    ):
        warnings.warn(
            "exported a schedule without signal in its last step; diffusers' "
            f"{type(scheduler).__name__} leaves a signal of "
            f"{least.least_alpha:.2g} and draws slightly other images",
            stacklevel=2,
        )
    mine, other = (
        float(one.start_scale(schedule, grid))
        for one, grid in zip((sampler, theirs), grids, strict=True)
    )
    if abs(mine / other - 1) > 1e-6:
        warnings.warn(
            f"exported a start from noise of deviation {mine:.4g}; diffusers' "
            f"{type(scheduler).__name__} starts from {other:.4g} and draws slightly "
            "other images",
            stacklevel=2,
        )


def scheduler_record(scheduler: Common) -> dict[str, Any]:
    """Returns the contents of a scheduler_config.json."""
    record = to_dict(scheduler)
    if record.get("lambda_min_clipped", 0) is None:
        del record["lambda_min_clipped"]
    return {"_class_name": type(scheduler).__name__, **record}
