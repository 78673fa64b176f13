"""Which times training draws, and what makes up for drawing some more often.

One uniform number u' of an example becomes the fraction u of the schedule's range at
which it is noised. With u of density p(u), the loss is weighted by 1 / p(u), so that

    (1)  E_{u ~ p} [loss(u) / p(u)] = E_{u uniform} [loss(u)]

stays what it was, and the p that makes its variance least is

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
    """Every time equally often."""

    def init(self) -> Any:
        """What is remembered from step to step, before the first."""
        return ()

    def draw(self, u: Array, schedule: AnySchedule, memory: Any) -> tuple[Array, Array]:
        """Fractions of the schedule's range, and the loss's weights, both [batch].

        Args:
            u: uniform numbers in [0, 1), [batch].
            schedule: the noise schedule.
            memory: what `init` or `update` gave.
        """
        return u, jnp.ones_like(u)

    def observe(self, u: Array, losses: Array) -> Any:
        """What a step tells, as means over the batch (so that devices can average)."""
        return ()

    def update(self, memory: Any, seen: Any) -> Any:
        """The memory after a step that told `seen`."""
        return memory


class History(NamedTuple):
    """Discounted sums by bin of the time range.

    Attributes:
        steps: how many steps were seen, int32 [].
        squares: of the squared losses, float32 [bins].
        shares: of the examples, float32 [bins].
    """

    steps: Array
    squares: Array
    shares: Array


@dataclass(frozen=True, kw_only=True)
class LossHistory(UniformTimes):
    """Times in proportion to the size of their recent losses, equation (2).

    The range is cut into bins of equal density. Unbiased, by equation (1).
    """

    bins: Annotated[int, Interval(ge=1, le=1000)] = 100  # which float32 can tell apart
    """Into how many bins the time range is cut."""
    discount: Share = 0.99
    """What a step's losses still count in the next."""
    warmup_steps: int = 100
    """Steps with uniform times at first, until the history says something."""
    uniform_share: Annotated[float, Interval(gt=0, le=1)] = 0.01
    """The share of times drawn uniformly all along."""

    def init(self) -> History:
        """The empty history."""
        zeros = jnp.zeros(self.bins, jnp.float32)
        return History(jnp.zeros((), jnp.int32), zeros, jnp.copy(zeros))

    def probabilities(self, memory: History) -> Array:
        """How often each bin is drawn, [bins]."""
        seen = memory.shares > 1e-9
        size = jnp.where(
            seen, jnp.sqrt(memory.squares / jnp.where(seen, memory.shares, 1.0)), 0.0
        )
        # A bin that was not seen counts as the average one.
        average = size.sum() / jnp.maximum(seen.astype(size.dtype).sum(), 1.0)
        size = jnp.where(seen, size, average)
        warm = (memory.steps >= self.warmup_steps) & (average > 0)
        even = jnp.full_like(size, 1 / self.bins)
        share = jnp.where(warm, self.uniform_share, 1.0)
        return share * even + (1 - share) * size / jnp.maximum(size.sum(), 1e-30)

    def draw(
        self, u: Array, schedule: AnySchedule, memory: History
    ) -> tuple[Array, Array]:
        """Fractions of the schedule's range, and the loss's weights, both [batch]."""
        p = self.probabilities(memory)
        ends = jnp.cumsum(p)
        place = jnp.minimum(
            jnp.searchsorted(ends, u * ends[-1], side="right"), self.bins - 1
        )
        within = (u * ends[-1] - (ends - p)[place]) / p[place]
        drawn = (place.astype(u.dtype) + jnp.clip(within, 0.0, 0.9999)) / self.bins
        return drawn, 1 / (self.bins * p[place])

    def observe(self, u: Array, losses: Array) -> Any:
        """The means over the batch of each bin's squared losses and share."""
        place = jax.nn.one_hot(jnp.floor(u * self.bins).astype(jnp.int32), self.bins)
        return (place * losses[:, None] ** 2).mean(axis=0), place.mean(axis=0)

    def update(self, memory: History, seen: Any) -> History:
        """The history after a step."""
        squares, shares = seen
        return History(
            memory.steps + 1,
            self.discount * memory.squares + squares,
            self.discount * memory.shares + shares,
        )


@dataclass(frozen=True, kw_only=True)
class LogNormal(UniformTimes):
    """log(sigma / alpha) from a Gaussian (Karras et al. 2022, section 5).

    Unlike `LossHistory` it does not make up for what it draws more often: the
    distribution is part of the objective. On a straight path it is the logit-normal of
    Esser et al. 2024 (section 3.1), with mean 0 and deviation 1.
    """

    mean: float = -1.2
    """The mean of log(sigma / alpha)."""
    deviation: Annotated[float, Gt(0)] = 1.2
    """Its standard deviation."""

    def draw(self, u: Array, schedule: AnySchedule, memory: Any) -> tuple[Array, Array]:
        """Fractions of the schedule's range, and the loss's weights, both [batch]."""
        log_ratio = self.mean + self.deviation * ndtri(jnp.clip(u, 1e-7, 1 - 1e-7))
        return schedule.fraction_of_log_snr(-2 * log_ratio), jnp.ones_like(u)


TimesOptions: TypeAlias = UniformTimes | LossHistory | LogNormal
