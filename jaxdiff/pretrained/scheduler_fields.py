"""Fields that the schedulers of diffusers share.

A scheduler of diffusers combines a schedule, a prediction, a spacing and a sampler.
Its file does not contain the number of steps, which is an argument of each call.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np

from jaxdiff.denoisers.predictions import X0, Eps, Prediction, V
from jaxdiff.errors import InputError
from jaxdiff.samplers import DiffusersGrid, Sampler, Spacing
from jaxdiff.schedules import ScheduleOptions
from jaxdiff.schedules.discrete import (
    Betas,
    Cosine,
    Linear,
    Quadratic,
    ZeroTerminalSNR,
)
from jaxdiff.training.experiment import Sampling

PREDICTIONS: dict[str, Any] = {"epsilon": Eps, "sample": X0, "v_prediction": V}
LEAST_ALPHA = 2.0**-12
"""Signal scale of the last time in diffusers' schedulers of noise levels, with
rescale_betas_zero_snr."""
TimestepSpacing: TypeAlias = Literal["linspace", "leading", "trailing"]


@dataclass(frozen=True, kw_only=True)
class Common:
    """Fields of every scheduler; their types list the supported values."""

    STEPS: ClassVar[int | None] = None
    """Number of steps of a call without one; None for all times."""

    num_train_timesteps: int = 1000

    def schedule(self) -> ScheduleOptions:
        """Returns the noise schedule."""
        raise NotImplementedError

    def prediction(self, learn_variance: bool) -> Prediction:
        """Returns the network's prediction."""
        raise NotImplementedError

    def grid(self, num_steps: int, schedule: Any) -> Spacing:
        """Returns the time grid of a sampling loop with this number of steps."""
        raise NotImplementedError

    def sampling(self, schedule: Any, num_steps: int) -> Sampling:
        """Returns the sampling of diffusers' pipeline with this number of steps.

        Raises:
            InputError: the combination of fields is not supported.

        Warns:
            UserWarning: diffusers draws other images, because it departs from the
                method.
        """
        raise NotImplementedError

    def clipping(self) -> dict[str, Any]:
        """Returns the options of `Sampling` that limit the estimates."""
        return {"clip": False}

    def sampled(self, sampler: Sampler, **options: Any) -> Sampling:
        """Returns the sampling of a sampler, with this scheduler's clipping."""
        return Sampling(sampler=sampler, **self.clipping(), **options)  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class Discrete(Common):
    """Fields of the schedulers that have betas."""

    beta_start: float = 1e-4
    beta_end: float = 0.02
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "linear"
    trained_betas: tuple[float, ...] | None = None
    prediction_type: Literal["epsilon", "sample", "v_prediction"] = "epsilon"
    timestep_spacing: TimestepSpacing = "linspace"
    steps_offset: int = 0

    def schedule(self) -> ScheduleOptions:
        """Returns the noise schedule.

        Raises:
            InputError: the number of betas is not num_train_timesteps.
        """
        total = self.num_train_timesteps
        base: Linear | Quadratic | Cosine | Betas
        if self.trained_betas is not None:
            if len(self.trained_betas) != total:
                raise InputError(
                    f"trained_betas must have num_train_timesteps = {total} entries, "
                    f"got {len(self.trained_betas)}"
                )
            base = Betas(betas=self.trained_betas)
        elif self.beta_schedule == "squaredcos_cap_v2":
            base = Cosine(num_steps=total)
        else:
            cls = Linear if self.beta_schedule == "linear" else Quadratic
            ends = {"beta_start": self.beta_start, "beta_end": self.beta_end}
            base = cls(num_steps=total, **ends)
        return ZeroTerminalSNR(base=base) if self._rescales else base

    def prediction(self, learn_variance: bool) -> Prediction:
        """Returns the network's prediction."""
        made: Prediction = PREDICTIONS[self.prediction_type](
            learn_variance=learn_variance
        )
        return made

    def grid(self, num_steps: int, schedule: Any) -> DiffusersGrid:
        """Returns the time grid of a sampling loop with this number of steps."""
        return DiffusersGrid(
            num_steps=num_steps,
            timestep_spacing=self.timestep_spacing,
            steps_offset=self.steps_offset * (self.timestep_spacing == "leading"),
        )

    def times(self, num_steps: int, schedule: Any) -> list[float]:
        """Returns the times at which the network is evaluated, noisiest first.

        Warns:
            UserWarning: diffusers' rounding gives it one more time, -1.
        """
        grid = self.grid(num_steps, schedule)
        levels = grid.levels(schedule)
        times = np.asarray(levels.t)[:-1].tolist()
        if self.timestep_spacing == "trailing" and grid.sigmas == "of-times":
            stride = self.num_train_timesteps / num_steps
            theirs = np.arange(times[0] + 1, 0, -stride).round().astype(int) - 1
            if theirs[-1] < 0:
                warnings.warn(
                    f"left out the step from time -1 that diffusers adds to "
                    f"{num_steps} steps with timestep_spacing trailing; diffusers "
                    "draws other images",
                    stacklevel=2,
                )
        return times

    def warn_of_strides(self, times: Sequence[float], num_steps: int) -> None:
        """Warns if diffusers steps by strides, and they are not those of the times."""
        stride = self.num_train_timesteps // num_steps
        if times[-1] >= stride or any(a - b != stride for a, b in pairwise(times)):
            warnings.warn(
                f"kept the steps from each time to the next, with {num_steps} steps "
                f"and timestep_spacing {self.timestep_spacing}; diffusers steps by "
                f"strides of {stride} and draws other images",
                stacklevel=2,
            )

    @property
    def _rescales(self) -> bool:
        return bool(getattr(self, "rescale_betas_zero_snr", False))


