"""Import of diffusers' schedulers as schedule, prediction and sampler.

A scheduler of diffusers combines a schedule, a prediction, a spacing and a sampler.
Its file does not contain the number of steps, which is an argument of each call.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Any, Literal, TypeAlias

import numpy as np

from jaxdiff.components.files import known_entries
from jaxdiff.denoisers.predictions import X0, Eps, Prediction, V
from jaxdiff.errors import InputError, shown
from jaxdiff.samplers import DDIM, DDPM, DiffusersGrid, DPMSolver, UniPC
from jaxdiff.samplers.ancestral import FixedLarge, FixedSmall, LearnedRange, Variance
from jaxdiff.schedules import ScheduleOptions
from jaxdiff.schedules.discrete import (
    Cosine,
    Linear,
    Quadratic,
    Schedule,
    ZeroTerminalSNR,
)
from jaxdiff.serialization import from_dict
from jaxdiff.training.experiment import Sampling

PREDICTIONS: dict[str, Any] = {"epsilon": Eps, "sample": X0, "v_prediction": V}
_LEGACY = (
    "tensor_format", "timestep_values", "skip_prk_steps", "interpolation_type",
)  # fmt: skip
"""Fields of older versions and other schedulers that change nothing."""
_LEAST_ALPHA = 2.0**-12
"""Signal scale of the last time in diffusers' multistep schedulers with
rescale_betas_zero_snr."""


@dataclass(frozen=True, kw_only=True)
class Common:
    """Fields of every scheduler; their types list the supported values."""

    num_train_timesteps: int = 1000
    beta_start: float = 1e-4
    beta_end: float = 0.02
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "linear"
    trained_betas: tuple[float, ...] | None = None
    prediction_type: Literal["epsilon", "sample", "v_prediction"] = "epsilon"
    thresholding: bool = False
    dynamic_thresholding_ratio: float = 0.995
    sample_max_value: float = 1.0
    timestep_spacing: Literal["linspace", "leading", "trailing"] = "linspace"
    steps_offset: int = 0
    rescale_betas_zero_snr: bool = False

    def schedule(self) -> ScheduleOptions:
        """Returns the noise schedule.

        Raises:
            InputError: the schedule is a list of betas.
        """
        if self.trained_betas is not None:
            raise InputError("trained_betas must be null, got a list of betas")
        base: Linear | Quadratic | Cosine
        if self.beta_schedule == "squaredcos_cap_v2":
            base = Cosine(num_steps=self.num_train_timesteps)
        else:
            cls = Linear if self.beta_schedule == "linear" else Quadratic
            base = cls(
                num_steps=self.num_train_timesteps,
                beta_start=self.beta_start,
                beta_end=self.beta_end,
            )
        return ZeroTerminalSNR(base=base) if self.rescale_betas_zero_snr else base

    def prediction(self, learn_variance: bool) -> Prediction:
        """Returns the network's prediction."""
        return PREDICTIONS[self.prediction_type](learn_variance=learn_variance)

    def clips(self) -> bool:
        """Returns True if images are clipped to [-1, 1].

        Raises:
            InputError: images are clipped to another range.
        """
        if self.thresholding and self.sample_max_value != 1:
            raise InputError(
                "sample_max_value must be 1 (clipping) with thresholding, got "
                f"{self.sample_max_value:g}"
            )
        return self.thresholding

    def clip_range(self) -> float | None:
        """Returns the limit of clipped images; None for that of the data."""
        return None

    def sampling(self, schedule: Schedule, num_steps: int) -> Sampling:
        """Returns the sampling of diffusers' pipeline with this number of steps.

        Warns:
            UserWarning: diffusers draws other images, because it departs from the
                method.
        """
        raise NotImplementedError

    def grid(self, num_steps: int, schedule: Schedule) -> DiffusersGrid:
        """Returns the time grid of a sampling loop with this number of steps."""
        return DiffusersGrid(
            num_steps=num_steps,
            timestep_spacing=self.timestep_spacing,
            steps_offset=self.steps_offset * (self.timestep_spacing == "leading"),
        )

    def times(self, num_steps: int, schedule: Schedule) -> list[int]:
        """Returns the times at which the network is evaluated, noisiest first.

        Warns:
            UserWarning: diffusers' rounding gives it one more time, -1.
        """
        grid = replace(self.grid(num_steps, schedule), to_data=True)
        times = np.asarray(grid.levels(schedule).t)[:-1]
        if self.timestep_spacing == "trailing":
            stride = self.num_train_timesteps / num_steps
            theirs = np.arange(times[0] + 1, 0, -stride).round().astype(int) - 1
            if theirs[-1] < 0:
                warnings.warn(
                    f"left out the step from time -1 that diffusers adds to "
                    f"{num_steps} steps with timestep_spacing trailing; diffusers "
                    "draws other images",
                    stacklevel=2,
                )
        return [int(t) for t in times]


