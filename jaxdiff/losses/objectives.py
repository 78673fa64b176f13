"""Objectives: what training makes small.

    (1)  simple   E[ w(t) || output - target ||^2 / D ]    (Ho et al. 2020, equation 14)
    (2)  bound    E[ T L_t ], the variational bound in bits per dimension, without its
                  constant L_T                             (Ho et al. 2020, equation 5)
    (3)  hybrid   simple + bound_weight * bound, where the bound moves the variance only
                  (Nichol & Dhariwal 2021, equation 16)

t is uniform, or as `times` says.
"""

from dataclasses import dataclass, field
from typing import Annotated, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from annotated_types import Gt

from jaxdiff.checks import Checked
from jaxdiff.denoisers.predictions import Prediction
from jaxdiff.errors import InputError
from jaxdiff.losses.time_sampling import TimesOptions, UniformTimes
from jaxdiff.losses.variational import bound_term
from jaxdiff.losses.weightings import Uniform, WeightingOptions
from jaxdiff.samplers.ancestral import LearnedRange, Variance
from jaxdiff.schedules.forward import variance_floor
from jaxdiff.typing import AnySchedule, Array, Estimate, Level, Timesteps


class Noised(NamedTuple):
    """A batch with noise on it: x_t = alpha x_0 + sigma eps at `level`.

    Attributes:
        x_0: the data, float [batch, ...].
        eps: the noise, of x_0's shape.
        x_t: the noisy data, of x_0's shape.
        level: [batch].
        next_level: one step nearer the data, [batch].
    """

    x_0: Array
    eps: Array
    x_t: Array
    level: Level
    next_level: Level


@dataclass(frozen=True, kw_only=True)
class Simple:
    """The mean squared error, weighted (Ho et al. 2020, equation 14)."""

    weighting: WeightingOptions = field(default_factory=Uniform)
    """How much each noise level counts."""
    times: TimesOptions = field(default_factory=UniformTimes)
    """Which times are drawn."""

    def time(self, schedule: AnySchedule, u: Array) -> Timesteps:
        """The times at fractions u in [0, 1) of the schedule's range, [batch]."""
        return schedule.time(u)

    def losses(
        self,
        prediction: Prediction,
        output: Array,
        noised: Noised,
        schedule: AnySchedule,
    ) -> dict[str, Array]:
        """Each example's "loss", and what it is made of, [batch] each."""
        predicted, _ = prediction.split(output, noised.x_t)
        target = prediction.target(noised.x_0, noised.eps, noised.level)
        error = (predicted - target) ** 2
        error = error.mean(axis=tuple(range(1, error.ndim)))
        return {"loss": self.weighting.output_weight(prediction, noised.level) * error}

    def check(self, prediction: Prediction) -> None:
        """Refuses a prediction that this objective does not train."""
        if prediction.learn_variance:
            raise InputError(
                "the simple objective does not train a variance: choose the objective "
                "hybrid (or bound), or leave prediction.learn_variance"
            )


class OnTheChain(Checked):
    """What the objectives with a bound share: the bound is that of the chain."""

    def time(self, schedule: AnySchedule, u: Array) -> Timesteps:
        """The chain's times at fractions u in [0, 1) of the schedule's range, [batch].

        A continuous schedule has others too, at which there is no step to score.
        """
        step = jnp.floor(u * schedule.num_steps).astype(jnp.int32)
        return schedule.times[jnp.minimum(step, schedule.num_steps - 1)]


@dataclass(frozen=True, kw_only=True)
class Bound(OnTheChain):
    """The variational bound in bits per dimension (Ho et al. 2020, equation 5).

    Noisier to train on than the simple loss: its terms differ much in size, for which
    `LossHistory` times are made.
    """

    variance: Variance = field(default_factory=LearnedRange)
    """The variance of the reverse step."""
    times: TimesOptions = field(default_factory=UniformTimes)
    """Which times are drawn."""

    def losses(
        self,
        prediction: Prediction,
        output: Array,
        noised: Noised,
        schedule: AnySchedule,
    ) -> dict[str, Array]:
        """Each example's "loss", [batch]."""
        estimate = prediction.estimate(output, noised.x_t, noised.level)
        return {"loss": _bound(estimate, noised, schedule, self.variance)}

    def check(self, prediction: Prediction) -> None:
        """Refuses a prediction that does not fit the variance."""
        learned = isinstance(self.variance, LearnedRange)
        if learned and not prediction.learn_variance:
            raise InputError(
                "the bound with a learned variance needs prediction.learn_variance: "
                "set it, or choose a fixed variance"
            )
        if prediction.learn_variance and not learned:
            raise InputError(
                "the bound with a fixed variance does not train one: leave "
                "prediction.learn_variance, or choose the variance learned-range"
            )


@dataclass(frozen=True, kw_only=True)
class Hybrid(OnTheChain):
    """Simple, and a little of the bound for the variance (Nichol & Dhariwal 2021)."""

    weighting: WeightingOptions = field(default_factory=Uniform)
    """How much the simple loss of each noise level counts."""
    bound_weight: Annotated[float, Gt(0)] = 1e-3
    """lambda, the weight of the bound in bits per dimension."""
    times: TimesOptions = field(default_factory=UniformTimes)
    """Which times are drawn."""

    def losses(
        self,
        prediction: Prediction,
        output: Array,
        noised: Noised,
        schedule: AnySchedule,
    ) -> dict[str, Array]:
        """Each example's "loss", "simple" and "bound" (bits per dimension), [batch]."""
        simple = Simple(weighting=self.weighting).losses(
            prediction, output, noised, schedule
        )["loss"]
        estimate = prediction.estimate(output, noised.x_t, noised.level)
        fixed_mean = estimate._replace(
            x_0=jax.lax.stop_gradient(estimate.x_0),
            eps=jax.lax.stop_gradient(estimate.eps),
        )
        bound = _bound(fixed_mean, noised, schedule, LearnedRange())
        loss = simple + self.bound_weight * bound
        return {"loss": loss, "simple": simple, "bound": bound}

    def check(self, prediction: Prediction) -> None:
        """Refuses a prediction without a variance to train."""
        if not prediction.learn_variance:
            raise InputError(
                "the hybrid objective needs a learned variance: set "
                "prediction.learn_variance, or choose the objective simple"
            )


def _bound(
    estimate: Estimate, noised: Noised, schedule: AnySchedule, variance: Variance
) -> Array:
    """T L_t of each example, [batch]: the bound, where t is uniform."""
    return schedule.num_steps * bound_term(
        estimate, noised.x_0, noised.x_t, noised.level, noised.next_level, variance,
        variance_floor(schedule),
    )  # fmt: skip


Objective: TypeAlias = Simple | Bound | Hybrid
