"""Continuous schedules: the signal and noise scales as formulas of the time.

A time u runs from 0, the least noisy level, to 1. The data come after time 0.

    (1)  variance preserving (Song et al. 2021, equation 33), t = t_min + (1 - t_min) u:
         log alpha = -t^2 (beta_max - beta_min) / 4 - t beta_min / 2,
         sigma = sqrt(1 - alpha^2)
    (2)  variance exploding (Karras et al. 2022, equation 5): alpha = 1,
         sigma = (sigma_min^(1/rho) + u (sigma_max^(1/rho) - sigma_min^(1/rho)))^rho
    (3)  straight path (Lipman et al. 2023; Liu et al. 2023), tau = t of (1), shifted
         (Esser et al. 2024, equation 23): t = shift tau / (1 + (shift - 1) tau),
         alpha = 1 - t, sigma = t

A sampling loop of all T steps visits T times, equally spaced in u, and then the data.
The network receives the time 1000 t in (1) and (3), and 250 log sigma in (2). The
latter is 1000 times EDM's c_noise, the range that its sinusoids are made for; another
`time_scale` replaces the 1000.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp
from annotated_types import Ge, Gt, Interval, IsFinite, Le
from jax import nn

from jaxdiff.checks import (
    MOST_STEPS,
    check_fields,
    check_untraced,
    concrete,
    warn_visible_signal,
)
from jaxdiff.errors import InputError
from jaxdiff.typing import Array, ArrayLike, Level, Timesteps

OUTSIDE = "Build the schedule outside jit, grad and vmap, or fill a Schedule"
"""Remedy for traced options of a schedule."""
TIME_SCALE = 1000.0
_MOST_LOG = 80.0  # largest |log| of a number in float32, with a margin


@dataclass(frozen=True, kw_only=True)
class ContinuousSchedule:
    """Base of the schedules that are formulas.

    A member defines the formula `_level(u)`, its inverse `_inverse(log_snr)`, and the
    checks of `build`. The option object is its own schedule: a pytree without leaves,
    whose numbers are constants of compiled functions.
    """

    num_steps: Annotated[int, Ge(2), Le(MOST_STEPS)] = 1000
    """Number of steps T of a sampler that visits all times; training draws any time in
    0..1."""

    @property
    def times(self) -> Timesteps:
        """Times of all steps [T], equally spaced from 0 to 1."""
        return jnp.linspace(0.0, 1.0, self.num_steps)

    @property
    def prior_scale(self) -> float:
        """Standard deviation of the noise that sampling starts from."""
        return 1.0

    @property
    def has_terminal_signal(self) -> bool:
        """True if alpha > 0 at time 1."""
        return True

    def build(self) -> "ContinuousSchedule":
        """Checks the options and returns this object, which is the schedule.

        Raises:
            InputError: an option is out of range.

        Warns:
            UserWarning: the noisiest level keeps visible signal.
        """
        check_options(self)
        self._check()
        with jax.ensure_compile_time_eval():  # also inside jit
            last = self.level(1.0)
            share = float(last.alpha / jnp.hypot(last.alpha, last.sigma))
        warn_visible_signal(share)
        return self

    def time(self, u: Array) -> Timesteps:
        """Returns the time at the fraction u of the range: u itself."""
        return u

    def level(self, t: ArrayLike | int | float) -> Level:
        """Returns the level at times t, floats [] or [batch] in 0..1.

        Raises:
            InputError: t is concrete and out of range.
        """
        return self._level(_checked(t))

    def next_level(self, t: Timesteps | int | float) -> Level:
        """Returns the level 1 / (T - 1) nearer the data than t, or the data.

        Raises:
            InputError: t is concrete and out of range.
        """
        step = 1 / (self.num_steps - 1)
        s = _checked(t) - step
        level = self._level(jnp.maximum(s, 0.0))
        done = s < -1e-3 * step  # beyond 0 by more than rounding
        return Level(
            level.t,
            jnp.where(done, jnp.ones_like(level.alpha), level.alpha),
            jnp.where(done, jnp.zeros_like(level.sigma), level.sigma),
        )

    def fraction_of_log_snr(self, log_snr: Array) -> Array:
        """Returns the time with this log-SNR, clipped to 0..1."""
        return jnp.clip(self._inverse(log_snr), 0.0, 1.0)

    def level_of_log_snr(self, log_snr: Array) -> Level:
        """Returns the level with this log-SNR, clipped to the schedule's range."""
        return self._level(self.fraction_of_log_snr(log_snr))

    def _check(self) -> None:
        """Raises `InputError` if fields contradict each other."""

    def _level(self, u: Array) -> Level:
        raise NotImplementedError

    def _inverse(self, log_snr: Array) -> Array:
        raise NotImplementedError


