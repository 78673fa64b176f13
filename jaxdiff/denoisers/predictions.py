"""Predictions: the meaning of the network's output, as output <-> `Estimate`.

With x_t = alpha x_0 + sigma eps and r^2 = alpha^2 + sigma^2, a network may predict

    (1)  the noise      eps                                     (Ho et al. 2020)
    (2)  the image      x_0
    (3)  v              (alpha eps - sigma x_0) / r             (Salimans & Ho 2022,
                                                                appendix D, where r = 1)
    (4)  the velocity   eps - x_0, the straight path's d x_t / dt     (Liu et al. 2023)
    (5)  EDM's F        (sigma x_0 - alpha d^2 eps) / (d sqrt(sigma^2 + alpha^2 d^2)),
                        d the data's standard deviation         (Karras et al. 2022,
                                                                equations 7 and 8)

Each target is a mixture of x_0 and eps other than x_t. Together with x_t it therefore
determines both, for any schedule: (5) is EDM's target for x_t / alpha = x_0 + (sigma /
alpha) eps. An error of 1 in the output is an error of `x0_error_scale` in x_0.
"""

from dataclasses import dataclass
from typing import Annotated, TypeAlias

import jax.numpy as jnp
from annotated_types import Gt

from jaxdiff.checks import Checked
from jaxdiff.errors import InputError
from jaxdiff.typing import AnySchedule, Array, Estimate, Level


@dataclass(frozen=True, kw_only=True)
class Parameterization(Checked):
    """Base of the predictions. A member defines `target` and `denoise`."""

    learn_variance: bool = False
    """If True, the network has twice the outputs; half of them give the reverse step's
    variance."""

    def target(self, x_0: Array, eps: Array, level: Level) -> Array:
        """Returns the network's target, of x_0's shape."""
        raise NotImplementedError

    def denoise(self, output: Array, x_t: Array, level: Level) -> tuple[Array, Array]:
        """Returns x_0 and eps from the predicted target."""
        raise NotImplementedError

    def x0_error_scale(self, level: Level) -> Array:
        """Returns the error of x_0 per error of the output, of the level's shape."""
        raise NotImplementedError

    def scaled(self, x_t: Array, level: Level) -> Array:
        """Returns the network's input for x_t.

        This is x_t itself, except for a variance-exploding schedule. There x_t is
        scaled down to unit variance, for data of unit variance.
        """
        alpha, sigma = level.scales(x_t)
        return x_t / jnp.maximum(1.0, jnp.sqrt(alpha**2 + sigma**2))

    def split(self, output: Array, x_t: Array) -> tuple[Array, Array | None]:
        """Splits the output into the predicted target and the variance's fraction.

        The fraction is None if the variance is not learned. The second half of the
        network's output, nominally in [-1, 1], is 2 fraction - 1.

        Raises:
            InputError: the output has the wrong number of channels.
        """
        wanted = x_t.shape[-1] * (1 + self.learn_variance)
        if output.shape != (*x_t.shape[:-1], wanted):
            raise InputError(
                f"the network's output must have shape {(*x_t.shape[:-1], wanted)} "
                f"with learn_variance={self.learn_variance}, got {output.shape}"
            )
        if not self.learn_variance:
            return output, None
        prediction, raw = jnp.split(output, 2, axis=-1)
        return prediction, (raw + 1) / 2

    def estimate(self, output: Array, x_t: Array, level: Level) -> Estimate:
        """Returns the estimate that the network's output gives at x_t."""
        prediction, fraction = self.split(output, x_t)
        return Estimate(*self.denoise(prediction, x_t, level), fraction)

    def check_schedule(self, schedule: AnySchedule) -> None:
        """Raises `InputError` if the output does not determine x_0 on this schedule."""


@dataclass(frozen=True, kw_only=True)
class Eps(Parameterization):
    """Prediction of the noise (Ho et al. 2020, section 3.2)."""

    def target(self, x_0: Array, eps: Array, level: Level) -> Array:
        """Returns the network's target, of x_0's shape."""
        return eps

    def denoise(self, output: Array, x_t: Array, level: Level) -> tuple[Array, Array]:
        """Returns x_0 and eps from the predicted target."""
        alpha, sigma = level.scales(x_t)
        return (x_t - sigma * output) / alpha, output

    def x0_error_scale(self, level: Level) -> Array:
        """Returns the error of x_0 per error of the output, of the level's shape."""
        return level.sigma / level.alpha

    def check_schedule(self, schedule: AnySchedule) -> None:
        """Raises `InputError` if the schedule ends in pure noise."""
        if not schedule.has_terminal_signal:
            raise InputError(
                "prediction must not divide by the signal scale, which is 0 at the end "
                "of this schedule (zero terminal SNR), got eps. Predict v, x_0 or the "
                "velocity."
            )