@dataclass(frozen=True, kw_only=True)
class OneStep(Common):
    """Fields of the schedulers that remember no earlier step."""

    clip_sample: bool = True
    clip_sample_range: float = 1.0

    def clips(self) -> bool:
        """Returns True if images are clipped."""
        return super().clips() or self.clip_sample

    def clip_range(self) -> float | None:
        """Returns the limit of clipped images; None for that of the data."""
        limit = self.clip_sample_range
        if limit != 1 and self.clip_sample and self.thresholding:
            raise InputError(
                f"clip_sample_range must be 1 with thresholding, got {limit:g}"
            )
        return limit if self.clip_sample and limit != 1 else None


@dataclass(frozen=True, kw_only=True)
class DDPMScheduler(OneStep):
    """Ancestral sampler."""

    timestep_spacing: Literal["linspace", "leading", "trailing"] = "leading"
    variance_type: Literal[
        "fixed_small", "fixed_small_log", "fixed_large", "learned_range"
    ] = "fixed_small"

    def sampling(self, schedule: Schedule, num_steps: int) -> Sampling:
        """Returns the sampling of diffusers' pipeline with this number of steps."""
        variance: Variance = FixedSmall()
        if self.variance_type == "fixed_large":
            variance = FixedLarge()
        elif self.variance_type == "learned_range":
            variance = LearnedRange()
        grid = self.grid(num_steps, schedule)
        ends_early = self.times(num_steps, schedule)[-1] > 0
        # Fewer steps, chosen later, end before time 0 with trailing.
        ends_early |= self.timestep_spacing == "trailing"
        if ends_early and variance != FixedSmall():
            warnings.warn(
                "left out the noise that diffusers adds in the last step with "
                f"variance_type {self.variance_type}, if the last time is not 0; "
                "diffusers draws noisier images",
                stacklevel=2,
            )
        sampler = DDPM(spacing=grid, variance=variance)
        return Sampling(
            sampler=sampler, clip=self.clips(), clip_range=self.clip_range()
        )


@dataclass(frozen=True, kw_only=True)
class DDIMScheduler(OneStep):
    """DDIM; eta is an argument of each call in diffusers, 0 by default."""

    timestep_spacing: Literal["linspace", "leading", "trailing"] = "leading"
    set_alpha_to_one: bool = True

    def sampling(self, schedule: Schedule, num_steps: int) -> Sampling:
        """Returns the sampling of diffusers' pipeline with this number of steps."""
        times = self.times(num_steps, schedule)
        stride = self.num_train_timesteps // num_steps
        if times[-1] >= stride or any(a - b != stride for a, b in pairwise(times)):
            warnings.warn(
                f"kept DDIM's steps from each time to the next, with {num_steps} steps "
                f"and timestep_spacing {self.timestep_spacing}; diffusers steps by "
                f"strides of {stride} and draws other images",
                stacklevel=2,
            )
        clip, grid = self.clips(), self.grid(num_steps, schedule)
        if clip and not grid.to_data and times[-1] == 0:
            raise InputError(
                "set_alpha_to_one must be true with clip_sample if the last time is 0, "
                "got false: a clipping step from time 0 to itself is not supported"
            )
        return Sampling(
            sampler=DDIM(spacing=grid), clip=clip, clip_range=self.clip_range(),
            keep_eps=clip,
        )  # fmt: skip

    def grid(self, num_steps: int, schedule: Schedule) -> DiffusersGrid:
        """Returns the time grid of a sampling loop with this number of steps."""
        grid = super().grid(num_steps, schedule)
        return replace(grid, to_data=self.set_alpha_to_one)


@dataclass(frozen=True, kw_only=True)
class Multistep(Common):
    """Fields of the multistep schedulers."""

    solver_order: Literal[1, 2, 3] = 2
    lower_order_final: bool = True
    final_sigmas_type: Literal["zero", "sigma_min"] = "zero"
    use_karras_sigmas: Literal[False] = False
    use_exponential_sigmas: Literal[False] = False
    use_beta_sigmas: Literal[False] = False
    use_flow_sigmas: Literal[False] = False
    flow_shift: float = 1.0
    use_dynamic_shifting: Literal[False] = False
    time_shift_type: str = "exponential"

    def grid(self, num_steps: int, schedule: Schedule) -> DiffusersGrid:
        """Returns the time grid of a sampling loop with this number of steps."""
        return replace(
            super().grid(num_steps, schedule),
            to_data=self.final_sigmas_type == "zero",
            skip_last=self.timestep_spacing != "trailing",
            # diffusers makes the log-SNR of a last time without signal finite.
            least_alpha=_LEAST_ALPHA if self.rescale_betas_zero_snr else 0.0,
        )