@dataclass(frozen=True, kw_only=True)
class Rescaled(Discrete):
    """Field of the schedulers that can end in pure noise."""

    rescale_betas_zero_snr: bool = False


@dataclass(frozen=True, kw_only=True)
class Thresholded(Common):
    """Fields of the schedulers that can threshold."""

    thresholding: bool = False
    dynamic_thresholding_ratio: float = 0.995
    sample_max_value: float = 1.0

    def clipping(self) -> dict[str, Any]:
        """Returns the options of `Sampling` that limit the estimates."""
        if not self.thresholding:
            return super().clipping()
        if self.sample_max_value == 1:
            return {"clip": True}
        if not self.sample_max_value > 1:
            raise InputError(
                "sample_max_value must be at least 1 with thresholding, got "
                f"{self.sample_max_value:g}"
            )
        return {
            "clip": True,
            "clip_range": self.sample_max_value,
            "clip_quantile": self.dynamic_thresholding_ratio,
        }


@dataclass(frozen=True, kw_only=True)
class Clipped(Common):
    """Fields of the schedulers that can clip."""

    clip_sample: bool = True
    clip_sample_range: float = 1.0

    def clipping(self) -> dict[str, Any]:
        """Returns the options of `Sampling` that limit the estimates."""
        found = super().clipping()
        if found["clip"] or not self.clip_sample:
            return found
        limit = self.clip_sample_range
        return {"clip": True, "clip_range": limit if limit != 1 else None}


@dataclass(frozen=True, kw_only=True)
class Spaced(Discrete):
    """Fields of the schedulers with rules for the noise levels."""

    use_karras_sigmas: bool = False
    use_exponential_sigmas: bool = False
    use_beta_sigmas: bool = False

    def rule(self) -> Literal["of-times", "karras", "exponential", "beta"]:
        """Returns the rule for the noise levels.

        Raises:
            InputError: there are two rules.
        """
        karras, exponential = self.use_karras_sigmas, self.use_exponential_sigmas
        chosen = karras, exponential, self.use_beta_sigmas
        if sum(chosen) > 1:
            raise InputError(
                "only one of use_karras_sigmas, use_exponential_sigmas and "
                f"use_beta_sigmas must be true, got {sum(chosen)}"
            )
        if chosen[0]:
            return "karras"
        return "exponential" if chosen[1] else "beta" if chosen[2] else "of-times"
