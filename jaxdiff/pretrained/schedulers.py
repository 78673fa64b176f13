"""Import of diffusers' schedulers as schedule, prediction and sampler.

A scheduler of diffusers combines a schedule, a prediction, a spacing and a sampler.
Its file does not contain the number of steps, which is an argument of each call.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from jaxdiff.denoisers.predictions import X0, Eps, Prediction, V
from jaxdiff.errors import InputError, shown
from jaxdiff.samplers import (
    DDIM,
    DDPM,
    AllTimes,
    DPMSolver,
    Leading,
    Linspace,
    Spacing,
    Times,
    Trailing,
    UniPC,
)
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


class Grid(NamedTuple):
    """Time grid: integer times, noisiest first; `to_data` if it ends at the data."""

    times: tuple[int, ...]
    to_data: bool


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

    def sampling(self, schedule: Schedule, num_steps: int) -> Sampling:
        """Returns the sampling of diffusers' pipeline with this number of steps."""
        raise NotImplementedError

    def grid(self, num_steps: int, schedule: Schedule) -> Grid:
        """Returns the time grid of a sampling loop with this number of steps."""
        raise NotImplementedError

    def spacing(self, num_steps: int, schedule: Schedule) -> Spacing:
        """Returns a spacing of jaxdiff with the same time grid.

        Raises:
            InputError: the grid has no step.
        """
        wanted = self.grid(num_steps, schedule)
        if len(wanted.times) < 2 - wanted.to_data:
            raise InputError(
                f"num_steps must be at least 2 for a grid that ends at time 0, got "
                f"{num_steps}. Take more steps."
            )
        count, offset = num_steps, self.steps_offset
        candidates: list[Spacing] = [AllTimes()]
        for to_data, skip_last in ((True, False), (True, True), (False, False)):
            shared: Any = {
                "num_steps": count, "to_data": to_data, "skip_last": skip_last
            }  # fmt: skip
            candidates += [
                Leading(**shared, offset=offset), Trailing(**shared), Linspace(**shared)
            ]  # fmt: skip
        for candidate in candidates:
            try:
                if grid_of(candidate, schedule) == wanted:
                    return candidate
            except InputError:  # the candidate has no such grid
                continue
        return Times(times=tuple(map(float, wanted.times)), to_data=wanted.to_data)

    def _of_each_step(self, num_steps: int) -> list[int]:
        """Returns the times of DDPM and DDIM."""
        total = self.num_train_timesteps
        if self.timestep_spacing == "linspace":
            times: Any = np.linspace(0, total - 1, num_steps).round()[::-1]
        elif self.timestep_spacing == "leading":
            times = np.arange(num_steps)[::-1] * (total // num_steps)
            times = times + self.steps_offset
        else:
            return _trailing(total, num_steps)
        return [int(t) for t in times]

    def _before_the_last(self, num_steps: int, end: int) -> list[int]:
        """Returns the times of the multistep schedulers, all below `end`."""
        if self.timestep_spacing == "linspace":
            times: Any = np.linspace(0, end - 1, num_steps + 1).round()[::-1][:-1]
        elif self.timestep_spacing == "leading":
            times = np.arange(num_steps + 1)[::-1][:-1] * (end // (num_steps + 1))
            times = times + self.steps_offset
        else:
            return _trailing(end, num_steps)
        return [int(t) for t in times]


def _trailing(total: int, num_steps: int) -> list[int]:
    times = np.arange(num_steps, 0, -1) * (total / num_steps)
    return [int(t) - 1 for t in times.round()]


def grid_of(spacing: Spacing, schedule: Schedule) -> Grid:
    """Returns the time grid of a spacing on a discrete schedule."""
    levels = spacing.levels(schedule)
    to_data = bool(levels.sigma[-1] == 0)
    times = np.asarray(levels.t)
    if (times != times.round()).any():
        raise InputError(
            f"spacing must have integer times for diffusers, got {spacing}. Export "
            "with another --sampler."
        )
    return Grid(tuple(map(int, times[:-1] if to_data else times)), to_data)


@dataclass(frozen=True, kw_only=True)
class DDPMScheduler(Common):
    """Ancestral sampler."""

    timestep_spacing: Literal["linspace", "leading", "trailing"] = "leading"
    variance_type: Literal[
        "fixed_small", "fixed_small_log", "fixed_large", "learned_range"
    ] = "fixed_small"
    clip_sample: bool = True
    clip_sample_range: float = 1.0

    def clips(self) -> bool:
        """Returns True if images are clipped to [-1, 1]."""
        return super().clips() or _clips(self.clip_sample, self.clip_sample_range)

    def sampling(self, schedule: Schedule, num_steps: int) -> Sampling:
        """Returns the sampling of diffusers' pipeline with this number of steps."""
        variance: Variance = FixedSmall()
        if self.variance_type == "fixed_large":
            variance = FixedLarge()
        elif self.variance_type == "learned_range":
            variance = LearnedRange()
        spacing = self.spacing(num_steps, schedule)
        sampler = DDPM(spacing=spacing, variance=variance)
        return Sampling(sampler=sampler, clip=self.clips())

    def grid(self, num_steps: int, schedule: Schedule) -> Grid:
        """Returns the time grid of a sampling loop with this number of steps."""
        return Grid(tuple(self._of_each_step(num_steps)), True)


@dataclass(frozen=True, kw_only=True)
class DDIMScheduler(Common):
    """DDIM; eta is an argument of each call in diffusers, 0 by default."""

    timestep_spacing: Literal["linspace", "leading", "trailing"] = "leading"
    clip_sample: bool = True
    clip_sample_range: float = 1.0
    set_alpha_to_one: bool = True

    def clips(self) -> bool:
        """Returns True if images are clipped to [-1, 1]."""
        return super().clips() or _clips(self.clip_sample, self.clip_sample_range)

    def sampling(self, schedule: Schedule, num_steps: int) -> Sampling:
        """Returns the sampling of diffusers' pipeline with this number of steps."""
        times = self._of_each_step(num_steps)
        stride = self.num_train_timesteps // num_steps
        if any(a - b != stride for a, b in pairwise(times)):
            warnings.warn(
                f"imported DDIM of {num_steps} steps with timestep_spacing "
                f"{self.timestep_spacing} to step from each time to the next; "
                f"diffusers steps by strides of {stride} and draws other images",
                stacklevel=2,
            )
        clip, spacing = self.clips(), self.spacing(num_steps, schedule)
        return Sampling(sampler=DDIM(spacing=spacing), clip=clip, keep_eps=clip)

    def grid(self, num_steps: int, schedule: Schedule) -> Grid:
        """Returns the time grid of a sampling loop with this number of steps."""
        times = self._of_each_step(num_steps)
        if self.set_alpha_to_one:
            return Grid(tuple(times), True)
        if times[-1] == 0 and self.clips():
            raise InputError(
                "set_alpha_to_one must be true with clip_sample if the last time is 0, "
                "got false: a clipping step from time 0 to itself is not supported"
            )
        return Grid((*(t for t in times if t), 0), False)


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

    def grid(self, num_steps: int, schedule: Schedule) -> Grid:
        """Returns the time grid of a sampling loop with this number of steps."""
        times = self._before_the_last(num_steps, self.end(schedule))
        if self.final_sigmas_type == "zero":
            return Grid(tuple(times), True)
        return Grid((*(t for t in times if t), 0), False)

    def end(self, schedule: Schedule) -> int:
        """Returns the number of times that the scheduler uses."""
        return self.num_train_timesteps


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
                "imported solver_order 3 with the whole third-order term; diffusers "
                "uses half of the term and draws other images",
                stacklevel=2,
            )
        sampler = DPMSolver(
            spacing=self.spacing(num_steps, schedule),
            order=self.solver_order,
            eta=float(self.algorithm_type == "sde-dpmsolver++"),
            variant=self.solver_type,
            lower_order_final=few or euler,
        )
        return Sampling(sampler=sampler, clip=self.clips())

    def end(self, schedule: Schedule) -> int:
        """Returns the number of times that the scheduler uses."""
        if self.lambda_min_clipped is None:
            return self.num_train_timesteps
        alphas_bar = np.asarray(schedule.alphas_bar, np.float64)
        lambdas = np.log(alphas_bar / (1 - alphas_bar)) / 2
        return int((lambdas >= self.lambda_min_clipped).sum())


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
        sampler = UniPC(
            spacing=self.spacing(num_steps, schedule),
            order=self.solver_order,
            variant=self.solver_type,
            lower_order_final=self.lower_order_final,
        )
        return Sampling(sampler=sampler, clip=self.clips())


Scheduler: TypeAlias = (
    DDPMScheduler
    | DDIMScheduler
    | DPMSolverMultistepScheduler
    | UniPCMultistepScheduler
)
_CLASSES: tuple[type[Common], ...] = Scheduler.__args__
DEFAULT_STEPS: dict[type[Common], int] = {
    DDIMScheduler: 50, DPMSolverMultistepScheduler: 20, UniPCMultistepScheduler: 20
}  # fmt: skip
"""Default number of steps; all times for DDPM."""


def _clips(clip: bool, limit: float) -> bool:
    if clip and limit != 1:
        raise InputError(f"clip_sample_range must be 1, got {limit:g}")
    return clip


def read_scheduler(record: Mapping[str, Any], where: str) -> Common:
    """Returns the scheduler of a scheduler_config.json, read from the file `where`.

    Raises:
        InputError: a field is unknown, or has an unsupported value.
    """
    names = {cls.__name__: cls for cls in _CLASSES}
    name = record.get("_class_name")
    if not isinstance(name, str) or name not in names:
        raise InputError(
            f"{where}: _class_name must be one of {', '.join(names)}, got {shown(name)}"
        )
    cls = names[name]
    own = {field.name for field in fields(cls)}
    # A scheduler made from the configuration of another keeps the other's fields.
    others = {field.name for other in _CLASSES for field in fields(other)} - own
    data = {
        key: value
        for key, value in record.items()
        if not key.startswith("_") and key not in others and key not in _LEGACY
    }
    epsilon = data.pop("predict_epsilon", None)  # from versions before prediction_type
    if epsilon is not None:
        data.setdefault("prediction_type", "epsilon" if epsilon else "sample")
    if data.get("lambda_min_clipped") == -np.inf:
        data["lambda_min_clipped"] = None
    return from_dict(cls, data, f"{where} has unsupported entries")
