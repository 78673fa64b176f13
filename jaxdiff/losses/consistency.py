"""Consistency models: one evaluation leads from x_t to the end of its path.

Let D(x_t, t) be the estimate of x_0, and s = sigma / alpha the noise level in the
coordinates of x_t / alpha. D is the identity at s = 0 for every prediction but x_0's.
Training makes D equal at two levels of one path, s_r < s_t:

    (1)  L = E[ || D(x_t, t) - stop(D(x_r, r)) || / (s_t - s_r) ]
                      (Song et al. 2023, equations 7 and 10; Song & Dhariwal 2023, 3.1)
    (2)  x_r = alpha_r x_0 + sigma_r eps, with the noise of x_t          path noise
         x_r = Heun's step of a teacher's ODE from x_t                   path teacher
    (3)  || d || = sqrt(mean(d^2) + c^2) - c, or mean(d^2) if c = 0
                                                    (Song & Dhariwal 2023, equation 7)

Both evaluations have the same dropout. The levels approach each other in stages k:

    (4)  s_r = s_t max(0, 1 - (1 + 8 sigmoid(-s_t)) / q^(k + 1))
                                                        (Geng et al. 2024, section 3.2)
    (5)  neighbours in Karras' grid of N = min(N_0 2^k, N_1) + 1 levels
                                                   (Song & Dhariwal 2023, section 3.4)

A level s_r at or below the schedule's smallest one is the data. There is no average of
the parameters in (1), whose bias Song & Dhariwal show (section 3.2).
"""

from dataclasses import dataclass, field
from typing import Annotated, Literal, TypeAlias

import jax
import jax.numpy as jnp
from annotated_types import Ge, Gt

from jaxdiff.checks import Checked
from jaxdiff.denoisers.predictions import X0, Prediction
from jaxdiff.errors import InputError
from jaxdiff.losses.base import Distillation, mean_square
from jaxdiff.losses.noised import Apply, Noised
from jaxdiff.losses.time_sampling import LogNormal, TimesOptions
from jaxdiff.samplers.ddim import euler_step
from jaxdiff.samplers.edm import heun_corrected
from jaxdiff.typing import AnySchedule, Array, Denoiser, Level

Levels: TypeAlias = tuple[Array, Array]
_EDGE = 1 + 1e-4  # rounding of a level that lies in a grid


