"""Adams-Bashforth methods in eps-hat: PNDM (PLMS), LMS and DEIS.

In y = x_t / alpha and s = sigma / alpha the probability-flow ODE is dy / ds = eps-hat.
A multistep method replaces eps-hat by the polynomial through its values at the last
times, and integrates the polynomial over the step. The methods differ in the variable
of the polynomial:

    (1)  PNDM   the number of the step: constant weights, such as (3 e_t - e_u) / 2 for
                e at this step and at the one before (Liu et al. 2022, equation 12)
    (2)  LMS    s (Katherine Crowson's k-diffusion)
    (3)  DEIS   log s (Zhang & Chen 2023, equation 15)

A step from a level without signal, where s is infinite, is DDIM's. So is a step of DEIS
onto the data, where log s is infinite.
"""

from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.denoisers.predictions import Eps, Prediction, V
from jaxdiff.samplers.base import STATIC, Sampler, StepInfo, corrected_if
from jaxdiff.samplers.ddim import euler_step
from jaxdiff.samplers.dpm_solver import History, Order, usable
from jaxdiff.samplers.exponential import half_log_snr, integral, length, moments_of
from jaxdiff.samplers.singlestep import middle
from jaxdiff.samplers.spacing import Karras, Leading, Spacing, Trailing
from jaxdiff.typing import AnySchedule, Array, Denoiser, Estimate, Level

_WEIGHTS = np.array([
    [1, 0, 0, 0],
    [3 / 2, -1 / 2, 0, 0],
    [23 / 12, -16 / 12, 5 / 12, 0],
    [55 / 24, -59 / 24, 37 / 24, -9 / 24],
])  # fmt: skip
"""Weights of equation (1) for 1 to 4 values, the newest first."""
_QUANTITIES: dict[str, Prediction] = {"eps": Eps(), "v": V()}


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class PNDM(Sampler):
    """Pseudo linear multistep method, equation (1) (Liu et al. 2022), of order 2."""

    spacing: Spacing = field(
        default_factory=lambda: Leading(num_steps=50), metadata=STATIC
    )
    """Time grid: the levels that the sampler visits."""
    quantity: Literal["eps", "v"] = field(default="eps", metadata=STATIC)
    """Quantity that the weights apply to: eps, or v as in diffusers for networks that
    predict v."""
    start: Literal["improved-euler", "runge-kutta"] = field(
        default="improved-euler", metadata=STATIC
    )
    """Method of the first steps: one step with two evaluations (PLMS), or three with
    four (PRK)."""

    def evaluations(self, num_steps: int) -> int:
        """Returns N + 1, or N + 9 with runge-kutta; less for the fewest steps."""
        more = 1 if self.start == "improved-euler" else 3
        return num_steps + more * min(more, num_steps - 1)

    def init(self, x: Array, num_steps: int) -> History:
        """Returns a memory without estimates."""
        return History.empty(x, 3, num_steps)

    def denoise_and_step(
        self,
        denoiser: Denoiser,
        schedule: AnySchedule,
        x_t: Array,
        info: StepInfo,
        memory: History,
    ) -> tuple[Array, History]:
        """Returns x_s of equation (1), and the memory."""
        level, next_level = info.level, info.next_level
        first, quantity = denoiser(x_t, level), _QUANTITIES[self.quantity]
        signal = level.alpha > 0
        known = level._replace(alpha=jnp.where(signal, level.alpha, 1.0))
        value = quantity.target(first.x_0, first.eps, known)
        count = jnp.minimum(memory.taken + 1, 4)
        weights = jnp.asarray(_WEIGHTS, x_t.dtype)[count - 1]
        values = (value, *memory.values)
        total = sum(w * v for w, v in zip(weights, values, strict=True))
        x_s = _transfer(quantity, total, x_t, known, next_level)
        x_s = jnp.where(signal, x_s, euler_step(first, next_level))

        started = 1 if self.start == "improved-euler" else 3
        early = signal & (memory.taken < started) & (info.index > 0)
        early &= (next_level.sigma > 0) & (next_level.alpha > 0)
        correct = _STARTS[self.start, self.quantity]
        given = denoiser, x_s, x_t, value, level, next_level, schedule
        x_s = corrected_if(early, correct, *given)
        return x_s, _counted(memory.after(value, half_log_snr(level)), signal)


def _transfer(
    quantity: Prediction, value: Array, x_t: Array, level: Level, next_level: Level
) -> Array:
    """Returns DDIM's step with this eps or v (Liu et al. 2022, equation 11)."""
    return euler_step(Estimate(*quantity.denoise(value, x_t, level)), next_level)


