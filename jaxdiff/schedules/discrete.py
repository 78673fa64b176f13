"""Discrete noise schedules: tables of signal and noise at times 0..T-1.

The forward process adds Gaussian noise in T steps (Ho et al. 2020, section 2):

    (1)  x_t = sqrt(alpha_t) x_{t-1} + sqrt(beta_t) eps,     alpha_t = 1 - beta_t
    (2)  alphas_bar_t = alpha_0 alpha_1 ... alpha_t
    (3)  x_t = sqrt(alphas_bar_t) x_0 + sqrt(1 - alphas_bar_t) eps

Times run from 0, the least noisy step, to T - 1; the data come after t = 0. (The papers
count from 1 to T, and use 0 for the data.)

A frozen option class chooses a schedule. Its `build` computes the tables in float64 and
stores them as float32. The classes of `continuous` are in the same union.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, NamedTuple, Self, TypeAlias

import jax.numpy as jnp
import numpy as np
from annotated_types import Ge, Gt, Interval
from jax import nn

from jaxdiff.checks import (
    NumSteps,
    any_last_signal,
    check_range,
    check_untraced,
    concrete,
    warn_visible_signal,
)
from jaxdiff.errors import InputError
from jaxdiff.schedules.continuous import OUTSIDE, check_options
from jaxdiff.typing import Array, ArrayLike, Level, Timesteps

Beta: TypeAlias = Annotated[float, Interval(gt=0, lt=1)]


class Schedule(NamedTuple):
    """Discrete schedule: float32 tables of shape [T], index 0 the least noisy.

    Attributes:
        betas: variance that step t adds, in (0, 1); the last may be 1.
        alphas: 1 - betas.
        alphas_bar: running product of alphas, equation (2).
        sqrt_alphas_bar: signal scale of x_t, equation (3).
        sqrt_one_minus_alphas_bar: noise scale of x_t, equation (3).
    """

    betas: Array
    alphas: Array
    alphas_bar: Array
    sqrt_alphas_bar: Array
    sqrt_one_minus_alphas_bar: Array

    @classmethod
    def from_betas(cls, betas: ArrayLike) -> Self:
        """Computes the tables from any betas [T] in (0, 1), in float64.

        The last beta may be 1. Then no signal is left at the end, and the network must
        not predict the noise.

        Raises:
            InputError: betas is not a non-empty vector of such numbers, is traced, or
                leaves no signal before the last step.

        Warns:
            UserWarning: x_{T-1} keeps visible signal. Sampling would start from a
                distribution that the network never saw (Lin et al. 2024, section 3.1).
        """
        check_untraced("betas", betas, OUTSIDE)
        betas = np.asarray(betas, np.float64)
        if betas.ndim != 1 or not betas.size:
            raise InputError(
                f"betas must be a vector [T >= 1], got shape {betas.shape}"
            )
        fits = (betas > 0) & (betas < 1)
        fits[-1] |= betas[-1] == 1 and betas.size > 1
        bad = np.flatnonzero(~fits)
        if bad.size:
            raise InputError(
                f"betas must lie in (0, 1), got betas[{bad[0]}] = {betas[bad[0]]:g}. "
                "Change the schedule's start, end or cap."
            )
        alphas_bar = np.cumprod(1 - betas)
        gone = np.flatnonzero(np.sqrt(alphas_bar[:-1]) < np.finfo(np.float32).tiny)
        if gone.size:
            raise InputError(
                "betas must leave signal until the last step, got none (in float32) "
                f"from t = {gone[0]} of {betas.size} steps on. Use fewer steps or "
                "smaller betas."
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
        """Number of steps T."""
        return self.betas.shape[0]

    @property
    def times(self) -> Timesteps:
        """Times 0, 1, ..., T - 1."""
        return jnp.arange(self.num_steps)

    @property
    def prior_scale(self) -> float:
        """Standard deviation of the noise that sampling starts from."""
        return 1.0

    @property
    def has_terminal_signal(self) -> bool:
        """True if x_{T-1} has any signal, or if the tables are traced."""
        alphas_bar = concrete(self.alphas_bar)
        return alphas_bar is None or bool(alphas_bar[-1] > 0)

    def level(self, t: ArrayLike | int | float) -> Level:
        """Returns the level at integer times t [] or [batch], in 0..T-1.

        Raises:
            InputError: t is not of an integer type, or is concrete and out of range.
        """
        given, t = t, jnp.asarray(t)
        if not jnp.issubdtype(t.dtype, jnp.integer):
            raise InputError(f"t must be of an integer type, got {t.dtype}")
        check_range("t", given, self.num_steps)
        return Level(t, self.sqrt_alphas_bar[t], self.sqrt_one_minus_alphas_bar[t])

    def next_level(self, t: Timesteps | int | float) -> Level:
        """Returns the level one step nearer the data than t; after t = 0 the data."""
        level = self.level(jnp.maximum(jnp.asarray(t) - 1, 0))
        done = jnp.asarray(t) == 0
        return Level(
            jnp.asarray(t) - 1,
            jnp.where(done, 1.0, level.alpha),
            jnp.where(done, 0.0, level.sigma),
        )

    def time(self, u: Array) -> Timesteps:
        """Returns the time at the fraction u in [0, 1) of the range; linear in u."""
        t = jnp.floor(u * self.num_steps).astype(jnp.int32)
        return jnp.minimum(t, self.num_steps - 1)

    def fraction_of_log_snr(self, log_snr: Array) -> Array:
        """Returns the u whose `time(u)` has the log-SNR nearest to `log_snr`."""
        table = self._log_snr().astype(log_snr.dtype)
        places = jnp.arange(self.num_steps, dtype=table.dtype)[::-1]
        t = jnp.interp(log_snr, table[::-1], places)
        return (t + 0.5) / self.num_steps

    def level_of_log_snr(self, log_snr: Array) -> Level:
        """Returns the level with this log-SNR, at a time between two integers.

        A network trained at integer times is then evaluated between them, as in
        DPM-Solver (Lu et al. 2022, section 3.4).
        """
        table = self._log_snr().astype(log_snr.dtype)
        log_snr = jnp.clip(log_snr, table[-1], table[0])
        t = self.fraction_of_log_snr(log_snr) * self.num_steps - 0.5
        alpha, sigma = nn.sigmoid(log_snr) ** 0.5, nn.sigmoid(-log_snr) ** 0.5
        return Level(jnp.clip(t, 0, self.num_steps - 1), alpha, sigma)

    def _log_snr(self) -> Array:
        """Returns the log-SNRs [T]; -27.6 for a level without signal."""
        signal = jnp.maximum(self.sqrt_alphas_bar, 1e-6)
        return 2 * (jnp.log(signal) - jnp.log(self.sqrt_one_minus_alphas_bar))


@dataclass(frozen=True, kw_only=True)
class Linear:
    """Linear betas, the schedule of DDPM (Ho et al. 2020, section 4)."""

    num_steps: NumSteps = 1000
    """Number of steps T."""
    beta_start: Beta = 1e-4
    """First beta, beta_0."""
    beta_end: Beta = 0.02
    """Last beta, beta_{T-1}."""

    def build(self) -> Schedule:
        """Builds the schedule's tables.

        >>> schedule = Linear(num_steps=1000).build()
        >>> print(f"{schedule.alphas_bar[-1]:.4g}")
        4.036e-05
        """
        check_options(self)
        betas = np.linspace(self.beta_start, self.beta_end, self.num_steps)
        return Schedule.from_betas(betas)


@dataclass(frozen=True, kw_only=True)
class Quadratic:
    """Betas with linear square roots (Rombach et al. 2022; "scaled linear")."""

    num_steps: NumSteps = 1000
    """Number of steps T."""
    beta_start: Beta = 1e-4
    """First beta, beta_0."""
    beta_end: Beta = 0.02
    """Last beta, beta_{T-1}."""

    def build(self) -> Schedule:
        """Builds the schedule's tables."""
        check_options(self)
        roots = np.linspace(self.beta_start**0.5, self.beta_end**0.5, self.num_steps)
        return Schedule.from_betas(roots**2)


