"""Time grids: the levels that a sampler visits, as arrays from noise to data.

A spacing of N steps lists N times, noisiest first, and then the data. Without `to_data`
it lists N + 1 times, and the loop ends at the last of them. On a discrete schedule of T
steps (Lin et al. 2024, table 2, names the first three):

    Leading     k (T // N) + offset                  k = N-1, ..., 0
    Trailing    round(k T / N) - 1                   k = N, ..., 1
    Linspace    round(k (T - 1) / (N - 1))           k = N-1, ..., 0
    Quadratic   round(k^2 (T - 1) / (N - 1)^2)       k = N-1, ..., 0

All grids use integer arithmetic, because a grid of floats gains or repeats a time for
some N. On a continuous schedule the times are the same fractions of 0..1, not rounded.
`UniformLogSNR` and `Karras` space the noise levels instead. On a discrete schedule they
evaluate the network at times between two integers.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from annotated_types import Ge, Gt, IsFinite

from jaxdiff.checks import Checked, NumSteps, check_range, concrete
from jaxdiff.errors import InputError
from jaxdiff.schedules.forward import log_snr
from jaxdiff.typing import AnySchedule, Array, Level

MOST_NOISE = 1e3
"""Substitute for sigma / alpha of a noisiest level without signal. Data of unit
variance are then 1e-6 of the variance."""


@dataclass(frozen=True, kw_only=True)
class AllTimes:
    """All T times of the schedule."""

    def levels(self, schedule: AnySchedule) -> Level:
        """Returns T + 1 levels from noise to data, each field [T + 1]."""
        return _onto_data(schedule.level(schedule.times[::-1]))


@dataclass(frozen=True, kw_only=True)
class Times:
    """List of times of your own."""

    times: tuple[float, ...] = ()
    """Times, noisiest first; integers for a discrete schedule."""
    to_data: bool = True
    """If True, the sampling loop ends at the data, otherwise at the last time."""

    def levels(self, schedule: AnySchedule) -> Level:
        """Returns N + 1 levels from noise to data, each field [N + 1].

        Raises:
            InputError: there are too few times for a step, the times do not decrease,
                or the schedule does not have them.
        """
        if len(self.times) < 2 - self.to_data:
            raise InputError(
                f"times must have {2 - self.to_data} or more entries, noisiest first, "
                f"got {self.times}"
            )
        times = np.asarray(self.times)
        if is_discrete(schedule):
            if (times != times.round()).any():
                raise InputError(
                    f"times must be integers for a discrete schedule, got {self.times}"
                )
            # Clipped as floats: the cast of a float beyond int64 is undefined.
            times = np.clip(times, -(2.0**53), 2.0**53).astype(np.int64)
            check_range("t", times, schedule.num_steps)
            times = times.astype(np.int32)
        if not (np.diff(times) < 0).all():
            raise InputError(f"times must decrease, got {self.times}")
        return ended(schedule.level(times), self.to_data)


@dataclass(frozen=True, kw_only=True)
class Counted(Checked):
    """Spacing of a given number of steps. A member defines `visited`."""

    num_steps: NumSteps = 50
    """Number of sampling steps."""
    to_data: bool = True
    """If True, the sampling loop ends at the data, otherwise at the last time."""
    skip_last: bool = False
    """If True, a loop to the data skips the least noisy time. The last step then begins
    at the next noisier time."""

    def levels(self, schedule: AnySchedule) -> Level:
        """Returns N + 1 levels from noise to data, each field [N + 1].

        Raises:
            InputError: the schedule has fewer times.
        """
        count = self.num_steps + (self.skip_last or not self.to_data)
        levels = self.visited(schedule, count)
        if self.skip_last and self.to_data:
            levels = Level(*(field[:-1] for field in levels))
        return ended(levels, self.to_data)

    def visited(self, schedule: AnySchedule, count: int) -> Level:
        """Returns `count` levels of the schedule, noisiest first."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Leading(Counted):
    """Equal steps up from the least noisy time; usually without the noisiest one."""

    offset: int = 0
    """Offset added to every time of a discrete schedule."""

    def visited(self, schedule: AnySchedule, count: int) -> Level:
        """Returns `count` levels of the schedule, noisiest first."""
        places = np.arange(count)[::-1]
        if not is_discrete(schedule):
            return schedule.level(places / count)
        _check_count(schedule, count)
        stride = schedule.num_steps // count
        room = schedule.num_steps - 1 - (count - 1) * stride
        if not 0 <= self.offset <= room:
            raise InputError(f"offset must lie in 0..{room}, got {self.offset}")
        return schedule.level((places * stride + self.offset).astype(np.int32))


@dataclass(frozen=True, kw_only=True)
class Trailing(Counted):
    """Equal steps down from the noisiest time (Lin et al. 2024, section 3.3)."""

    def visited(self, schedule: AnySchedule, count: int) -> Level:
        """Returns `count` levels of the schedule, noisiest first."""
        places = np.arange(count, 0, -1)
        if not is_discrete(schedule):
            return schedule.level(places / count)
        _check_count(schedule, count)
        times = rounded_ratio(places * schedule.num_steps, count) - 1
        return schedule.level(times.astype(np.int32))


@dataclass(frozen=True, kw_only=True)
class Linspace(Counted):
    """Equal steps from the noisiest time to the least noisy one."""

    def visited(self, schedule: AnySchedule, count: int) -> Level:
        """Returns `count` levels of the schedule, noisiest first."""
        places = np.arange(count)[::-1]
        return _between_the_ends(schedule, places, max(count - 1, 1))


