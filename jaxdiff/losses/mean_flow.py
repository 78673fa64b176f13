"""MeanFlow: the average velocity between two times (Geng et al. 2025).

On the straight path z_t = (1 - t) x_0 + t eps the velocity is v = eps - x_0 on average.
The average velocity u(z_t, t, r) = (z_t - z_r) / (t - r) along the flow satisfies

    (1)  u = v - (t - r) du/dt,   du/dt = v dz_u + d_t u        (equations 6 and 8)

    (2)  L = E[ w || u(z_t, t, r) - stop(v - (t - r) du/dt) ||^2 ]          (equation 9)
         w = 1 / (|| . ||^2 + c)^p, without a gradient                     (equation 22)

du/dt is one Jacobian-vector product along (v, 1, 0). With r = t the target is v, and
(2) is the objective simple. Guidance changes v (equation 19):

    (3)  v' = omega v + kappa u_c + (1 - omega - kappa) u_any,   u_. = u(z_t, t, t | .)

A shortcut model replaces (1). A step is two half steps (Frans et al. 2024, equation 5):

    (4)  u = (u(z_t, t, m) + u(z_m, m, r)) / 2,   m = (t + r) / 2,
         z_m = z_t - (t - m) u(z_t, t, m)
"""

from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
from annotated_types import Ge, Gt, Interval, IsFinite

from jaxdiff import rng
from jaxdiff.denoisers.network import taken_by
from jaxdiff.denoisers.predictions import Prediction, Velocity
from jaxdiff.errors import InputError
from jaxdiff.losses.base import BaseObjective, check_guidable, mean_square
from jaxdiff.losses.consistency import noisy
from jaxdiff.losses.noised import Apply, Noised
from jaxdiff.losses.time_sampling import LogNormal, TimesOptions
from jaxdiff.samplers.flow_map import check_straight
from jaxdiff.typing import (
    AnySchedule,
    Array,
    Condition,
    Level,
    Network,
)


@dataclass(frozen=True, kw_only=True)
class MeanFlow(BaseObjective):
    """MeanFlow and shortcut models, equations (1) to (4)."""

    target: Literal["derivative", "halves"] = "derivative"
    """Target of a step: by the derivative along the path (MeanFlow), or by two half
    steps (shortcut models)."""
    instant_share: Annotated[float, Interval(ge=0, le=1)] = 0.75
    """Share of the examples whose step has length 0, as in flow matching."""
    omega: IsFinite[float] = 1.0
    """Weight of the velocity in the target; above 1 for guidance, with the scale
    omega / (1 - kappa)."""
    kappa: IsFinite[float] = 0.0
    """Weight of the network's own velocity in the target, with guidance."""
    power: Annotated[float, Ge(0)] = 1.0
    """Exponent p of the weight of an example; 0 for the weight 1."""
    floor: Annotated[float, Gt(0)] = 0.01
    """Number c that the weight adds to the squared error."""
    times: TimesOptions = field(
        default_factory=lambda: LogNormal(mean=-0.4, deviation=1.0)
    )
    """Distribution of both times."""

    def losses(
        self, apply: Apply, noised: Noised, prediction: Prediction,
        schedule: AnySchedule,
    ) -> dict[str, Array]:  # fmt: skip
        """Returns the "loss" of each example, and its squared "error", [batch]."""
        later, sooner = self._times(noised, schedule)
        level, end = (schedule.level(schedule.time(u)) for u in (later, sooner))
        z = noisy(noised, level)

        def u_of(condition: Condition, z: Array, t: Array, end: Array) -> Array:
            here = Level(t, level.alpha, level.sigma)
            return apply(z, here, condition._replace(end=end))

        u = partial(u_of, noised.condition)
        v = prediction.target(noised.x_0, noised.eps, level)
        if self.learns_guidance:
            rest = 1 - self.omega - self.kappa
            v = self.omega * v + rest * u_of(noised.free, z, level.t, level.t)
            if self.kappa:
                v = v + self.kappa * u(z, level.t, level.t)
            v = jax.lax.stop_gradient(v)
        way = level.sigma - end.sigma
        if self.target == "derivative":
            speed = level.t / level.sigma  # of the network's time
            along = v, speed, jnp.zeros_like(end.t)
            found, slope = jax.jvp(u, (z, level.t, end.t), along)
            target = v - _each(way, z) * slope
        else:
            found = u(z, level.t, end.t)
            middle = (level.t + end.t) / 2
            first = u(z, level.t, middle)
            second = u(z - _each(way / 2, z) * first, middle, end.t)
            target = jnp.where(_each(way, z) > 0, (first + second) / 2, v)
        mean = mean_square(found - jax.lax.stop_gradient(target))
        size = z[0].size
        if self.power == 0:
            return {"loss": mean, "error": mean}
        weight = (jax.lax.stop_gradient(size * mean) + self.floor) ** -self.power
        return {"loss": weight * mean, "error": mean}

    def _times(self, noised: Noised, schedule: AnySchedule) -> tuple[Array, Array]:
        """Returns the fractions of the range of t and r, r at most t, [batch] each."""
        assert noised.u is not None, "loss_fn gives it"
        assert noised.keys is not None, "loss_fn gives them"
        drawn = rng.uniform(rng.fold(noised.keys, 0))
        other, _ = self.times.draw(drawn, schedule, self.times.init())
        instant = rng.uniform(rng.fold(noised.keys, 1)) < self.instant_share
        later = jnp.where(instant, noised.u, jnp.maximum(noised.u, other))
        return later, jnp.where(instant, noised.u, jnp.minimum(noised.u, other))

    def check(self, prediction: Prediction) -> None:
        """Checks that the network predicts the velocity.

        Raises:
            InputError: it predicts another quantity, or has a learned variance.
        """
        if not isinstance(prediction, Velocity):
            raise InputError(
                "prediction must be velocity for the objective mean-flow, got "
                f"{type(prediction).__name__}. Start from a run with --schedule "
                "straight-path --prediction velocity."
            )
        super().check(prediction)

    def check_schedule(self, schedule: AnySchedule) -> None:
        """Raises `InputError` if the schedule is not the straight path."""
        check_straight(schedule, "objective mean-flow")

    def check_network(self, network: Network) -> None:
        """Checks that the network takes a second time, and no class for guidance.

        Raises:
            InputError: it does not.
        """
        if "end" not in taken_by(network):
            raise InputError(
                "network must take a second time for the objective mean-flow, got "
                f"{type(network).__name__} without. Set --network.second-time."
            )
        if self.learns_guidance:
            got = f"{self.omega:g} and {self.kappa:g}"
            check_guidable(network, "omega must be 1 and kappa 0", got)

    @property
    def learns_guidance(self) -> bool:
        """True if guidance changes the target."""
        return self.omega != 1 or self.kappa != 0


def _each(values: Array, x: Array) -> Array:
    """Returns numbers [batch] with trailing axes of size 1, to multiply x."""
    return values.reshape(values.shape + (1,) * (x.ndim - 1))
