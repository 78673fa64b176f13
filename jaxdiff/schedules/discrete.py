"""Noise schedules: how much signal and how much noise there is at time t.

The forward process adds Gaussian noise in T steps (Ho et al. 2020, section 2):

    (1)  x_t = sqrt(alpha_t) x_{t-1} + sqrt(beta_t) eps,     alpha_t = 1 - beta_t
    (2)  alphas_bar_t = alpha_0 alpha_1 ... alpha_t
    (3)  x_t = sqrt(alphas_bar_t) x_0 + sqrt(1 - alphas_bar_t) eps

Times run from 0, the least noisy step, to T - 1. (The papers count 1 to T, with 0 for
the data itself; here the data is what comes after t = 0.)

A schedule is chosen by a frozen option class, whose `build` computes the tables in
float64 and stores them as float32. Those of `continuous` stand in the same union.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, NamedTuple, Self, TypeAlias

import jax.numpy as jnp
import numpy as np
from annotated_types import Ge, Gt, Interval
from jax import nn

from jaxdiff.checks import (
    NumSteps,
    check_fields,
    check_range,
    concrete,
    warn_visible_signal,
)
from jaxdiff.errors import InputError
from jaxdiff.typing import Array, ArrayLike, Level, Timesteps

Beta: TypeAlias = Annotated[float, Interval(gt=0, lt=1)]


class Schedule(NamedTuple):
    """A discrete schedule: float32 tables of shape [T], index 0 the least noisy.

    Attributes:
        betas: the variance that step t adds, in (0, 1); the last may be 1.
        alphas: 1 - betas.
        alphas_bar: the running product of alphas, equation (2).
        sqrt_alphas_bar: the signal scale of x_t, equation (3).
        sqrt_one_minus_alphas_bar: the noise scale of x_t, equation (3).
    """

    betas: Array
    alphas: Array
    alphas_bar: Array
    sqrt_alphas_bar: Array
    sqrt_one_minus_alphas_bar: Array

    @classmethod
    def from_betas(cls, betas: ArrayLike) -> Self:
        """The schedule of any betas [T] in (0, 1), computed in float64.

        The last beta may be 1: no signal is left then, and the network must predict
        something else than the noise.

        Raises:
            InputError: betas is not a non-empty vector of such numbers, or they leave
                no signal before the last step.

        Warns:
            UserWarning: x_{T-1} keeps visible signal, so that sampling would start from
                a distribution the network never saw (Lin et al. 2024, section 3.1).
        """
        betas = np.asarray(betas, np.float64)
        if betas.ndim != 1 or not betas.size:
            raise InputError(
                f"betas must be a vector [T >= 1]; got shape {betas.shape}"
            )
        fits = (betas > 0) & (betas < 1)
        fits[-1] |= betas[-1] == 1 and betas.size > 1
        bad = np.flatnonzero(~fits)
        if bad.size:
            raise InputError(
                f"betas must lie in (0, 1); got betas[{bad[0]}] = {betas[bad[0]]:g}: "
                "change the schedule's start, end or cap"
            )
        alphas_bar = np.cumprod(1 - betas)
        gone = np.flatnonzero(np.sqrt(alphas_bar[:-1]) < np.finfo(np.float32).tiny)
        if gone.size:
            raise InputError(
                f"no signal is left from t = {gone[0]} of {betas.size} steps on, in "
                "float32: use fewer steps or smaller betas"
            )
        warn_visible_signal(np.sqrt(alphas_bar[-1]))
        tables = (
            betas,
            1 - betas,
            alphas_bar,
            alphas_bar**0.5,
            (1 - alphas_bar) ** 0.5,
        )
        return cls(*(jnp.asarray(table, jnp.float32) for table in tables))

    @property
    def num_steps(self) -> int:
        """T, the number of steps."""
        return self.betas.shape[0]

    @property
    def times(self) -> Timesteps:
        """The times 0, 1, ..., T - 1."""
        return jnp.arange(self.num_steps)

    @property
    def prior_scale(self) -> float:
        """The standard deviation of the noise that sampling starts from."""
        return 1.0

    @property
    def has_terminal_signal(self) -> bool:
        """Whether x_{T-1} has any signal (True where the tables are traced)."""
        alphas_bar = concrete(self.alphas_bar)
        return alphas_bar is None or bool(alphas_bar[-1] > 0)

    def level(self, t: ArrayLike | int | float) -> Level:
        """The level at integer times t, [] or [batch], from 0 to T - 1.

        Raises:
            InputError: t is not of an integer type or, where it is concrete, is out of
                range.
        """
        given, t = t, jnp.asarray(t)
        if not jnp.issubdtype(t.dtype, jnp.integer):
            raise InputError(f"t must be of an integer type; got {t.dtype}")
        check_range("t", given, self.num_steps)
        return Level(t, self.sqrt_alphas_bar[t], self.sqrt_one_minus_alphas_bar[t])

    def next_level(self, t: Timesteps | int | float) -> Level:
        """The level one step nearer the data than t; after t = 0 the data itself."""
        level = self.level(jnp.maximum(jnp.asarray(t) - 1, 0))
        done = jnp.asarray(t) == 0
        return Level(
            jnp.asarray(t) - 1,
            jnp.where(done, 1.0, level.alpha),
            jnp.where(done, 0.0, level.sigma),
        )

    def time(self, u: Array) -> Timesteps:
        """The time at the fraction u in [0, 1) of the range: uniform u, uniform t."""
        t = jnp.floor(u * self.num_steps).astype(jnp.int32)
        return jnp.minimum(t, self.num_steps - 1)

    def fraction_of_log_snr(self, log_snr: Array) -> Array:
        """The u at whose `time(u)` the log signal-to-noise ratio is nearest this."""
        table = self._log_snr().astype(log_snr.dtype)
        places = jnp.arange(self.num_steps, dtype=table.dtype)[::-1]
        t = jnp.interp(log_snr, table[::-1], places)
        return (t + 0.5) / self.num_steps

    def level_of_log_snr(self, log_snr: Array) -> Level:
        """The level of this log signal-to-noise ratio, at a time between two integers.

        A network that was trained at whole times is asked in between them, as
        DPM-Solver does (Lu et al. 2022, section 3.4).
        """
        table = self._log_snr().astype(log_snr.dtype)
        log_snr = jnp.clip(log_snr, table[-1], table[0])
        t = self.fraction_of_log_snr(log_snr) * self.num_steps - 0.5
        alpha, sigma = nn.sigmoid(log_snr) ** 0.5, nn.sigmoid(-log_snr) ** 0.5
        return Level(jnp.clip(t, 0, self.num_steps - 1), alpha, sigma)

    def _log_snr(self) -> Array:
        """The log signal-to-noise ratios [T]; -27.6 where there is no signal."""
        signal = jnp.maximum(self.sqrt_alphas_bar, 1e-6)
        return 2 * (jnp.log(signal) - jnp.log(self.sqrt_one_minus_alphas_bar))


@dataclass(frozen=True, kw_only=True)
class Linear:
    """Linear betas, the schedule of DDPM (Ho et al. 2020, section 4)."""

    num_steps: NumSteps = 1000
    """T, the number of steps."""
    beta_start: Beta = 1e-4
    """beta_0."""
    beta_end: Beta = 0.02
    """beta_{T-1}."""

    def build(self) -> Schedule:
        """The schedule's tables.

        >>> schedule = Linear(num_steps=1000).build()
        >>> print(f"{schedule.alphas_bar[-1]:.4g}")
        4.036e-05
        """
        check_fields(self)
        betas = np.linspace(self.beta_start, self.beta_end, self.num_steps)
        return Schedule.from_betas(betas)


@dataclass(frozen=True, kw_only=True)
class Quadratic:
    """Betas whose square roots are linear (Rombach et al. 2022; "scaled linear")."""

    num_steps: NumSteps = 1000
    """T, the number of steps."""
    beta_start: Beta = 1e-4
    """beta_0."""
    beta_end: Beta = 0.02
    """beta_{T-1}."""

    def build(self) -> Schedule:
        """The schedule's tables."""
        check_fields(self)
        roots = np.linspace(self.beta_start**0.5, self.beta_end**0.5, self.num_steps)
        return Schedule.from_betas(roots**2)


