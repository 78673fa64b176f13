"""Fields of diffusers' schedulers for a schedule, a sampler and its clipping."""

from dataclasses import fields
from typing import Any

import numpy as np

from jaxdiff.errors import InputError
from jaxdiff.pretrained.scheduler_fields import Common
from jaxdiff.pretrained.schedulers_multistep import FEW_STEPS
from jaxdiff.samplers import DDPM, DEIS, LCM, PNDM, DPMSolver, UniPC
from jaxdiff.samplers.ancestral import FixedLarge, FixedSmall, LearnedRange
from jaxdiff.schedules import ScheduleOptions
from jaxdiff.schedules.discrete import (
    Betas,
    Cosine,
    Linear,
    Quadratic,
    Schedule,
    ZeroTerminalSNR,
)
from jaxdiff.serialization import option_name
from jaxdiff.training.experiment import Sampling


def sampler_fields(sampler: Any, learned: bool, count: int) -> dict[str, Any]:
    """Returns the fields of a sampler."""
    if learned and not (
        isinstance(sampler, DPMSolver)
        or (isinstance(sampler, DDPM) and sampler.variance == LearnedRange())
    ):
        raise InputError(
            "sampler must be ancestral:variance=learned-range or dpm-solver for "
            "diffusers if the network learned a variance, got "
            f"{option_name(type(sampler))}"
        )
    if isinstance(sampler, DDPM):
        variances: dict[Any, Any] = {
            FixedSmall(): "fixed_small", FixedLarge(): "fixed_large",
            LearnedRange(): "learned_range",
        }  # fmt: skip
        if sampler.variance not in variances:
            raise InputError(
                "variance must be fixed-small, fixed-large or learned-range for "
                f"diffusers, got {sampler.variance}"
            )
        return {"variance_type": variances[sampler.variance]}
    if isinstance(sampler, DPMSolver):
        if sampler.eta not in (0, 1):
            raise InputError(f"eta must be 0 or 1 for diffusers, got {sampler.eta:g}")
        if sampler.order == 3 and sampler.third_order != "published":
            raise InputError(
                "third_order must be published for diffusers with order 3, got "
                f"{sampler.third_order}. Export with order 2."
            )
        return {
            "solver_order": sampler.order,
            "algorithm_type": "sde-dpmsolver++" if sampler.eta else "dpmsolver++",
            "solver_type": sampler.variant,
            "lower_order_final": sampler.lower_order_final,
            # From 15 steps on, diffusers reads only this option.
            "euler_at_final": sampler.lower_order_final and count >= FEW_STEPS,
            "variance_type": "learned_range" if learned else None,
        }
    if isinstance(sampler, UniPC):
        kind: dict[str, Any] = {"solver_type": sampler.variant}
    elif isinstance(sampler, PNDM):
        kind = {"skip_prk_steps": sampler.start == "improved-euler"}
    elif isinstance(sampler, LCM):
        kind = {"timestep_scaling": sampler.time_scale}
    else:
        kind = {}
    if isinstance(sampler, UniPC | DEIS):
        kind["solver_order"] = sampler.order
        kind["lower_order_final"] = sampler.lower_order_final
    return kind


def clipping_fields(cls: type[Common], sampling: Sampling) -> dict[str, Any]:
    """Returns the fields that limit the estimates."""
    own = {field.name for field in fields(cls)}
    limit = sampling.clip_range or 1.0
    if not sampling.clip:
        return {"clip_sample": False, "thresholding": False}
    if sampling.clip_quantile is not None and sampling.clip_range is None:
        raise InputError(
            "sampling.clip_range must be set for diffusers with clip_quantile, got None"
        )
    if sampling.clip_quantile is not None and limit != 1:
        if "thresholding" not in own:
            raise InputError(
                f"sampling.clip_quantile must be None for diffusers' {cls.__name__}, "
                f"got {sampling.clip_quantile:g}. Export with another --sampler."
            )
        return {
            "clip_sample": False, "thresholding": True, "sample_max_value": limit,
            "dynamic_thresholding_ratio": sampling.clip_quantile,
        }  # fmt: skip
    if "clip_sample" in own:
        return {"clip_sample": True, "clip_sample_range": limit}
    if limit != 1 or "thresholding" not in own:
        must = "1" if "thresholding" in own else "off (sampling.clip)"
        raise InputError(
            f"sampling.clip_range must be {must} for diffusers' {cls.__name__}, got "
            f"{limit:g}"
        )
    return {"thresholding": True}


def schedule_fields(options: ScheduleOptions, schedule: Schedule) -> dict[str, Any]:
    """Returns the fields of a schedule; a list of betas if diffusers has no name."""
    base: Any = options.base if isinstance(options, ZeroTerminalSNR) else options
    rescaled = isinstance(options, ZeroTerminalSNR)
    found: dict[str, Any] = {"num_train_timesteps": schedule.num_steps}
    if isinstance(base, Linear | Quadratic):
        name = "linear" if isinstance(base, Linear) else "scaled_linear"
        found |= {
            "beta_schedule": name,
            "beta_start": base.beta_start,
            "beta_end": base.beta_end,
            "rescale_betas_zero_snr": rescaled,
        }
    elif base == Cosine(num_steps=schedule.num_steps):
        found["beta_schedule"] = "squaredcos_cap_v2"
        found["rescale_betas_zero_snr"] = rescaled
    elif isinstance(base, Betas):
        found["trained_betas"] = base.betas
        found["rescale_betas_zero_snr"] = rescaled
    else:
        found["trained_betas"] = tuple(map(float, np.asarray(schedule.betas)))
    return found
