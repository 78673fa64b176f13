"""Scheduler of unCLIP in diffusers: DDPM's reverse process on a cosine schedule."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from jaxdiff.denoisers.predictions import Prediction
from jaxdiff.errors import InputError
from jaxdiff.pretrained.scheduler_fields import PREDICTIONS, Clipped
from jaxdiff.samplers import DDPM, DiffusersGrid
from jaxdiff.samplers.ancestral import FixedSmall, LearnedRange
from jaxdiff.schedules import ScheduleOptions
from jaxdiff.schedules.discrete import Cosine
from jaxdiff.training.experiment import Sampling


@dataclass(frozen=True, kw_only=True)
class UnCLIPScheduler(Clipped):
    """Ancestral sampler at equally spaced times, the last of which is 0."""

    STEPS: ClassVar[int | None] = 25

    variance_type: Literal["fixed_small_log", "learned_range"] = "fixed_small_log"
    prediction_type: Literal["epsilon", "sample"] = "epsilon"
    beta_schedule: Literal["squaredcos_cap_v2"] = "squaredcos_cap_v2"

    def schedule(self) -> ScheduleOptions:
        """Returns the noise schedule."""
        return Cosine(num_steps=self.num_train_timesteps)

    def prediction(self, learn_variance: bool) -> Prediction:
        """Returns the network's prediction."""
        made: Prediction = PREDICTIONS[self.prediction_type](
            learn_variance=learn_variance
        )
        return made

    def grid(self, num_steps: int, schedule: Any) -> DiffusersGrid:
        """Returns the time grid of a sampling loop with this number of steps."""
        if num_steps < 2:
            raise InputError(
                f"num_steps must be at least 2 for an UnCLIPScheduler, got {num_steps}"
            )
        return DiffusersGrid(
            num_steps=num_steps, timestep_spacing="linspace",
            data_alpha=_rounded(self.num_train_timesteps),
        )  # fmt: skip

    def sampling(self, schedule: Any, num_steps: int) -> Sampling:
        """Returns the sampling of diffusers' pipeline with this number of steps."""
        learned = self.variance_type == "learned_range"
        grid = self.grid(num_steps, schedule)
        grid.levels(schedule)
        variance = LearnedRange() if learned else FixedSmall()
        return self.sampled(DDPM(spacing=grid, variance=variance))


def _rounded(num_steps: int) -> float:
    """Returns beta_0 / (1 - alphas_bar_0) in float32, instead of 1.

    diffusers multiplies the images of the last step by it: by 0.9995 for 1000 times.
    """
    beta = np.float32(1 - _cosine(1 / num_steps) / _cosine(0.0))
    one = np.float32(1)
    return float(beta / (one - (one - beta)))


def _cosine(share: float) -> float:
    """Returns alphas_bar of the cosine schedule without its factor."""
    return math.cos((share + 0.008) / 1.008 * math.pi / 2) ** 2


def unclip_scheduler_of(
    options: ScheduleOptions, prediction: Prediction, sampling: Sampling
) -> tuple[UnCLIPScheduler, int]:
    """Returns diffusers' scheduler of a stage, and the number of steps to call it with.

    Raises:
        InputError: the schedule, the prediction or the sampling is another.
    """
    names = {kind: name for name, kind in PREDICTIONS.items() if name != "v_prediction"}
    sampler: Any = sampling.sampler
    count = getattr(sampler.spacing, "num_steps", 0)
    if type(prediction) in names and isinstance(options, Cosine) and count > 1:
        learned = getattr(sampler, "variance", None) == LearnedRange()
        found = UnCLIPScheduler(
            num_train_timesteps=options.num_steps,
            variance_type="learned_range" if learned else "fixed_small_log",
            prediction_type=names[type(prediction)],  # type: ignore[arg-type]
            clip_sample=sampling.clip,
            clip_sample_range=sampling.clip_range or 1.0,
        )
        schedule = options.build()
        theirs = found.sampling(schedule, count)
        plain = sampling.clip_quantile is None
        if plain and found.schedule() == options and theirs.sampler == sampler:
            return found, count
    raise InputError(
        "a stage must be sampled as in an UnCLIPScheduler for diffusers, with the "
        "cosine schedule, DDPM's sampler, and at least 2 steps, got "
        f"{type(options).__name__}, {type(sampler).__name__} and {count} steps"
    )