@dataclass(frozen=True, kw_only=True)
class Cosine:
    """alphas_bar along a squared cosine (Nichol & Dhariwal 2021, equation 17)."""

    num_steps: NumSteps = 1000
    """T, the number of steps."""
    offset: Annotated[float, Ge(0)] = 0.008
    """s, which keeps the first betas from vanishing."""
    max_beta: Beta = 0.999
    """The cap on beta, which keeps the last steps regular."""

    def build(self) -> Schedule:
        """The schedule's tables."""
        check_fields(self)

        def alphas_bar(u: np.ndarray) -> np.ndarray:
            return np.cos((u + self.offset) / (1 + self.offset) * np.pi / 2) ** 2

        return _from_alphas_bar(alphas_bar, self.num_steps, self.max_beta)


@dataclass(frozen=True, kw_only=True)
class Sigmoid:
    """alphas_bar along a sigmoid (Jabri et al. 2022; Chen 2023, section 2.1)."""

    num_steps: NumSteps = 1000
    """T, the number of steps."""
    start: float = -3.0
    """Where on the sigmoid t = 0 lies; less than end."""
    end: float = 3.0
    """Where on the sigmoid t = T lies."""
    tau: Annotated[float, Gt(0)] = 1.0
    """The temperature; larger is closer to a straight line."""
    max_beta: Beta = 0.999
    """The cap on beta, which keeps the last steps regular."""

    def build(self) -> Schedule:
        """The schedule's tables."""
        check_fields(self)
        if not self.start < self.end:
            raise InputError(
                f"start must be less than end; got {self.start:g} and {self.end:g}"
            )

        def sigmoid(u: np.ndarray) -> np.ndarray:
            return 1 / (
                1 + np.exp(-(self.start + u * (self.end - self.start)) / self.tau)
            )

        def alphas_bar(u: np.ndarray) -> np.ndarray:
            first, last = sigmoid(np.zeros(())), sigmoid(np.ones(()))
            return (last - sigmoid(u)) / (last - first)

        return _from_alphas_bar(alphas_bar, self.num_steps, self.max_beta)


