"""Time grids of the schedulers of Hugging Face's diffusers.

Imported models use them: with any number of steps, the grid is diffusers'. Grids other
than those of whole times are computed in NumPy, in float64.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
import numpy as np
from annotated_types import Ge, Gt, Interval, IsFinite

from jaxdiff.checks import NumSteps, concrete
from jaxdiff.errors import InputError
from jaxdiff.samplers.time_grids import Counted, ended, is_discrete, rounded_ratio
from jaxdiff.typing import AnySchedule, Array, Level

RHO = 7.0
"""Exponent of diffusers' Karras grids for discrete schedules."""
BETA = 0.6
"""Both parameters of the beta distribution of diffusers' beta grids."""
Sigma = IsFinite[Annotated[float, Gt(0)]]


@dataclass(frozen=True, kw_only=True)
class DiffusersGrid(Counted):
    """Time grid of a scheduler of diffusers, for discrete schedules.

    Without `to_data`, the last step ends at time 0.
    """

    timestep_spacing: Literal["leading", "trailing", "linspace"] = "leading"
    """Rule for the times, in diffusers' terms: as `Leading`, `Trailing`, `Linspace`."""
    steps_offset: Annotated[int, Ge(0)] = 0
    """Number added to every time of the leading rule."""
    num_times: Annotated[int, Ge(1)] | None = None
    """Number of the least noisy times that the rule is applied to; None for all."""
    least_alpha: Annotated[float, Interval(ge=0, lt=1)] = 0.0
    """Least signal scale of a level, in place of a smaller one."""
    whole_times: bool = True
    """If False, the times of the linspace rule are not rounded, and sigma / alpha is
    linear between two whole times."""
    sigmas: Literal["of-times", "karras", "exponential", "beta"] = "of-times"
    """Rule for sigma / alpha: at the times, or equal steps of sigma^(1/7) (karras) or
    log sigma (exponential), or quantiles of a beta distribution (beta)."""
    sigma_range: Literal["all", "visited"] = "all"
    """Ends of sigma / alpha for these rules: those of all times, or of the times by
    `timestep_spacing`."""
    sigma_min: Sigma | None = None
    """Last sigma / alpha for these rules, in place of the range's."""
    sigma_max: Sigma | None = None
    """First sigma / alpha for these rules, in place of the range's."""
    rounding: Literal["none", "nearest", "down"] = "none"
    """Rounding of the network's times for these rules."""
    noise_start: bool = False
    """If True, the loop starts from noise of the first level's sigma, otherwise from
    unit variance."""

    data_alpha: Annotated[float, Interval(gt=0, lt=2)] = 1.0
    """Signal scale of the data after the last step: 1, or that of diffusers' rounding
    in its UnCLIPScheduler, for whole times."""

    def start_scale(self, grid: Level) -> Array:
        """Returns the standard deviation of the noise that the loop starts from, []."""
        noise = jnp.asarray(grid.sigma[0])
        return noise if self.noise_start else jnp.hypot(grid.alpha[0], noise)

    def levels(self, schedule: AnySchedule) -> Level:
        """Returns the levels from noise to data, each field [N + 1].

        Raises:
            InputError: the schedule is continuous or traced, or has too few times.
        """
        if not is_discrete(schedule):
            raise InputError(
                "schedule must be discrete for the spacing diffusers-grid, got "
                f"{type(schedule).__name__}. Choose another spacing."
            )
        if self.sigmas != "of-times" or not self.whole_times:
            return self._computed(schedule)
        times = self._times(schedule.num_steps)
        if not self.to_data:
            times = np.append(times[times > 0], 0)
        if len(times) < 2 - self.to_data:
            raise InputError(
                f"num_steps must be at least 2 for a loop from time {times[0]} to "
                f"time 0, got {self.num_steps}. Use more steps."
            )
        levels = schedule.level(times.astype(np.int32))
        if self.least_alpha:
            alpha = jnp.maximum(levels.alpha, self.least_alpha)
            sigma = jnp.minimum(levels.sigma, math.sqrt(1 - self.least_alpha**2))
            levels = Level(levels.t, alpha, sigma)
        found = ended(levels, self.to_data)
        if self.data_alpha == 1 or not self.to_data:
            return found
        return found._replace(alpha=found.alpha.at[-1].set(self.data_alpha))

    def _times(self, total: int) -> np.ndarray:
        """Returns the times by diffusers' rule, noisiest first."""
        times: np.ndarray
        count = self.num_steps + self.skip_last
        end = min(self.num_times or total, total)
        places = np.arange(count)[::-1]
        if count > end:
            raise InputError(
                f"num_steps must be at most {end - self.skip_last} for the {end} times "
                f"of this grid, got {self.num_steps}. Use fewer steps."
            )
        if self.timestep_spacing == "linspace":
            # In floats, as in diffusers: 27 of 1000 times have 499, not 500.
            times = np.linspace(0, end - 1, count)[::-1]
            times = times.round().astype(int) if self.whole_times else times
        elif self.timestep_spacing == "leading":
            times = places * (end // count) + self.steps_offset
        else:
            # With num_times, diffusers counts down from there in strides of total / N.
            numerators = end * count - np.arange(count) * total
            times = rounded_ratio(numerators[numerators > 0], count) - 1
        times = times[: len(times) - self.skip_last]
        if times[0] >= total:
            raise InputError(
                f"steps_offset must leave the times below {total}, got "
                f"{self.steps_offset} with {self.num_steps} steps. Use fewer steps."
            )
        return times

    def _computed(self, schedule: AnySchedule) -> Level:
        """Returns the levels of the rules for sigma, and of times between integers."""
        with jax.ensure_compile_time_eval():  # the tables are known within jit, too
            every = schedule.level(np.arange(schedule.num_steps))
        alpha, sigma = concrete(every.alpha), concrete(every.sigma)
        if alpha is None or sigma is None:
            raise InputError(
                "schedule must not be traced for this grid. Compute the levels outside "
                "of jit, and give them to sample."
            )
        table = np.asarray(sigma, np.float64) / np.maximum(alpha, self.least_alpha)
        if not np.isfinite(table).all():
            raise InputError(
                "schedule must keep signal for this grid, got none at its last time. "
                "Set least_alpha."
            )
        if self.sigmas == "of-times" or self.sigma_range == "visited":
            times = np.asarray(self._times(schedule.num_steps), np.float64)
            sigmas = np.interp(times, np.arange(len(table)), table)
        else:
            sigmas = table[[-1, 0]]
        if self.sigmas != "of-times":
            sigmas = self._spaced(sigmas[0], sigmas[-1])
            times = np.interp(np.log(sigmas), np.log(table), np.arange(len(table)))
            if self.rounding == "nearest":
                times = times.round()
            elif self.rounding == "down":
                times = np.floor(times + 1e-6)  # the ends are whole, up to rounding
        if not self.to_data:
            above = sigmas > table[0] * (1 + 1e-6)
            times, sigmas = (
                np.append(times[above], 0),
                np.append(sigmas[above], table[0]),
            )
        alphas = 1 / np.hypot(1, sigmas)
        given = (np.float32(a) for a in (times, alphas, sigmas * alphas))
        return ended(Level(*map(jnp.asarray, given)), self.to_data)

    def _spaced(self, high: float, low: float) -> np.ndarray:
        """Returns sigma / alpha by the rule, from high to low."""
        high, low = self.sigma_max or high, self.sigma_min or low
        ramp = np.linspace(0, 1, self.num_steps)
        if self.sigmas == "karras":
            first, last = high ** (1 / RHO), low ** (1 / RHO)
            return (first + ramp * (last - first)) ** RHO
        if self.sigmas == "exponential":
            return np.exp(np.linspace(math.log(high), math.log(low), self.num_steps))
        return low + beta_quantile(1 - ramp) * (high - low)


def beta_quantile(share: np.ndarray) -> np.ndarray:
    """Returns quantiles of the beta distribution with both parameters `BETA`.

    The distribution function is inverted by bisection in w = x^BETA, for x up to 1/2.
    Its series is sum_n (1 - BETA)_n x^(BETA + n) / (n! (BETA + n) B(BETA, BETA)).

    Args:
        share: probabilities in 0..1, float64 [N].
    """
    small = np.minimum(share, 1 - share)
    whole = math.gamma(BETA) ** 2 / math.gamma(2 * BETA)
    place = np.arange(60)
    factors = np.cumprod(np.append(1.0, (place[1:] - BETA) / place[1:]))
    terms = factors / ((BETA + place) * whole)
    low, high = np.zeros_like(small), np.full_like(small, 0.5**BETA)
    for _ in range(80):
        w = (low + high) / 2
        reached = w * (terms * (w ** (1 / BETA))[:, None] ** place).sum(axis=1)
        low, high = (
            np.where(reached < small, w, low),
            np.where(reached < small, high, w),
        )
    x = np.where(small > 0, ((low + high) / 2) ** (1 / BETA), 0.0)
    return np.where(share > 0.5, 1 - x, x)


@dataclass(frozen=True, kw_only=True)
class LCMTimes(Counted):
    """Times of latent consistency models in diffusers, for discrete schedules.

    The times are a subset of those that the model was distilled at.
    """

    num_steps: NumSteps = 4
    """Number of sampling steps."""
    original_steps: NumSteps = 50
    """Number of the times that the model was distilled at."""

    def visited(self, schedule: AnySchedule, count: int) -> Level:
        """Returns `count` levels of the schedule, noisiest first."""
        if not is_discrete(schedule):
            raise InputError(
                "schedule must be discrete for the spacing lcm-times, got "
                f"{type(schedule).__name__}. Choose another spacing."
            )
        if self.original_steps > schedule.num_steps:
            raise InputError(
                f"original_steps must be at most {schedule.num_steps} for this "
                f"schedule, got {self.original_steps}. Use fewer."
            )
        if count > self.original_steps:
            raise InputError(
                f"num_steps must be at most {self.original_steps} for this grid, got "
                f"{self.num_steps}. Use fewer steps."
            )
        stride = schedule.num_steps // self.original_steps
        every = (np.arange(self.original_steps) + 1)[::-1] * stride - 1
        places = np.linspace(0, self.original_steps, count, endpoint=False)
        return schedule.level(every[np.floor(places).astype(int)].astype(np.int32))


@dataclass(frozen=True, kw_only=True)
class FlowMatchGrid(Counted):
    """Times of diffusers' flow matching schedulers, for a straight path.

    They are equal steps from the noisiest time down to one that was shifted already.
    The shift then applies again, so with a shift the last level is noisier than the
    schedule's least noisy one.
    """

    def visited(self, schedule: AnySchedule, count: int) -> Level:
        """Returns `count` levels of the schedule, noisiest first."""
        least = getattr(schedule, "t_min", None)
        if least is None or not hasattr(schedule, "shift"):
            raise InputError(
                "schedule must be straight-path for the spacing flow-match-grid, got "
                f"{type(schedule).__name__}. Choose another spacing."
            )
        shifted = float(schedule.level(0.0).sigma)
        times = np.linspace(1.0, (shifted - least) / (1 - least), count)
        return schedule.level(np.clip(times, 0, 1))
