"""Progressive distillation: one step of the student is two steps of its teacher.

A teacher draws in 2 N steps of DDIM. From x_t at a level of the student's grid, two of
them lead over x_m to x_s. The student's one step ends there too (Salimans & Ho 2022,
appendix G):

    (1)  x_s = alpha_s x_0' + sigma_s eps',   x_t = alpha_t x_0' + sigma_t eps'
    (2)  x_0' = (x_s - q x_t) / (alpha_s - q alpha_t),   q = sigma_s / sigma_t
         eps' = (x_t - alpha_t x_0') / sigma_t

The network's target is that of x_0' and eps'. A chain of runs, each the teacher of the
next, halves the number of steps.
"""

from dataclasses import dataclass, field
from typing import Annotated

import jax
import jax.numpy as jnp
from annotated_types import Ge

from jaxdiff.denoisers.predictions import Prediction
from jaxdiff.losses.base import Distillation, weighted_error
from jaxdiff.losses.consistency import noisy
from jaxdiff.losses.noised import Apply, Noised
from jaxdiff.losses.time_sampling import TimesOptions, UniformTimes
from jaxdiff.losses.weightings import Uniform, WeightingOptions
from jaxdiff.samplers.ddim import euler_step
from jaxdiff.samplers.spacing import Trailing
from jaxdiff.typing import AnySchedule, Array, Level


@dataclass(frozen=True, kw_only=True)
class Progressive(Distillation):
    """Progressive distillation (Salimans & Ho 2022), equations (1) and (2)."""

    steps: Annotated[int, Ge(1)] = 4
    """Number N of the student's steps, on the time grid trailing. The teacher, the run
    of `init`, takes twice as many."""
    weighting: WeightingOptions = field(default_factory=Uniform)
    """Weight of the loss of each noise level."""
    times: TimesOptions = field(default_factory=UniformTimes)
    """Distribution of the student's levels."""

    @property
    def has_teacher(self) -> bool:
        """True: training evaluates the model of `init`."""
        return True

    def losses(
        self, apply: Apply, noised: Noised, prediction: Prediction,
        schedule: AnySchedule,
    ) -> dict[str, Array]:  # fmt: skip
        """Returns the "loss" of each example, [batch].

        The fraction u of an example chooses one of the student's steps, 0 the last.
        """
        assert noised.u is not None, "loss_fn gives it"
        assert noised.teacher is not None, "loss_fn has checked it"
        grid = Trailing(num_steps=2 * self.steps).levels(schedule)
        last = jnp.minimum(jnp.floor(noised.u * self.steps), self.steps - 1)
        place = 2 * (self.steps - 1 - last.astype(jnp.int32))
        level, middle, end = (
            Level(*(values[place + i] for values in grid)) for i in range(3)
        )
        x_t = noisy(noised, level)
        x_m = euler_step(noised.teacher(x_t, level), middle)
        x_s = euler_step(noised.teacher(x_m, middle), end)
        x_0, eps = jax.lax.stop_gradient(one_step(x_t, x_s, level, end))
        output = apply(x_t, level, noised.condition)
        target = noised._replace(x_0=x_0, eps=eps, x_t=x_t, level=level)
        return {"loss": weighted_error(self.weighting, output, target, prediction)}


def one_step(
    x_t: Array, x_s: Array, level: Level, next_level: Level
) -> tuple[Array, Array]:
    """Returns x_0 and eps with which one step of DDIM leads from x_t to x_s.

    This is equation (2).
    """
    (alpha_t, sigma_t), (alpha_s, sigma_s) = level.scales(x_t), next_level.scales(x_t)
    ratio = sigma_s / sigma_t
    x_0 = (x_s - ratio * x_t) / (alpha_s - ratio * alpha_t)
    return x_0, (x_t - alpha_t * x_0) / sigma_t
