"""Time sampling: the times that training draws, and their importance weights.

One uniform number u' of an example becomes the fraction u of the schedule's range at
which the example is noised. With density p(u) of u, the loss has the weight 1 / p(u):

    (1)  E_{u ~ p} [loss(u) / p(u)] = E_{u uniform} [loss(u)]

The expected loss is thus unchanged. Its variance is smallest for

    (2)  p(u) ~ sqrt(E[loss(u)^2])                   (Nichol & Dhariwal 2021, eq. 18)
"""

from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from annotated_types import Gt, Interval
from jax.scipy.special import ndtri

from jaxdiff.checks import Checked, Share
from jaxdiff.typing import AnySchedule, Array


@dataclass(frozen=True, kw_only=True)
class UniformTimes(Checked):
    """Uniform distribution of the times."""

    def init(self) -> Any:
        """Returns the memory before the first step."""
        return ()

    def draw(self, u: Array, schedule: AnySchedule, memory: Any) -> tuple[Array, Array]:
        """Returns fractions of the range, and weights of the loss, [batch] each.

        Args:
            u: uniform numbers in [0, 1), [batch].
            schedule: noise schedule.
            memory: memory that `init` or `update` returned.
        """
        return u, jnp.ones_like(u)

    def observe(self, u: Array, losses: Array) -> Any:
        """Returns the observations of a step, as means over the batch.

        Devices and accumulated parts can average them.
        """
        return ()

    def update(self, memory: Any, seen: Any) -> Any:
        """Returns the memory after a step with the observations `seen`."""
        return memory


class History(NamedTuple):
    """Discounted sums over steps, by bin of the time range.

    Attributes:
        steps: number of steps, int32 [].
        squares: sums of the squared losses, float32 [bins].
        shares: sums of the shares of the examples, float32 [bins].
    """

    steps: Array
    squares: Array
    shares: Array


@dataclass(frozen=True, kw_only=True)
class LossHistory(UniformTimes):
    """Times in proportion to the size of their recent losses, equation (2).

    The density is constant within each of the bins of the time range. The weights of
    equation (1) keep the loss unbiased.
    """

    bins: Annotated[int, Interval(ge=1, le=1000)] = 100  # distinct in float32
    """Number of bins of the time range."""
    discount: Share = 0.99
    """Factor per step on the earlier losses."""
    warmup_steps: int = 100
    """Number of first steps with uniform times."""
    uniform_share: Annotated[float, Interval(gt=0, le=1)] = 0.01
    """Share of times that are uniform after these steps, too."""

    def init(self) -> History:
        """Returns the empty history."""
        zeros = jnp.zeros(self.bins, jnp.float32)
        return History(jnp.zeros((), jnp.int32), zeros, jnp.copy(zeros))

    def probabilities(self, memory: History) -> Array:
        """Returns the probability of each bin, [bins]."""
        seen = memory.shares > 1e-9
        size = jnp.where(
            seen, jnp.sqrt(memory.squares / jnp.where(seen, memory.shares, 1.0)), 0.0
        )
        # A bin without observations has the average size.
        average = size.sum() / jnp.maximum(seen.astype(size.dtype).sum(), 1.0)
        size = jnp.where(seen, size, average)
        warm = (memory.steps >= self.warmup_steps) & (average > 0)
        even = jnp.full_like(size, 1 / self.bins)
        share = jnp.where(warm, self.uniform_share, 1.0)
        return share * even + (1 - share) * size / jnp.maximum(size.sum(), 1e-30)

    def draw(
        self, u: Array, schedule: AnySchedule, memory: History
    ) -> tuple[Array, Array]:
        """Returns fractions of the range, and weights of the loss, [batch] each."""
        p = self.probabilities(memory)
        ends = jnp.cumsum(p)
        place = jnp.minimum(
            jnp.searchsorted(ends, u * ends[-1], side="right"), self.bins - 1
        )
        within = (u * ends[-1] - (ends - p)[place]) / p[place]
        drawn = (place.astype(u.dtype) + jnp.clip(within, 0.0, 0.9999)) / self.bins
        return drawn, 1 / (self.bins * p[place])

    def observe(self, u: Array, losses: Array) -> Any:
        """Returns the means over the batch of each bin's squared losses and share."""
        place = jax.nn.one_hot(jnp.floor(u * self.bins).astype(jnp.int32), self.bins)
        return (place * losses[:, None] ** 2).mean(axis=0), place.mean(axis=0)

    def update(self, memory: History, seen: Any) -> History:
        """Returns the history after a step."""
        squares, shares = (a.astype(memory.squares.dtype) for a in seen)
        return History(
            memory.steps + 1,
            self.discount * memory.squares + squares,
            self.discount * memory.shares + shares,
        )


@dataclass(frozen=True, kw_only=True)
class LogNormal(UniformTimes):
    """Gaussian distribution of log(sigma / alpha) (Karras et al. 2022, section 5).

    It has no importance weights, unlike `LossHistory`: the distribution is part of the
    objective. On a straight path, mean 0 and deviation 1 give the logit-normal
    distribution of Esser et al. 2024 (section 3.1).
    """

    mean: float = -1.2
    """Mean of log(sigma / alpha)."""
    deviation: Annotated[float, Gt(0)] = 1.2
    """Standard deviation of log(sigma / alpha), above 0."""

    def draw(self, u: Array, schedule: AnySchedule, memory: Any) -> tuple[Array, Array]:
        """Returns fractions of the range, and weights of the loss, [batch] each."""
        log_ratio = self.mean + self.deviation * ndtri(jnp.clip(u, 1e-7, 1 - 1e-7))
        return schedule.fraction_of_log_snr(-2 * log_ratio), jnp.ones_like(u)


TimesOptions: TypeAlias = UniformTimes | LossHistory | LogNormal
