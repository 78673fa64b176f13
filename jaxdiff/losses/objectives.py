"""Objectives: the quantity that training minimises.

    (1)  simple   E[ w(t) || output - target ||^2 / D ]    (Ho et al. 2020, equation 14)
    (2)  bound    E[ T L_t ], the variational bound in bits per dimension, without its
                  constant L_T                             (Ho et al. 2020, equation 5)
    (3)  hybrid   simple + bound_weight * bound, where the bound moves the variance only
                  (Nichol & Dhariwal 2021, equation 16)

t is uniform by default; the field `times` chooses other distributions.
"""

from dataclasses import dataclass, field
from typing import Annotated, TypeAlias

import jax
import jax.numpy as jnp
from annotated_types import Gt

from jaxdiff.denoisers.predictions import Prediction
from jaxdiff.errors import InputError
from jaxdiff.losses.base import BaseObjective, weighted_error
from jaxdiff.losses.consistency import Consistency
from jaxdiff.losses.mean_flow import MeanFlow
from jaxdiff.losses.noised import Apply, Noised
from jaxdiff.losses.progressive import Progressive
from jaxdiff.losses.time_sampling import TimesOptions, UniformTimes
from jaxdiff.losses.variational import bound_term
from jaxdiff.losses.weightings import Uniform, WeightingOptions
from jaxdiff.samplers.ancestral import LearnedRange, Variance
from jaxdiff.schedules.forward import variance_floor
from jaxdiff.typing import AnySchedule, Array, Estimate, Timesteps


@dataclass(frozen=True, kw_only=True)
class Simple(BaseObjective):
    """Weighted mean squared error (Ho et al. 2020, equation 14)."""

    weighting: WeightingOptions = field(default_factory=Uniform)
    """Weight of the loss of each noise level."""
    times: TimesOptions = field(default_factory=UniformTimes)
    """Distribution of the times that training draws."""

    def losses(
        self, apply: Apply, noised: Noised, prediction: Prediction,
        schedule: AnySchedule,
    ) -> dict[str, Array]:  # fmt: skip
        """Returns the "loss" of each example, [batch]."""
        output = apply(noised.x_t, noised.level, noised.condition)
        return {"loss": weighted_error(self.weighting, output, noised, prediction)}


class OnTheChain(BaseObjective):
    """Base of the objectives with a bound, which scores the steps of sampling."""

    def time(self, schedule: AnySchedule, u: Array) -> Timesteps:
        """Returns the sampling times at fractions u in [0, 1) of the range, [batch].

        A continuous schedule has other times too, but no step to score there.
        """
        step = jnp.floor(u * schedule.num_steps).astype(jnp.int32)
        return schedule.times[jnp.minimum(step, schedule.num_steps - 1)]


@dataclass(frozen=True, kw_only=True)
class Bound(OnTheChain):
    """Variational bound in bits per dimension (Ho et al. 2020, equation 5).

    The gradients are noisier than the simple loss's, because the terms differ much in
    size. `LossHistory` times reduce this noise.
    """

    variance: Variance = field(default_factory=LearnedRange)
    """Variance of the reverse step."""
    times: TimesOptions = field(default_factory=UniformTimes)
    """Distribution of the times that training draws."""

    def losses(
        self, apply: Apply, noised: Noised, prediction: Prediction,
        schedule: AnySchedule,
    ) -> dict[str, Array]:  # fmt: skip
        """Returns the "loss" of each example, [batch]."""
        output = apply(noised.x_t, noised.level, noised.condition)
        estimate = prediction.estimate(output, noised.x_t, noised.level)
        return {"loss": _bound(estimate, noised, schedule, self.variance)}

    def check(self, prediction: Prediction) -> None:
        """Checks that the prediction and the variance go together.

        Raises:
            InputError: one has a learned variance and the other has not.
        """
        learned = isinstance(self.variance, LearnedRange)
        if learned and not prediction.learn_variance:
            raise InputError(
                "prediction.learn_variance must be on for the bound with a learned "
                "variance. Turn it on, or choose a fixed variance."
            )
        if prediction.learn_variance and not learned:
            raise InputError(
                "prediction.learn_variance must be off for the bound with a fixed "
                "variance. Turn it off, or choose the variance learned-range."
            )


@dataclass(frozen=True, kw_only=True)
class Hybrid(OnTheChain):
    """Simple loss plus a small bound for the variance (Nichol & Dhariwal 2021)."""

    weighting: WeightingOptions = field(default_factory=Uniform)
    """Weight of the simple loss of each noise level."""
    bound_weight: Annotated[float, Gt(0)] = 1e-3
    """Weight lambda of the bound in bits per dimension, above 0."""
    times: TimesOptions = field(default_factory=UniformTimes)
    """Distribution of the times that training draws."""

    def losses(
        self, apply: Apply, noised: Noised, prediction: Prediction,
        schedule: AnySchedule,
    ) -> dict[str, Array]:  # fmt: skip
        """Returns "loss", "simple" and "bound" (bits per dimension), [batch] each."""
        output = apply(noised.x_t, noised.level, noised.condition)
        simple = weighted_error(self.weighting, output, noised, prediction)
        estimate = prediction.estimate(output, noised.x_t, noised.level)
        fixed_mean = estimate._replace(
            x_0=jax.lax.stop_gradient(estimate.x_0),
            eps=jax.lax.stop_gradient(estimate.eps),
        )
        bound = _bound(fixed_mean, noised, schedule, LearnedRange())
        loss = simple + self.bound_weight * bound
        return {"loss": loss, "simple": simple, "bound": bound}

    def check(self, prediction: Prediction) -> None:
        """Checks that the prediction has a learned variance.

        Raises:
            InputError: the prediction has none.
        """
        if not prediction.learn_variance:
            raise InputError(
                "prediction.learn_variance must be on for the objective hybrid. Turn "
                "it on, or choose the objective simple."
            )


def _bound(
    estimate: Estimate, noised: Noised, schedule: AnySchedule, variance: Variance
) -> Array:
    """Returns T L_t of each example [batch]: the bound, if t is uniform."""
    return schedule.num_steps * bound_term(
        estimate, noised.x_0, noised.x_t, noised.level, noised.next_level, variance,
        variance_floor(schedule),
    )  # fmt: skip


Objective: TypeAlias = Simple | Bound | Hybrid | Consistency | MeanFlow | Progressive