def _improved_euler(
    quantity: Prediction,
    denoiser: Denoiser,
    x_s: Array,
    x_t: Array,
    value: Array,
    level: Level,
    next_level: Level,
    schedule: AnySchedule,
) -> Array:
    """Repeats the step with the mean of the values at both ends."""
    end = denoiser(x_s, next_level)
    mean = (value + quantity.target(end.x_0, end.eps, next_level)) / 2
    return _transfer(quantity, mean, x_t, level, next_level)


def _runge_kutta(
    quantity: Prediction,
    denoiser: Denoiser,
    x_s: Array,
    x_t: Array,
    value: Array,
    level: Level,
    next_level: Level,
    schedule: AnySchedule,
) -> Array:
    """Takes a pseudo Runge-Kutta step (Liu et al. 2022, equation 13)."""
    if jnp.issubdtype(level.t.dtype, jnp.integer):
        half = schedule.level(level.t - (level.t - next_level.t) // 2)
    else:
        half = middle(schedule, level, next_level)

    def value_at(end: Level, by: Array) -> Array:
        found = denoiser(_transfer(quantity, by, x_t, level, end), end)
        return quantity.target(found.x_0, found.eps, end)

    second = value_at(half, value)
    third = value_at(half, second)
    fourth = value_at(next_level, third)
    mean = (value + 2 * second + 2 * third + fourth) / 6
    return _transfer(quantity, mean, x_t, level, next_level)


_STARTS = {
    (start, name): partial(method, quantity)
    for start, method in (
        ("improved-euler", _improved_euler), ("runge-kutta", _runge_kutta)
    )
    for name, quantity in _QUANTITIES.items()
}  # fmt: skip
"""Methods of the first steps. They live as long as the module; see `corrected_if`."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class LMS(Sampler):
    """Linear multistep method in sigma / alpha, equation (2)."""

    spacing: Spacing = field(
        default_factory=lambda: Karras(num_steps=20), metadata=STATIC
    )
    """Time grid: the levels that the sampler visits."""
    order: Literal[1, 2, 3, 4] = field(default=4, metadata=STATIC)
    """Largest number of values of eps-hat that a step uses."""

    def init(self, x: Array, num_steps: int) -> History:
        """Returns a memory without estimates."""
        return History.empty(x, self.order - 1, num_steps)

    def step(
        self, estimate: Estimate, x_t: Array, info: StepInfo, memory: History
    ) -> tuple[Array, History]:
        """Returns x_s of equation (2), and the memory."""
        level, next_level = info.level, info.next_level
        signal = (level.alpha > 0) & (next_level.alpha > 0)
        s, s_next = (
            at.sigma / jnp.where(signal, at.alpha, 1.0) for at in (level, next_level)
        )
        count = jnp.where(signal, jnp.minimum(self.order, memory.taken + 1), 1)
        step = s_next - s
        values = (estimate.eps, *memory.values)
        theta = [(at - s) / step for at in (s, *memory.lambdas)]
        moments = step / 2, step / 3, step / 4
        sums = integral(values, theta, count, moments)
        x_s = euler_step(estimate, next_level) + next_level.alpha * sums
        return x_s, _counted(memory.after(estimate.eps, s), level.alpha > 0)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class DEIS(Sampler):
    """DEIS, multistep, equation (3): Zhang & Chen's rho-AB in log rho."""

    spacing: Spacing = field(
        default_factory=lambda: Trailing(num_steps=20), metadata=STATIC
    )
    """Time grid: the levels that the sampler visits."""
    order: Order = field(default=2, metadata=STATIC)
    """Order of the method; order 1 is DDIM."""
    lower_order_final: bool = field(default=True, metadata=STATIC)
    """If True, the last steps have a lower order. A step onto the data always has order
    1."""

    def init(self, x: Array, num_steps: int) -> History:
        """Returns a memory without estimates."""
        return History.empty(x, self.order - 1, num_steps)

    def step(
        self, estimate: Estimate, x_t: Array, info: StepInfo, memory: History
    ) -> tuple[Array, History]:
        """Returns x_s of equation (4) of `exponential`, and the memory."""
        next_level, now = info.next_level, half_log_snr(info.level)
        count = usable(self.order, self.lower_order_final, memory, info)
        h = length(now, next_level, count)
        values = (estimate.eps, *memory.values)
        theta = [(at - now) / h for at in (now, *memory.lambdas)]
        sums = integral(values, theta, count, moments_of(-h))
        x_s = euler_step(estimate, next_level) + next_level.sigma * sums
        history = memory.after(estimate.eps, now)
        return x_s, _counted(history, info.level.alpha > 0)


def _counted(history: History, signal: Array) -> History:
    """Returns the memory; without an estimate from a level without signal."""
    return history._replace(taken=jnp.where(signal, history.taken, 0))