@dataclass(frozen=True, kw_only=True)
class X0(Parameterization):
    """Prediction of the clean image."""

    def target(self, x_0: Array, eps: Array, level: Level) -> Array:
        """Returns the network's target, of x_0's shape."""
        return x_0

    def denoise(self, output: Array, x_t: Array, level: Level) -> tuple[Array, Array]:
        """Returns x_0 and eps from the predicted target."""
        return output, eps_of(output, x_t, level)

    def x0_error_scale(self, level: Level) -> Array:
        """Returns the error of x_0 per error of the output, of the level's shape."""
        return jnp.ones_like(level.sigma)


@dataclass(frozen=True, kw_only=True)
class V(Parameterization):
    """Prediction of v, well scaled at every noise level (Salimans & Ho 2022)."""

    def target(self, x_0: Array, eps: Array, level: Level) -> Array:
        """Returns the network's target, of x_0's shape."""
        alpha, sigma = level.scales(x_0)
        return (alpha * eps - sigma * x_0) / jnp.sqrt(alpha**2 + sigma**2)

    def denoise(self, output: Array, x_t: Array, level: Level) -> tuple[Array, Array]:
        """Returns x_0 and eps from the predicted target."""
        alpha, sigma = level.scales(x_t)
        r = jnp.sqrt(alpha**2 + sigma**2)
        x_0 = (alpha / r * x_t - sigma * output) / r
        return x_0, (sigma / r * x_t + alpha * output) / r

    def x0_error_scale(self, level: Level) -> Array:
        """Returns the error of x_0 per error of the output, of the level's shape."""
        return level.sigma / jnp.sqrt(level.alpha**2 + level.sigma**2)


@dataclass(frozen=True, kw_only=True)
class Velocity(Parameterization):
    """Prediction of eps - x_0, flow matching's velocity (Liu et al. 2023)."""

    def target(self, x_0: Array, eps: Array, level: Level) -> Array:
        """Returns the network's target, of x_0's shape."""
        return eps - x_0

    def denoise(self, output: Array, x_t: Array, level: Level) -> tuple[Array, Array]:
        """Returns x_0 and eps from the predicted target."""
        alpha, sigma = level.scales(x_t)
        total = alpha + sigma
        return (x_t - sigma * output) / total, (x_t + alpha * output) / total

    def x0_error_scale(self, level: Level) -> Array:
        """Returns the error of x_0 per error of the output, of the level's shape."""
        return level.sigma / (level.alpha + level.sigma)


@dataclass(frozen=True, kw_only=True)
class EDM(Parameterization):
    """Prediction of EDM's F, of unit variance (Karras et al. 2022)."""

    data_deviation: Annotated[float, Gt(0)] = 0.5
    """Standard deviation of the data (sigma_data), above 0."""

    def target(self, x_0: Array, eps: Array, level: Level) -> Array:
        """Returns the network's target, of x_0's shape."""
        alpha, sigma = level.scales(x_0)
        d = self.data_deviation
        return (sigma * x_0 - alpha * d**2 * eps) / (d * self._deviation(alpha, sigma))

    def denoise(self, output: Array, x_t: Array, level: Level) -> tuple[Array, Array]:
        """Returns x_0 and eps from the predicted target."""
        alpha, sigma = level.scales(x_t)
        d, deviation = self.data_deviation, self._deviation(alpha, sigma)
        x_0 = (alpha * d**2 / deviation * x_t + sigma * d * output) / deviation
        return x_0, (sigma / deviation * x_t - alpha * d * output) / deviation

    def x0_error_scale(self, level: Level) -> Array:
        """Returns the error of x_0 per error of the output, of the level's shape."""
        deviation = self._deviation(level.alpha, level.sigma)
        return level.sigma * self.data_deviation / deviation

    def scaled(self, x_t: Array, level: Level) -> Array:
        """Returns x_t scaled to unit variance by EDM's c_in."""
        return x_t / self._deviation(*level.scales(x_t))

    def _deviation(self, alpha: Array, sigma: Array) -> Array:
        """Returns the standard deviation of x_t."""
        return jnp.sqrt(sigma**2 + (alpha * self.data_deviation) ** 2)


def eps_of(x_0: Array, x_t: Array, level: Level) -> Array:
    """Returns the noise that a clean image implies.

    At sigma = 0 no noise is determined, and the result is not finite.
    """
    alpha, sigma = level.scales(x_t)
    return (x_t - alpha * x_0) / sigma


Prediction: TypeAlias = Eps | X0 | V | Velocity | EDM