@dataclass(frozen=True, kw_only=True)
class QuadraticTimes(Counted):
    """Times that grow as squares: the steps shrink towards the data.

    The spacing follows Song et al. 2021 (DDIM, appendix D.2), with two differences. It
    starts at the schedule's noisiest time, not at 0.8 T, and no time repeats.
    """

    def visited(self, schedule: AnySchedule, count: int) -> Level:
        """Returns `count` levels of the schedule, noisiest first."""
        places = np.arange(count)[::-1] ** 2
        return _between_the_ends(schedule, places, max(count - 1, 1) ** 2)


@dataclass(frozen=True, kw_only=True)
class UniformLogSNR(Counted):
    """Equal steps of the log-SNR (Lu et al. 2022, section 3.4)."""

    def visited(self, schedule: AnySchedule, count: int) -> Level:
        """Returns `count` levels of the schedule, noisiest first."""
        low, high = _log_snr_ends(schedule)
        fractions = jnp.asarray(np.arange(count) / max(count - 1, 1), low.dtype)
        return schedule.level_of_log_snr(low + (high - low) * fractions)


@dataclass(frozen=True, kw_only=True)
class Karras(Counted):
    """Equal steps of (sigma / alpha)^(1 / rho) (Karras et al. 2022, equation 5)."""

    num_steps: NumSteps = 18
    """Number of sampling steps."""
    rho: IsFinite[Annotated[float, Ge(0.1)]] = 7.0  # less overflows float32
    """Exponent of the grid; a larger one places more levels at small noise."""
    sigma_min: IsFinite[Annotated[float, Gt(0)]] | None = None
    """Last sigma / alpha, but at least the schedule's smallest; None for the
    smallest."""
    sigma_max: IsFinite[Annotated[float, Gt(0)]] | None = None
    """First sigma / alpha, but at most the schedule's largest; None for the largest."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sigma_min and self.sigma_max and self.sigma_min >= self.sigma_max:
            raise InputError(
                "sigma_min must be less than sigma_max, got "
                f"{self.sigma_min:g} and {self.sigma_max:g}"
            )

    def visited(self, schedule: AnySchedule, count: int) -> Level:
        """Returns `count` levels of the schedule, noisiest first."""
        noisiest, least = (jnp.exp(-end / 2) for end in _log_snr_ends(schedule))
        first = jnp.minimum(noisiest, self.sigma_max or noisiest)
        last = jnp.maximum(least, self.sigma_min or least)
        values = concrete(first - last)
        if values is not None and not values > 0:
            raise InputError(
                "sigma_min and sigma_max must overlap the schedule's "
                f"{least:.3g}..{noisiest:.3g}, got {self.sigma_min} and "
                f"{self.sigma_max}"
            )
        high, low = first ** (1 / self.rho), last ** (1 / self.rho)
        fractions = jnp.asarray(np.arange(count) / max(count - 1, 1), low.dtype)
        sigmas = (high + (low - high) * fractions) ** self.rho
        return schedule.level_of_log_snr(-2 * jnp.log(sigmas))


def is_discrete(schedule: AnySchedule) -> bool:
    """Returns True if the schedule's times are integers."""
    return jnp.issubdtype(schedule.times.dtype, jnp.integer)


def _check_count(schedule: AnySchedule, count: int) -> None:
    if count > schedule.num_steps:
        raise InputError(
            "number of times to visit must be at most the schedule's "
            f"{schedule.num_steps}, got {count}. Take fewer steps."
        )


def _between_the_ends(schedule: AnySchedule, places: np.ndarray, last: int) -> Level:
    """Returns the levels at fractions places / last of the way to the noisiest time."""
    if len(places) == 1:
        places = np.array([last])  # a single step starts from the noise
    if not is_discrete(schedule):
        return schedule.level(places / last)
    _check_count(schedule, len(places))
    times = rounded_ratio(places * (schedule.num_steps - 1), last)
    # Times that rounding made equal are moved 1 apart.
    least = np.arange(len(times))
    times = np.maximum.accumulate(times[::-1] - least)[::-1] + least[::-1]
    return schedule.level(times.astype(np.int32))


def rounded_ratio(numerators: np.ndarray, denominator: int) -> np.ndarray:
    """Returns numerators / denominator, rounded half to even, in integer arithmetic."""
    whole, rest = np.divmod(numerators.astype(np.int64), denominator)
    up = (2 * rest > denominator) | ((2 * rest == denominator) & (whole % 2 == 1))
    return whole + up


def _log_snr_ends(schedule: AnySchedule) -> tuple[Array, Array]:
    """Returns the log-SNRs of the noisiest and of the least noisy level."""
    ends = log_snr(schedule.level(schedule.times[jnp.array([-1, 0])]))
    return jnp.maximum(ends[0], -2 * math.log(MOST_NOISE)), ends[1]


def ended(levels: Level, to_data: bool) -> Level:
    """Returns the levels, with the data at their end if `to_data`."""
    return _onto_data(levels) if to_data else levels


def _onto_data(levels: Level) -> Level:
    """Appends the data to the levels: alpha = 1, sigma = 0."""
    last: Any = jax.tree.map(lambda a: a[-1:], levels)
    data = Level(last.t, jnp.ones_like(last.alpha), jnp.zeros_like(last.sigma))
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), levels, data)
