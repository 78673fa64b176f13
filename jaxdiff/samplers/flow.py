"""Solvers of flow matching, along a straight path.

The path is from Liu et al. 2023 and Lipman et al. 2023.

On the straight path x_t = (1 - t) x_0 + t eps the probability-flow ODE is

    (1)  dx / dt = eps-hat - x_0-hat, the velocity

A scale turns any other schedule into this path: z = x_t / (alpha + sigma) at the time
tau = sigma / (alpha + sigma). A step from tau to tau':

    (2)  Euler:  z' = z + (tau' - tau) velocity(z, tau)
    (3)  Heun:   z'' = z' + (tau' - tau) / 2 (velocity(z', tau') - velocity(z, tau))

(2) is DDIM's step. These coordinates stay finite in pure noise, unlike EDM's.
"""

from dataclasses import dataclass, field
from typing import Any

import jax

from jaxdiff.samplers.base import STATIC, Sampler, StepInfo, corrected_if
from jaxdiff.samplers.ddim import euler_step
from jaxdiff.samplers.spacing import Linspace, Spacing, Trailing
from jaxdiff.typing import AnySchedule, Array, Denoiser, Estimate, Level


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class FlowEuler(Sampler):
    """Euler's rule along the straight path, equation (2)."""

    spacing: Spacing = field(default_factory=Trailing, metadata=STATIC)
    """Time grid: the levels that the sampler visits."""

    def step(
        self, estimate: Estimate, x_t: Array, info: StepInfo, memory: Any
    ) -> tuple[Array, Any]:
        """Returns x_s of equation (2)."""
        return euler_step(estimate, info.next_level), memory


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class FlowHeun(Sampler):
    """Heun's second-order rule along the straight path, equation (3).

    A step evaluates the network twice, except for the last one.
    """

    spacing: Spacing = field(
        default_factory=lambda: Linspace(num_steps=20), metadata=STATIC
    )
    """Time grid: the levels that the sampler visits."""

    def evaluations(self, num_steps: int) -> int:
        """Returns 2 N - 1, the NFE of N steps."""
        return 2 * num_steps - 1

    def denoise_and_step(
        self,
        denoiser: Denoiser,
        schedule: AnySchedule,
        x_t: Array,
        info: StepInfo,
        memory: Any,
    ) -> tuple[Array, Any]:
        """Returns x_s of equation (3), or of equation (2) onto the data."""
        level, next_level = info.level, info.next_level
        first = denoiser(x_t, level)
        x_s = euler_step(first, next_level)

        given = denoiser, x_s, first, level, next_level
        return corrected_if(next_level.sigma > 0, _corrected, *given), memory


def _corrected(
    denoiser: Denoiser, x_s: Array, first: Estimate, level: Level, next_level: Level
) -> Array:
    """Returns x_s of equation (3)."""
    second = denoiser(x_s, next_level)
    change = (second.eps - second.x_0) - (first.eps - first.x_0)
    tau = level.sigma / (level.alpha + level.sigma)
    # The step from tau to tau', in the scale of x_s.
    step = next_level.sigma - (next_level.alpha + next_level.sigma) * tau
    return x_s + step / 2 * change
