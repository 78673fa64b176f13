"""Schedulers of diffusers that step from one whole time to another."""

import warnings
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from jaxdiff.errors import InputError
from jaxdiff.pretrained.scheduler_fields import (
    Clipped,
    Discrete,
    Rescaled,
    Thresholded,
    TimestepSpacing,
)
from jaxdiff.samplers import DDIM, DDPM, LCM, PNDM, DiffusersGrid, LCMTimes
from jaxdiff.samplers.ancestral import FixedLarge, FixedSmall, LearnedRange, Variance
from jaxdiff.training.experiment import Sampling


@dataclass(frozen=True, kw_only=True)
class OneStep(Clipped, Thresholded, Rescaled):
    """Fields of the schedulers that remember no earlier step."""


@dataclass(frozen=True, kw_only=True)
class DDPMScheduler(OneStep):
    """Ancestral sampler."""

    timestep_spacing: TimestepSpacing = "leading"
    variance_type: Literal[
        "fixed_small", "fixed_small_log", "fixed_large", "learned_range"
    ] = "fixed_small"

    def sampling(self, schedule: Any, num_steps: int) -> Sampling:
        """Returns the sampling of diffusers' pipeline with this number of steps."""
        variance: Variance = FixedSmall()
        if self.variance_type == "fixed_large":
            variance = FixedLarge()
        elif self.variance_type == "learned_range":
            variance = LearnedRange()
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
        grid = self.grid(num_steps, schedule)
        return self.sampled(DDPM(spacing=grid, variance=variance))


@dataclass(frozen=True, kw_only=True)
class DDIMScheduler(OneStep):
    """DDIM; eta is an argument of each call in diffusers, 0 by default."""

    STEPS: ClassVar[int | None] = 50

    timestep_spacing: TimestepSpacing = "leading"
    set_alpha_to_one: bool = True

    def sampling(self, schedule: Any, num_steps: int) -> Sampling:
        """Returns the sampling of diffusers' pipeline with this number of steps."""
        clip, grid = self.clipping()["clip"], self.grid(num_steps, schedule)
        times = replace(self, set_alpha_to_one=True).times(num_steps, schedule)
        self.warn_of_strides(times, num_steps)
        if clip and not grid.to_data and times[-1] == 0:
            raise InputError(
                "set_alpha_to_one must be true with clip_sample if the last time is 0, "
                "got false: a clipping step from time 0 to itself is not supported"
            )
        return self.sampled(DDIM(spacing=grid), keep_eps=clip)

    def grid(self, num_steps: int, schedule: Any) -> DiffusersGrid:
        """Returns the time grid of a sampling loop with this number of steps."""
        grid = super().grid(num_steps, schedule)
        return replace(grid, to_data=self.set_alpha_to_one)


@dataclass(frozen=True, kw_only=True)
class PNDMScheduler(Discrete):
    """PNDM: PLMS, after Runge-Kutta steps unless they are skipped."""

    STEPS: ClassVar[int | None] = 50

    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon"
    timestep_spacing: TimestepSpacing = "leading"
    set_alpha_to_one: bool = False
    skip_prk_steps: bool = False

    def sampling(self, schedule: Any, num_steps: int) -> Sampling:
        """Returns the sampling of diffusers' pipeline with this number of steps."""
        stride = self.num_train_timesteps // num_steps
        if not self.skip_prk_steps and num_steps < 4:
            raise InputError(
                "num_steps must be at least 4 if skip_prk_steps is false, got "
                f"{num_steps}"
            )
        times = replace(self, set_alpha_to_one=True).times(num_steps, schedule)
        self.warn_of_strides(times, num_steps)
        if not self.skip_prk_steps and stride % 2:
            warnings.warn(
                f"kept half of the strides of {stride} with skip_prk_steps false and "
                f"{num_steps} steps; diffusers mixes two halves and draws other images",
                stacklevel=2,
            )
        sampler = PNDM(
            spacing=self.grid(num_steps, schedule),
            quantity="v" if self.prediction_type == "v_prediction" else "eps",
            start="improved-euler" if self.skip_prk_steps else "runge-kutta",
        )
        return self.sampled(sampler)

    def grid(self, num_steps: int, schedule: Any) -> DiffusersGrid:
        """Returns the time grid of a sampling loop with this number of steps."""
        grid = super().grid(num_steps, schedule)
        return replace(grid, to_data=self.set_alpha_to_one)


@dataclass(frozen=True, kw_only=True)
class LCMScheduler(OneStep):
    """Multistep sampling of latent consistency models."""

    STEPS: ClassVar[int | None] = 4

    beta_start: float = 0.00085
    beta_end: float = 0.012
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = (
        "scaled_linear"
    )
    clip_sample: bool = False
    timestep_spacing: TimestepSpacing = "leading"  # ignored, as in diffusers
    set_alpha_to_one: bool = True  # ignored: the last step gives the estimate
    original_inference_steps: int = 50
    timestep_scaling: float = 10.0

    def sampling(self, schedule: Any, num_steps: int) -> Sampling:
        """Returns the sampling of diffusers' pipeline with this number of steps."""
        grid = self.grid(num_steps, schedule)
        grid.levels(schedule)
        return self.sampled(LCM(spacing=grid, time_scale=self.timestep_scaling))

    def grid(self, num_steps: int, schedule: Any) -> LCMTimes:  # type: ignore[override]
        """Returns the time grid of a sampling loop with this number of steps."""
        original = self.original_inference_steps
        return LCMTimes(num_steps=num_steps, original_steps=original)
