"""Schedulers of diffusers that follow k-diffusion: x_t is not scaled down.

Their x_t is x_t / alpha here. The time between two steps need not be whole.
"""

import warnings
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from jaxdiff.errors import InputError
from jaxdiff.pretrained.scheduler_fields import (
    LEAST_ALPHA,
    Clipped,
    Discrete,
    Rescaled,
    Spaced,
)
from jaxdiff.samplers import (
    DPM2,
    LMS,
    DiffusersGrid,
    DPM2Ancestral,
    DPMSolverSDE,
    Euler,
    EulerAncestral,
    Heun,
    Karras,
    Sampler,
    Spacing,
    UniformLogSNR,
)
from jaxdiff.schedules import VE, ScheduleOptions
from jaxdiff.training.experiment import Sampling


@dataclass(frozen=True, kw_only=True)
class Unscaled(Discrete):
    """Base of these schedulers; a member sets `SAMPLER`."""

    STEPS: ClassVar[int | None] = 50
    SAMPLER: ClassVar[type[Sampler]]

    def sampling(self, schedule: Any, num_steps: int) -> Sampling:
        """Returns the sampling of diffusers' pipeline with this number of steps."""
        self.times(num_steps, schedule)
        return self.sampled(self.SAMPLER(spacing=self.grid(num_steps, schedule)))

    def grid(self, num_steps: int, schedule: Any) -> DiffusersGrid:
        """Returns the time grid of a sampling loop with this number of steps."""
        return replace(
            super().grid(num_steps, schedule),
            whole_times=self.timestep_spacing != "linspace",
            least_alpha=LEAST_ALPHA if self._rescales else 0.0,
            noise_start=self.timestep_spacing != "leading",
        )


@dataclass(frozen=True, kw_only=True)
class UnscaledSpaced(Spaced, Unscaled):
    """Base of those with rules for the noise levels."""

    def grid(self, num_steps: int, schedule: Any) -> DiffusersGrid:
        """Returns the time grid of a sampling loop with this number of steps."""
        grid = super().grid(num_steps, schedule)
        return replace(grid, sigmas=self.rule(), sigma_range="visited")


@dataclass(frozen=True, kw_only=True)
class EulerDiscreteScheduler(UnscaledSpaced, Rescaled):
    """Euler's rule, without churn; or with EDM's times for stable video models."""

    SAMPLER: ClassVar[type[Sampler]] = Euler

    interpolation_type: Literal["linear"] = "linear"
    sigma_min: float | None = None
    sigma_max: float | None = None
    timestep_type: Literal["discrete", "continuous"] = "discrete"
    final_sigmas_type: Literal["zero", "sigma_min"] = "zero"

    @property
    def continuous(self) -> bool:
        """True if the network takes log sigma / 4 as its time."""
        return self.timestep_type == "continuous" and (
            self.prediction_type == "v_prediction"
        )

    def schedule(self) -> ScheduleOptions:
        """Returns the noise schedule."""
        if not self.continuous:
            return super().schedule()
        if self.sigma_min is None or self.sigma_max is None:
            raise InputError(
                "sigma_min and sigma_max must be set with timestep_type continuous, "
                f"got {self.sigma_min} and {self.sigma_max}"
            )
        return VE(sigma_min=self.sigma_min, sigma_max=self.sigma_max, time_scale=1.0)

    def sampling(self, schedule: Any, num_steps: int) -> Sampling:
        """Returns the sampling of diffusers' pipeline with this number of steps."""
        if not self.continuous:
            return super().sampling(schedule, num_steps)
        if self.rule() not in ("karras", "exponential"):
            raise InputError(
                "use_karras_sigmas or use_exponential_sigmas must be true with "
                "timestep_type continuous, got false"
            )
        if self.final_sigmas_type != "zero":
            raise InputError(
                "final_sigmas_type must be zero with timestep_type continuous, got "
                f"{self.final_sigmas_type}"
            )
        return self.sampled(Euler(spacing=self.grid(num_steps, schedule)))

    def grid(self, num_steps: int, schedule: Any) -> Spacing:  # type: ignore[override]
        """Returns the time grid of a sampling loop with this number of steps."""
        if self.continuous:
            karras = self.rule() == "karras"
            cls = Karras if karras else UniformLogSNR
            return cls(num_steps=num_steps)
        ruled = self.rule() != "of-times"
        return replace(
            super().grid(num_steps, schedule),
            to_data=self.final_sigmas_type == "zero",
            sigma_min=self.sigma_min if ruled else None,
            sigma_max=self.sigma_max if ruled else None,
        )


@dataclass(frozen=True, kw_only=True)
class EulerAncestralDiscreteScheduler(Unscaled, Rescaled):
    """Euler's rule with noise."""

    SAMPLER: ClassVar[type[Sampler]] = EulerAncestral

    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon"


@dataclass(frozen=True, kw_only=True)
class HeunDiscreteScheduler(Clipped, UnscaledSpaced):
    """Heun's rule, without churn."""

    SAMPLER: ClassVar[type[Sampler]] = Heun

    beta_start: float = 0.00085
    beta_end: float = 0.012
    clip_sample: bool = False


@dataclass(frozen=True, kw_only=True)
class LMSDiscreteScheduler(UnscaledSpaced):
    """Linear multistep method of order 4."""

    SAMPLER: ClassVar[type[Sampler]] = LMS


@dataclass(frozen=True, kw_only=True)
class KDPM2DiscreteScheduler(UnscaledSpaced):
    """DPM2."""

    SAMPLER: ClassVar[type[Sampler]] = DPM2

    beta_start: float = 0.00085
    beta_end: float = 0.012
    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon"

    def grid(self, num_steps: int, schedule: Any) -> DiffusersGrid:
        """Returns the time grid of a sampling loop with this number of steps."""
        grid = super().grid(num_steps, schedule)
        return replace(grid, rounding="nearest" if self.use_karras_sigmas else "none")


@dataclass(frozen=True, kw_only=True)
class KDPM2AncestralDiscreteScheduler(KDPM2DiscreteScheduler):
    """DPM2 with noise."""

    SAMPLER: ClassVar[type[Sampler]] = DPM2Ancestral


@dataclass(frozen=True, kw_only=True)
class DPMSolverSDEScheduler(UnscaledSpaced):
    """DPM-Solver++ SDE."""

    SAMPLER: ClassVar[type[Sampler]] = DPMSolverSDE

    beta_start: float = 0.00085
    beta_end: float = 0.012
    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon"
    noise_sampler_seed: int | None = None

    def sampling(self, schedule: Any, num_steps: int) -> Sampling:
        """Returns the sampling of diffusers' pipeline with this number of steps."""
        if self.noise_sampler_seed is not None:
            warnings.warn(
                "drew the noise from the seed of each call in place of "
                f"noise_sampler_seed {self.noise_sampler_seed}; diffusers draws other "
                "images",
                stacklevel=2,
            )
        return super().sampling(schedule, num_steps)