@dataclass(frozen=True, kw_only=True)
class Cosine:
    """Squared cosine for alphas_bar (Nichol & Dhariwal 2021, equation 17)."""

    num_steps: NumSteps = 1000
    """Number of steps T."""
    offset: Annotated[float, Ge(0)] = 0.008
    """Offset s, which keeps the first betas away from 0."""
    max_beta: Beta = 0.999
    """Upper limit of the betas, which keeps the last steps regular."""

    def build(self) -> Schedule:
        """Builds the schedule's tables."""
        check_options(self)

        def alphas_bar(u: np.ndarray) -> np.ndarray:
            return np.cos((u + self.offset) / (1 + self.offset) * np.pi / 2) ** 2

        return _from_alphas_bar(alphas_bar, self.num_steps, self.max_beta)


@dataclass(frozen=True, kw_only=True)
class Sigmoid:
    """Sigmoid for alphas_bar (Jabri et al. 2022; Chen 2023, section 2.1)."""

    num_steps: NumSteps = 1000
    """Number of steps T."""
    start: float = -3.0
    """Position of the data on the sigmoid; less than end."""
    end: float = 3.0
    """Position of pure noise on the sigmoid; more than start."""
    tau: Annotated[float, Gt(0)] = 1.0
    """Temperature of the sigmoid; a larger one is closer to a straight line."""
    max_beta: Beta = 0.999
    """Upper limit of the betas, which keeps the last steps regular."""

    def build(self) -> Schedule:
        """Builds the schedule's tables."""
        check_options(self)
        if not self.start < self.end:
            raise InputError(
                f"start must be less than end, got {self.start:g} and {self.end:g}"
            )

        def sigmoid(u: np.ndarray) -> np.ndarray:
            return 1 / (
                1 + np.exp(-(self.start + u * (self.end - self.start)) / self.tau)
            )

        def alphas_bar(u: np.ndarray) -> np.ndarray:
            first, last = sigmoid(np.zeros(())), sigmoid(np.ones(()))
            return (last - sigmoid(u)) / (last - first)

        return _from_alphas_bar(alphas_bar, self.num_steps, self.max_beta)


