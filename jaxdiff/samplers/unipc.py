"""UniPC: a predictor, and a corrector at no cost (Zhao et al. 2023).

The predictor UniP of order p is the method of `exponential`. The next step evaluates
the network at the predicted x_s. The corrector UniC then repeats the last step with
this estimate in its polynomial, and the next step starts from the result. A step
therefore needs one evaluation. The order of convergence is p + 1 (theorem 3.1 of the
paper), if the start is accurate enough.
"""

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from jaxdiff.denoisers.predictions import eps_of
from jaxdiff.samplers.base import STATIC, Sampler, StepInfo
from jaxdiff.samplers.ddim import euler_step
from jaxdiff.samplers.dpm_solver import History, Order, usable
from jaxdiff.samplers.exponential import half_log_snr, integral, length, moments_of
from jaxdiff.samplers.spacing import Spacing, Trailing
from jaxdiff.typing import Array, Estimate, Level


class Step(NamedTuple):
    """Last step, for the corrector, and the steps before it.

    Attributes:
        estimate: estimate at its start, [batch, ...].
        level: level of its start.
        order: number of estimates that it used, [].
        history: estimates before this one.
    """

    estimate: Estimate
    level: Level
    order: Array
    history: History


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class UniPC(Sampler):
    """UniPC, multistep, in x_0."""

    spacing: Spacing = field(
        default_factory=lambda: Trailing(num_steps=20), metadata=STATIC
    )
    """Time grid: the levels that the sampler visits."""
    order: Order = field(default=2, metadata=STATIC)
    """Order p of the predictor."""
    variant: Literal["bh1", "bh2"] = field(default="bh2", metadata=STATIC)
    """Function B(h) that weighs the slope between two estimates: h (bh1) or 1 - e^-h
    (bh2)."""
    lower_order_final: bool = field(default=True, metadata=STATIC)
    """If True, the last steps have a lower order. A step onto the data always has order
    1."""

    def init(self, x: Array, num_steps: int) -> Step:
        """Returns a memory without a step to correct."""
        one = jnp.ones((), x.dtype)
        return Step(
            Estimate(jnp.zeros_like(x), jnp.zeros_like(x)),
            Level(one, one, one),
            jnp.zeros((), jnp.int32),
            History.empty(x, self.order, num_steps),
        )

    def step(
        self, estimate: Estimate, x_t: Array, info: StepInfo, memory: Step
    ) -> tuple[Array, Step]:
        """Corrects the last step with the new estimate, then predicts the next."""
        last, history = memory, memory.history
        level, next_level = info.level, info.next_level
        corrected = self._polynomial_step(
            last.estimate, last.level, level, last.order + 1,
            (estimate.x_0, *history.values[1:]),
            (half_log_snr(level), *history.lambdas[1:]),
        )  # fmt: skip
        # The first step has nothing to correct. Without signal, lambda is infinite.
        usual = (history.taken > 0) & (last.level.alpha > 0) & (level.alpha > 0)
        x_t = jnp.where(usual, corrected, x_t)
        estimate = Estimate(estimate.x_0, eps_of(estimate.x_0, x_t, level))
        count = usable(self.order, self.lower_order_final, history, info)
        x_s = self._polynomial_step(
            estimate, level, next_level, count,
            history.values[: self.order - 1], history.lambdas[: self.order - 1],
        )  # fmt: skip
        started = Level(*(field.astype(x_t.dtype) for field in level))
        history = history.after(estimate.x_0, half_log_snr(level))
        return x_s, Step(estimate, started, count, history)

    def _polynomial_step(
        self,
        estimate: Estimate,
        level: Level,
        next_level: Level,
        count: Array,
        values: tuple[Array, ...],
        lambdas: tuple[Array, ...],
    ) -> Array:
        """Returns a step by the polynomial through the estimate and other x_0."""
        x_s = euler_step(estimate, next_level)
        now = half_log_snr(level)
        h = length(now, next_level, count)
        slope = h / 2 if self.variant == "bh1" else -jnp.expm1(-h) / 2
        theta = [jnp.zeros_like(h), *((at - now) / h for at in lambdas)]
        m_1, m_2, m_3 = moments_of(h)
        m_1 = jnp.where(count == 2, slope, m_1)
        every = (estimate.x_0, *values)
        sums = integral(every, theta, count, (m_1, m_2, m_3))
        return x_s + next_level.alpha * sums
