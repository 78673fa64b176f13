"""Export of schedule, prediction and sampler to a scheduler_config.json."""

import warnings
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from jaxdiff.denoisers.predictions import Prediction
from jaxdiff.errors import InputError
from jaxdiff.pretrained.schedulers import (
    PREDICTIONS,
    Common,
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    Multistep,
    UniPCMultistepScheduler,
    half_log_snr,
)
from jaxdiff.samplers import (
    DDIM,
    DDPM,
    DiffusersGrid,
    DPMSolver,
    Leading,
    Sampler,
    Spacing,
    UniPC,
)
from jaxdiff.samplers.ancestral import FixedLarge, FixedSmall, LearnedRange
from jaxdiff.schedules import ScheduleOptions
from jaxdiff.schedules.discrete import (
    Cosine,
    Linear,
    Quadratic,
    Schedule,
    ZeroTerminalSNR,
)
from jaxdiff.serialization import option_name, to_dict
from jaxdiff.training.experiment import Sampling


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
    if not isinstance(schedule, Schedule):
        raise InputError(
            "schedule must be discrete for diffusers, got "
            f"{type(schedule_options).__name__}"
        )
    sampler = sampling.sampler
    if type(sampler) not in (DDPM, DDIM, DPMSolver, UniPC):
        raise InputError(
            "sampler must be ancestral, ddim, dpm-solver or uni-pc for diffusers, got "
            f"{option_name(type(sampler))}. Export with another --sampler."
        )
    kinds = {cls: name for name, cls in PREDICTIONS.items()}
    if type(prediction) not in kinds:
        raise InputError(
            "prediction must be eps, x0 or v for diffusers, got "
            f"{type(prediction).__name__}"
        )
    spacing: Any = sampler.spacing
    grid = _grid_of(spacing, schedule)
    count = len(grid.times) - (not grid.to_data)
    offset = spacing.offset if isinstance(spacing, Leading) else 0
    num_times = None
    if isinstance(spacing, DiffusersGrid):
        count, offset = spacing.num_steps, spacing.steps_offset
        num_times = spacing.num_times
    shared = {
        **_schedule_fields(schedule_options, schedule),
        "prediction_type": kinds[type(prediction)],
    }
    base = _base_of(sampler, sampling, prediction.learn_variance, count, shared)
    for kind in ("leading", "trailing", "linspace"):
        changes: dict[str, Any] = {"timestep_spacing": kind}
        changes["steps_offset"] = offset if kind == "leading" else 0
        if isinstance(base, Multistep):
            changes["final_sigmas_type"] = "zero" if grid.to_data else "sigma_min"
        elif isinstance(base, DDIMScheduler):
            changes["set_alpha_to_one"] = grid.to_data
        if isinstance(base, DPMSolverMultistepScheduler) and num_times is not None:
            ends = half_log_snr(schedule)[num_times - 1 : num_times + 1]
            changes["lambda_min_clipped"] = float(ends.mean())
        found = replace(base, **changes)
        try:
            theirs = _grid_of(found.grid(count, schedule), schedule)
        except InputError:  # the scheduler has no such number of steps
            continue
        if theirs == grid:
            _warn_of_differences(found, spacing, schedule, count)
            return found, count
    raise InputError(
        f"spacing must be available in diffusers' {type(base).__name__}, got "
        f"{sampler.spacing}. Export with another --sampler."
    )


def _warn_of_differences(
    scheduler: Common, spacing: Spacing, schedule: Schedule, count: int
) -> None:
    """Warns if diffusers draws other images from these times."""
    sampler: Any = scheduler.sampling(schedule, count).sampler
    alphas = (s.levels(schedule).alpha[0] for s in (spacing, sampler.spacing))
    if isinstance(scheduler, Multistep) and len({float(a) for a in alphas}) > 1:
        warnings.warn(
            "exported a schedule without signal in its last step; diffusers' "
            f"{type(scheduler).__name__} leaves a signal of "
            f"{sampler.spacing.least_alpha:.2g} and draws slightly other images",
            stacklevel=2,
        )


class _Grid(NamedTuple):
    """Time grid: integer times, noisiest first; `to_data` if it ends at the data."""

    times: tuple[int, ...]
    to_data: bool


def _grid_of(spacing: Spacing, schedule: Schedule) -> _Grid:
    """Returns the time grid of a spacing on a discrete schedule."""
    levels = spacing.levels(schedule)
    to_data = bool(levels.sigma[-1] == 0)
    times = np.asarray(levels.t)
    if (times != times.round()).any():
        raise InputError(
            f"spacing must have integer times for diffusers, got {spacing}. Export "
            "with another --sampler."
        )
    return _Grid(tuple(map(int, times[:-1] if to_data else times)), to_data)


def _base_of(
    sampler: Sampler,
    sampling: Sampling,
    learned: bool,
    count: int,
    shared: dict[str, Any],
) -> Common:
    """Returns the scheduler of a sampler, without its spacing."""
    clip, limit = sampling.clip, sampling.clip_range or 1.0
    clipping: dict[str, Any] = {
        "clip_sample": clip,
        "clip_sample_range": limit if clip else 1.0,
    }
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
        return DDPMScheduler(
            **shared, **clipping, variance_type=variances[sampler.variance]
        )
    if isinstance(sampler, DDIM):
        return DDIMScheduler(**shared, **clipping)
    if clip and limit != 1:
        raise InputError(
            "sampling.clip_range must be 1 for diffusers with dpm-solver and uni-pc, "
            f"got {limit:g}"
        )
    if isinstance(sampler, DPMSolver):
        if sampler.eta not in (0, 1):
            raise InputError(f"eta must be 0 or 1 for diffusers, got {sampler.eta:g}")
        if sampler.order == 3:
            raise InputError(
                "order must be 1 or 2 for diffusers, whose third order differs, got 3. "
                "Export with order 2."
            )
        return DPMSolverMultistepScheduler(
            **shared,
            thresholding=clip,
            solver_order=sampler.order,  # type: ignore[arg-type]
            algorithm_type="sde-dpmsolver++" if sampler.eta else "dpmsolver++",
            solver_type=sampler.variant,
            lower_order_final=sampler.lower_order_final,
            # From 15 steps on, diffusers reads only this option.
            euler_at_final=sampler.lower_order_final and count >= 15,
            variance_type="learned_range" if learned else None,
        )
    assert isinstance(sampler, UniPC), "the caller has checked the type"
    return UniPCMultistepScheduler(
        **shared,
        thresholding=clip,
        solver_order=sampler.order,  # type: ignore[arg-type]
        solver_type=sampler.variant,
        lower_order_final=sampler.lower_order_final,
    )


def _schedule_fields(options: ScheduleOptions, schedule: Schedule) -> dict[str, Any]:
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
    else:
        found["trained_betas"] = tuple(map(float, np.asarray(schedule.betas)))
    return found


def scheduler_record(scheduler: Common) -> dict[str, Any]:
    """Returns the contents of a scheduler_config.json."""
    record = to_dict(scheduler)
    if record.get("lambda_min_clipped", 0) is None:
        del record["lambda_min_clipped"]
    return {"_class_name": type(scheduler).__name__, **record}