@dataclass(frozen=True, kw_only=True)
class Betas:
    """List of betas of your own, or of an imported model."""

    betas: tuple[float, ...] = ()
    """Variance that each step adds, in (0, 1), the least noisy step first; empty for
    the 1000 of DDPM."""

    def build(self) -> Schedule:
        """Builds the schedule's tables."""
        check_options(self)
        if not self.betas:
            return Linear().build()
        return Schedule.from_betas(np.asarray(self.betas))


def _from_alphas_bar(
    alphas_bar: Callable[[np.ndarray], np.ndarray], num_steps: int, max_beta: float
) -> Schedule:
    """Discretises alphas_bar(u), u in [0, 1]: beta_t = 1 - a(u_{t+1}) / a(u_t)."""
    with np.errstate(all="ignore"):  # an overflow is an error in from_betas
        values = alphas_bar(np.arange(num_steps + 1) / num_steps)
        betas = np.minimum(1 - values[1:] / values[:-1], max_beta)
    return Schedule.from_betas(betas)


@dataclass(frozen=True, kw_only=True)
class ZeroTerminalSNR:
    """Schedule rescaled to end in pure noise (Lin et al. 2024, algorithm 1).

    The signal scales sqrt(alphas_bar) are shifted to end at 0, and stretched to keep
    the first one. Training needs a prediction other than `Eps`.
    """

    base: Linear | Quadratic | Cosine | Sigmoid | Betas = field(default_factory=Linear)
    """Schedule to rescale."""

    def build(self) -> Schedule:
        """Builds the schedule's tables."""
        with any_last_signal():  # the rescaling removes it
            return rescale_zero_terminal_snr(self.base.build())


def rescale_zero_terminal_snr(schedule: Schedule) -> Schedule:
    """Rescales a schedule to end in pure noise (Lin et al. 2024, algorithm 1).

    Raises:
        InputError: the schedule has one step only.
    """
    if schedule.num_steps < 2:
        raise InputError(
            "num_steps must be at least 2 to reach a zero terminal SNR, got 1"
        )
    signal = np.cumprod(1 - np.asarray(schedule.betas, np.float64)) ** 0.5
    with np.errstate(all="ignore"):  # without lost signal, 0 / 0
        signal = (signal - signal[-1]) * (signal[0] / (signal[0] - signal[-1]))
        alphas_bar = signal**2
        betas = 1 - alphas_bar / np.append(1.0, alphas_bar[:-1])
    return Schedule.from_betas(betas)