@dataclass(frozen=True, kw_only=True)
class Ratio(Checked):
    """Pairs of consistency tuning, whose levels have a ratio; equation (4)."""

    base: Annotated[float, Gt(1)] = 2.0
    """Base q of the gap, which is q times smaller in each stage."""
    stage_steps: Annotated[int, Ge(1)] = 400
    """Number of training steps per stage."""
    last_stage: Annotated[int, Ge(0)] = 8
    """Stage that lasts until the end of training."""

    def pair(self, s: Array, least: Array, most: Array, step: Array) -> Levels:
        """Returns s_t and s_r [batch]; see `Grid.pair`."""
        stage = jnp.minimum(step // self.stage_steps, self.last_stage)
        gap = (1 + 8 * jax.nn.sigmoid(-s)) / self.base ** (stage.astype(s.dtype) + 1)
        return s, s * jnp.maximum(1 - gap, 0.0)


@dataclass(frozen=True, kw_only=True)
class Grid(Checked):
    """Pairs of consistency training: neighbours in a grid, equation (5)."""

    first_count: Annotated[int, Ge(2)] = 10
    """Number N_0 of gaps in the grid of the first stage."""
    last_count: Annotated[int, Ge(2)] = 1280
    """Largest number N_1 of gaps."""
    stage_steps: Annotated[int, Ge(1)] = 400
    """Number of training steps per stage; each stage doubles the gaps."""
    rho: Annotated[float, Gt(0)] = 7.0
    """Exponent of the grid; a larger one places more levels at small noise."""

    def pair(self, s: Array, least: Array, most: Array, step: Array) -> Levels:
        """Returns the two levels s_t and s_r [batch] at a step of training.

        Args:
            s: noise levels that the objective drew, [batch].
            least: smallest noise level of the schedule, [].
            most: largest one, [].
            step: number of steps done, an integer [].
        """
        stage = jnp.minimum(step // self.stage_steps, 30)
        doubled = self.first_count * 2.0 ** stage.astype(s.dtype)
        count = jnp.minimum(doubled, self.last_count)
        low, high = least ** (1 / self.rho), most ** (1 / self.rho)
        place = jnp.floor(count * (s ** (1 / self.rho) - low) / (high - low))
        place = jnp.clip(place, 0, count - 1)

        def at(place: Array) -> Array:
            return (low + place / count * (high - low)) ** self.rho

        return at(place + 1), at(place)


Pairs: TypeAlias = Ratio | Grid


@dataclass(frozen=True, kw_only=True)
class Consistency(Distillation):
    """Consistency tuning, training and distillation, equations (1) to (5)."""

    pairs: Pairs = field(default_factory=Ratio)
    """Two noise levels of a path: by their ratio (tuning, Geng et al. 2024), or of a
    grid (training, Song et al. 2023)."""
    path: Literal["noise", "teacher"] = "noise"
    """Way from the noisier level to the other: the same noise, or a step of the ODE of
    the run of `init` (distillation)."""
    huber: Annotated[float, Ge(0)] = 0.00054
    """Number c of the pseudo-Huber distance per pixel; 0 for the squared error."""
    times: TimesOptions = field(
        default_factory=lambda: LogNormal(mean=-1.1, deviation=2.0)
    )
    """Distribution of the noisier level."""

    @property
    def has_teacher(self) -> bool:
        """True if training evaluates the model of `init`."""
        return self.path == "teacher"

    def losses(
        self, apply: Apply, noised: Noised, prediction: Prediction,
        schedule: AnySchedule,
    ) -> dict[str, Array]:  # fmt: skip
        """Returns the "loss" of each example, [batch]."""
        ends = schedule.level(schedule.times[jnp.array([0, -1])])
        least, most = ends.sigma / jnp.maximum(ends.alpha, 1e-3)
        s = noised.level.sigma / jnp.maximum(noised.level.alpha, 1e-3)
        s_t, s_r = self.pairs.pair(s, least, most, jnp.asarray(noised.step))
        level, next_level = level_of(schedule, s_t), level_of(schedule, s_r)
        onto_data = s_r <= least * _EDGE
        s_r = jnp.where(onto_data, 0.0, s_r)
        next_level = Level(
            next_level.t,
            jnp.where(onto_data, 1.0, next_level.alpha),
            jnp.where(onto_data, 0.0, next_level.sigma),
        )
        x_t = noisy(noised, level)
        x_r = noisy(noised, next_level)
        if noised.teacher is not None and self.has_teacher:
            x_r = heun_step(noised.teacher, x_t, level, next_level)

        def mapped(x: Array, level: Level) -> Array:
            output = apply(x, level, noised.condition)
            return prediction.estimate(output, x, level).x_0

        target = jax.lax.stop_gradient(mapped(x_r, next_level))
        error = distance(mapped(x_t, level) - target, self.huber)
        return {"loss": error / (s_t - s_r)}

    def check(self, prediction: Prediction) -> None:
        """Checks that D is the identity without noise.

        Raises:
            InputError: the prediction is that of x_0, or has a learned variance; or
                there is guidance without a teacher.
        """
        if self.learns_guidance and not self.has_teacher:
            raise InputError(
                "guidance must be 1 for the objective consistency without a teacher, "
                f"got {self.guidance:g}. Set --objective.path teacher."
            )
        if isinstance(prediction, X0):
            raise InputError(
                "prediction must leave data without noise unchanged for the objective "
                "consistency, got x0. Predict edm, v, velocity or eps."
            )
        super().check(prediction)


def level_of(schedule: AnySchedule, s: Array) -> Level:
    """Returns the schedule's levels with sigma / alpha nearest to s."""
    return schedule.level_of_log_snr(-2 * jnp.log(s))


def noisy(noised: Noised, level: Level) -> Array:
    """Returns the examples with their noise at another level."""
    alpha, sigma = level.scales(noised.x_0)
    return alpha * noised.x_0 + sigma * noised.eps


def distance(difference: Array, huber: float) -> Array:
    """Returns equation (3) of each example, [batch]."""
    square = mean_square(difference)
    return jnp.sqrt(square + huber**2) - huber if huber else square


def heun_step(teacher: Denoiser, x_t: Array, level: Level, next_level: Level) -> Array:
    """Returns x_r by one step of Heun's rule, or of Euler's onto the data."""
    first = teacher(x_t, level)
    x_r = euler_step(first, next_level)
    better = heun_corrected(teacher, x_r, first, level, next_level)
    _, sigma_r = next_level.scales(x_t)
    return jnp.where(sigma_r > 0, better, x_r)