@dataclass(frozen=True, kw_only=True)
class DPMSolverMultistepScheduler(Multistep):
    """DPM-Solver++, for the ODE or the SDE."""

    algorithm_type: Literal["dpmsolver++", "sde-dpmsolver++"] = "dpmsolver++"
    solver_type: Literal["midpoint", "heun"] = "midpoint"
    euler_at_final: bool = False
    use_lu_lambdas: Literal[False] = False
    lambda_min_clipped: float | None = None
    variance_type: Literal["learned_range"] | None = None

    def sampling(self, schedule: Schedule, num_steps: int) -> Sampling:
        """Returns the sampling of diffusers' pipeline with this number of steps."""
        few = self.lower_order_final and num_steps < 15
        # euler_at_final lowers the last step only; one onto the data is lowered anyway.
        euler = self.euler_at_final and self.final_sigmas_type != "zero"
        if euler and not few and self.solver_order == 3:
            raise InputError(
                "solver_order must be 1 or 2 with euler_at_final and final_sigmas_type "
                "sigma_min, got 3"
            )
        if self.solver_order == 3:
            warnings.warn(
                "kept the whole third-order term of solver_order 3; diffusers uses "
                "half of the term and draws other images",
                stacklevel=2,
            )
        self.times(num_steps, schedule)
        sampler = DPMSolver(
            spacing=self.grid(num_steps, schedule),
            order=self.solver_order,
            eta=float(self.algorithm_type == "sde-dpmsolver++"),
            variant=self.solver_type,
            lower_order_final=few or euler,
        )
        return Sampling(
            sampler=sampler, clip=self.clips(), clip_range=self.clip_range()
        )

    def grid(self, num_steps: int, schedule: Schedule) -> DiffusersGrid:
        """Returns the time grid of a sampling loop with this number of steps."""
        grid = super().grid(num_steps, schedule)
        if self.lambda_min_clipped is None:
            return grid
        count = int((half_log_snr(schedule) >= self.lambda_min_clipped).sum())
        return replace(grid, num_times=count)


def half_log_snr(schedule: Schedule) -> np.ndarray:
    """Returns log(alpha / sigma) at every time, float64 [T]."""
    alphas_bar = np.asarray(schedule.alphas_bar, np.float64)
    with np.errstate(divide="ignore"):
        return np.log(alphas_bar / (1 - alphas_bar)) / 2


@dataclass(frozen=True, kw_only=True)
class UniPCMultistepScheduler(Multistep):
    """UniPC with the prediction of x_0."""

    predict_x0: Literal[True] = True
    solver_type: Literal["bh1", "bh2"] = "bh2"
    disable_corrector: tuple[int, ...] = ()
    solver_p: Literal[None] = None
    sigma_min: Literal[None] = None
    sigma_max: Literal[None] = None
    shift_terminal: Literal[None] = None

    def sampling(self, schedule: Schedule, num_steps: int) -> Sampling:
        """Returns the sampling of diffusers' pipeline with this number of steps."""
        if self.disable_corrector:
            raise InputError(
                f"disable_corrector must be empty, got {self.disable_corrector}"
            )
        self.times(num_steps, schedule)
        sampler = UniPC(
            spacing=self.grid(num_steps, schedule),
            order=self.solver_order,
            variant=self.solver_type,
            lower_order_final=self.lower_order_final,
        )
        return Sampling(
            sampler=sampler, clip=self.clips(), clip_range=self.clip_range()
        )


Scheduler: TypeAlias = (
    DDPMScheduler
    | DDIMScheduler
    | DPMSolverMultistepScheduler
    | UniPCMultistepScheduler
)
CLASSES: tuple[type[Common], ...] = Scheduler.__args__
DEFAULT_STEPS: dict[type[Common], int] = {
    DDIMScheduler: 50, DPMSolverMultistepScheduler: 20, UniPCMultistepScheduler: 20
}  # fmt: skip
"""Default number of steps; all times for DDPM."""


def read_scheduler(
    record: Mapping[str, Any], where: str, name: str | None = None
) -> Common:
    """Returns the scheduler of a scheduler_config.json.

    Args:
        record: contents of the file.
        where: name of the file, for messages.
        name: class that a pipeline names for its scheduler; by default the file's.

    Raises:
        InputError: the class is not supported, or an entry has an unsupported value.

    Warns:
        UserWarning: it names entries that were ignored.
    """
    names = {cls.__name__: cls for cls in CLASSES}
    name = record.get("_class_name") if name is None else name
    if not isinstance(name, str) or name not in names:
        raise InputError(
            f"{where}: the scheduler must be one of {', '.join(names)}, got "
            f"{shown(name)}"
        )
    cls = names[name]
    own = {field.name for field in fields(cls)}
    # A scheduler made from the configuration of another keeps the other's fields.
    others = {field.name for other in CLASSES for field in fields(other)} - own
    data = {k: v for k, v in record.items() if k not in others and k not in _LEGACY}
    epsilon = data.pop("predict_epsilon", None)  # from versions before prediction_type
    data = known_entries(data, own, where)
    if epsilon is False and "prediction_type" not in data:
        warnings.warn(
            f"took prediction_type sample from predict_epsilon false in {where}; "
            "diffusers ignores that entry and draws other images",
            stacklevel=2,
        )
        data["prediction_type"] = "sample"
    if data.get("lambda_min_clipped") == -np.inf:
        data["lambda_min_clipped"] = None
    return from_dict(cls, data, f"{where} has unsupported entries")
