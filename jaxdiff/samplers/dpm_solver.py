"""DPM-Solver++, multistep (Lu et al. 2022b, algorithm 2 and appendix B).

A step evaluates the network once; earlier estimates are in the memory. `exponential`
has the maths.

The first steps have fewer estimates to use. Order 3 therefore shows in two cases only:
x_0-hat hardly changes at first, as from pure noise, or the first two steps are short.
Otherwise the error falls with the square of the step. With noise, the moments converge
with order 1 for order 1, and with order 2 for orders 2 and 3.
"""

from dataclasses import dataclass, field
from typing import Annotated, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from annotated_types import Ge, Interval

from jaxdiff.checks import above_0
from jaxdiff.samplers.base import STATIC, NoiseScale, Sampler, StepInfo
from jaxdiff.samplers.exponential import (
    first_order,
    half_log_snr,
    integral,
    length,
    moments_of,
)
from jaxdiff.samplers.spacing import Spacing, Trailing
from jaxdiff.typing import Array, Estimate

Order: TypeAlias = Annotated[int, Interval(ge=1, le=3)]
"""Order of a multistep method."""


class History(NamedTuple):
    """Memory of a multistep method.

    Attributes:
        values: x_0-hat of the steps before, newest first.
        lambdas: log(alpha / sigma) at each of these estimates, [] each.
        taken: number of steps taken, [].
        left: number of steps left, including this one, [].
    """

    values: tuple[Array, ...]
    lambdas: tuple[Array, ...]
    taken: Array
    left: Array

    @classmethod
    def empty(cls, x: Array, size: int, num_steps: int) -> "History":
        """Returns the memory before the first step, for `size` values of x's shape."""
        return cls(
            (jnp.zeros_like(x),) * size,
            (jnp.zeros((), x.dtype),) * size,
            jnp.zeros((), jnp.int32),
            jnp.full((), num_steps, jnp.int32),
        )

    def after(self, value: Array, at: Array) -> "History":
        """Returns the memory after a step with x_0-hat `value` at lambda `at`."""
        size = len(self.values)
        return History(
            (value, *self.values)[:size],
            (at, *self.lambdas)[:size],
            self.taken + 1,
            self.left - 1,
        )


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class DPMSolver(Sampler):
    """DPM-Solver++, multistep: for the ODE, or for the SDE with eta 1."""

    spacing: Spacing = field(
        default_factory=lambda: Trailing(num_steps=20), metadata=STATIC
    )
    """Time grid: the levels that the sampler visits."""
    order: Order = field(default=2, metadata=STATIC)
    """Order of the method; order 1 is DDIM."""
    eta: Annotated[float, Ge(0)] = 0.0
    """Amount of noise: 0 for the ODE, 1 for the SDE (DDPM's noise)."""
    variant: Literal["midpoint", "heun"] = field(default="midpoint", metadata=STATIC)
    """Weight of the slope of x_0 in a step of order 2: the midpoint rule, or exact
    (heun)."""
    third_order: Literal["exact", "published"] = field(default="exact", metadata=STATIC)
    """Weight of the curvature of x_0 in a step of order 3: exact, or half of that, as
    in the code of Lu et al., k-diffusion (3M SDE) and diffusers."""
    noise_scale: NoiseScale = 1.0
    """Factor of the noise (s_noise); 1 keeps the data's moments."""
    lower_order_final: bool = field(default=True, metadata=STATIC)
    """If True, the last steps have a lower order. A step onto the data always has order
    1."""

    @property
    def deterministic(self) -> bool:
        """True if eta is 0 or traced."""
        return not above_0(self.eta)

    def init(self, x: Array, num_steps: int) -> History:
        """Returns a memory without estimates."""
        return History.empty(x, self.order - 1, num_steps)

    def step(
        self, estimate: Estimate, x_t: Array, info: StepInfo, memory: History
    ) -> tuple[Array, History]:
        """Returns x_s of equation (1) of `exponential`, and the memory."""
        info = info._replace(noise=self.noise_scale * info.noise)
        x_s = first_order(estimate, info, self.eta)
        now = half_log_snr(info.level)
        if self.order > 1:
            count = usable(self.order, self.lower_order_final, memory, info)
            h = length(now, info.next_level, count)
            rate = (1 + self.eta) * h
            m_1, m_2, m_3 = moments_of(rate)
            if self.variant == "midpoint":
                m_1 = jnp.where(count == 2, -jnp.expm1(-rate) / 2, m_1)
            if self.third_order == "published":
                m_2 = m_2 / 2
            values, lambdas = (estimate.x_0, *memory.values), (now, *memory.lambdas)
            theta = [(at - now) / h for at in lambdas]
            sums = integral(values, theta, count, (m_1, m_2, m_3))
            x_s += info.next_level.alpha * sums
        return x_s, memory.after(estimate.x_0, now)


def usable(
    order: int, lower_order_final: bool, memory: History, info: StepInfo
) -> Array:
    """Returns the number of estimates that a step uses, at most `order`, an integer [].

    The number is 1 for a step onto the data, or from or to a level without signal,
    because lambda is infinite there.
    """
    count = jnp.minimum(order, memory.taken + 1)
    if lower_order_final:
        count = jnp.minimum(count, memory.left)
    level, next_level = info.level, info.next_level
    finite = (next_level.sigma > 0) & (level.alpha > 0) & (next_level.alpha > 0)
    return jnp.where(finite, count, 1)