def _from_alphas_bar(
    alphas_bar: Callable[[np.ndarray], np.ndarray], num_steps: int, max_beta: float
) -> Schedule:
    """Discretises alphas_bar(u), u in [0, 1]: beta_t = 1 - a(u_{t+1}) / a(u_t)."""
    with np.errstate(all="ignore"):  # what overflows is refused as no beta
        values = alphas_bar(np.arange(num_steps + 1) / num_steps)
        betas = np.minimum(1 - values[1:] / values[:-1], max_beta)
    return Schedule.from_betas(betas)


@dataclass(frozen=True, kw_only=True)
class ZeroTerminalSNR:
    """Another schedule, rescaled to end in pure noise (Lin et al. 2024, algorithm 1).

    The signal scales sqrt(alphas_bar) are shifted so that the last is 0, and stretched
    so that the first stays. Needs a prediction other than `Eps`.
    """

    base: Linear | Quadratic | Cosine | Sigmoid = field(default_factory=Linear)
    """The schedule to rescale."""

    def build(self) -> Schedule:
        """The schedule's tables."""
        with warnings.catch_warnings():
            # That the base keeps signal is what the rescaling mends.
            warnings.simplefilter("ignore", UserWarning)
            return rescale_zero_terminal_snr(self.base.build())


def rescale_zero_terminal_snr(schedule: Schedule) -> Schedule:
    """The schedule rescaled to end in pure noise (Lin et al. 2024, algorithm 1).

    Raises:
        InputError: it has one step only.
    """
    if schedule.num_steps < 2:
        raise InputError(
            "a schedule of zero terminal SNR needs at least 2 steps; got 1"
        )
    signal = np.cumprod(1 - np.asarray(schedule.betas, np.float64)) ** 0.5
    with np.errstate(all="ignore"):  # where no signal is lost, 0 / 0 is no beta
        signal = (signal - signal[-1]) * (signal[0] / (signal[0] - signal[-1]))
        alphas_bar = signal**2
        betas = 1 - alphas_bar / np.append(1.0, alphas_bar[:-1])
    return Schedule.from_betas(betas)