@jax.tree_util.register_static
@dataclass(frozen=True, kw_only=True)
class VP(ContinuousSchedule):
    """DDPM in continuous time, equation (1): beta(t) is linear in t."""

    FLAG: ClassVar[str] = "variance-preserving"

    beta_min: float = 0.1
    """Value of beta at t = 0, in [0, beta_max)."""
    beta_max: float = 20.0
    """Value of beta at t = 1, above beta_min."""
    t_min: Annotated[float, Interval(gt=0, lt=1)] = 1e-3
    """Time of the least noisy level; 1e-3 gives DDPM's sigma of 0.01."""

    def _check(self) -> None:
        if not 0 <= self.beta_min < self.beta_max < math.inf:
            raise InputError(
                "beta_min must lie in [0, beta_max), got "
                f"{self.beta_min:g} and {self.beta_max:g}"
            )

    def _level(self, u: Array) -> Level:
        t = self.t_min + (1 - self.t_min) * u
        slope = self.beta_max - self.beta_min
        log_alpha = -(t**2) * slope / 4 - t * self.beta_min / 2
        sigma = jnp.sqrt(-jnp.expm1(2 * log_alpha))
        return Level(TIME_SCALE * t, jnp.exp(log_alpha), sigma)

    def _inverse(self, log_snr: Array) -> Array:
        # -2 log alpha = log(1 + 1/SNR) is a quadratic in t.
        c = jnp.clip(nn.softplus(-log_snr), 1e-35, 1e9)  # the limits avoid 0/0
        slope = self.beta_max - self.beta_min
        t = 2 * c / (self.beta_min + jnp.sqrt(self.beta_min**2 + 2 * slope * c))
        return (t - self.t_min) / (1 - self.t_min)


@jax.tree_util.register_static
@dataclass(frozen=True, kw_only=True)
class VE(ContinuousSchedule):
    """Noise added to an unscaled image, equation (2): the levels of EDM."""

    FLAG: ClassVar[str] = "variance-exploding"

    sigma_min: float = 0.002
    """Value of sigma at the least noisy level, above 0."""
    sigma_max: float = 80.0
    """Value of sigma at time 1, above sigma_min."""
    rho: IsFinite[Annotated[float, Gt(0)]] = 7.0
    """Exponent of the levels; a larger one places more levels at small sigma."""
    time_scale: IsFinite[Annotated[float, Gt(0)]] = TIME_SCALE
    """Factor of the network's time: it is time_scale / 4 log sigma. EDM's own networks,
    and diffusers', take 1."""

    @property
    def prior_scale(self) -> float:
        """Standard deviation of the noise that sampling starts from: sigma_max."""
        return self.sigma_max

    def _check(self) -> None:
        if not 0 < self.sigma_min < self.sigma_max < math.inf:
            raise InputError(
                "sigma_min must lie in (0, sigma_max), got "
                f"{self.sigma_min:g} and {self.sigma_max:g}"
            )
        largest = max(abs(math.log(s)) for s in (self.sigma_min, self.sigma_max))
        if largest / self.rho > _MOST_LOG:
            raise InputError(
                f"rho must be at least {largest / _MOST_LOG:.3g} for sigma from "
                f"{self.sigma_min:g} to {self.sigma_max:g}, got {self.rho:g}"
            )

    def _level(self, u: Array) -> Level:
        low, high = (s ** (1 / self.rho) for s in (self.sigma_min, self.sigma_max))
        sigma = (low + u * (high - low)) ** self.rho
        return Level(self.time_scale / 4 * jnp.log(sigma), jnp.ones_like(sigma), sigma)

    def _inverse(self, log_snr: Array) -> Array:
        low, high = (s ** (1 / self.rho) for s in (self.sigma_min, self.sigma_max))
        return (jnp.exp(-log_snr / (2 * self.rho)) - low) / (high - low)


@jax.tree_util.register_static
@dataclass(frozen=True, kw_only=True)
class RectifiedFlow(ContinuousSchedule):
    """Straight line from the data to pure noise (flow matching), equation (3)."""

    FLAG: ClassVar[str] = "straight-path"

    t_min: Annotated[float, Interval(gt=0, lt=1)] = 1e-3
    """Time of the least noisy level, before the shift."""
    shift: IsFinite[Annotated[float, Gt(0)]] = 1.0
    """Shift of the times, in training and sampling: above 1 towards the noise, for
    large images; 1 for none."""

    @property
    def has_terminal_signal(self) -> bool:
        """False: time 1 is pure noise."""
        return False

    def _level(self, u: Array) -> Level:
        tau = self.t_min + (1 - self.t_min) * u
        total = 1 + (self.shift - 1) * tau
        t = self.shift * tau / total
        return Level(TIME_SCALE * t, (1 - self.t_min) * (1 - u) / total, t)

    def _inverse(self, log_snr: Array) -> Array:
        t = nn.sigmoid(-log_snr / 2)
        tau = t / (self.shift - (self.shift - 1) * t)
        return (tau - self.t_min) / (1 - self.t_min)


def _checked(t: ArrayLike | int | float) -> Array:
    """Returns the times as floats, after a check that concrete ones lie in 0..1."""
    values = concrete(t)
    if values is not None and values.size:
        worst = values.min() if not values.min() >= 0 else values.max()
        if not 0 <= worst <= 1:
            raise InputError(f"t must lie in 0..1, got {worst:g}")
    t = jnp.asarray(t)
    return t if jnp.issubdtype(t.dtype, jnp.floating) else t.astype(float)


def check_options(options: Any) -> None:
    """Checks the fields of a schedule's options, which must not be traced.

    Raises:
        InputError: a field is out of its bounds, or traced by JAX.
    """
    check_fields(options)
    for name, value in vars(options).items():
        check_untraced(name, value, OUTSIDE)
