"""Flow maps: one evaluation leads from one time to any other (MeanFlow).

On the straight path x_t = (1 - t) x_0 + t eps a network u(x_t, t, r) gives the average
velocity between two times (Geng et al. 2025, equations 3 and 12):

    (1)  x_r = x_t - (t - r) u(x_t, t, r)

With u as the prediction `velocity` this is the step of DDIM, (1 - r) x_0-hat +
r eps-hat. A guidance weight extrapolates u.
"""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp

from jaxdiff.denoisers.network import with_end
from jaxdiff.errors import InputError
from jaxdiff.samplers.base import STATIC, Sampler, StepInfo
from jaxdiff.samplers.ddim import euler_step
from jaxdiff.samplers.spacing import Spacing, Trailing
from jaxdiff.schedules.continuous import RectifiedFlow
from jaxdiff.typing import AnySchedule, Array, Denoiser, Level


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class FlowMap(Sampler):
    """Sampler of MeanFlow and shortcut models, equation (1), on any time grid."""

    spacing: Spacing = field(
        default_factory=lambda: Trailing(num_steps=2), metadata=STATIC
    )
    """Time grid: the levels that the sampler visits."""

    def denoise_and_step(
        self,
        denoiser: Denoiser,
        schedule: AnySchedule,
        x_t: Array,
        info: StepInfo,
        memory: Any,
    ) -> tuple[Array, Any]:
        """Returns x_r of equation (1).

        Raises:
            InputError: the schedule is not the straight path, or the denoiser has no
                network with a second time.
        """
        check_straight(schedule, "sampler flow-map")
        end = time_of(info.next_level, info.level)
        there = with_end(denoiser, jnp.broadcast_to(end, x_t.shape[:1]))
        return euler_step(there(x_t, info.level), info.next_level), memory


def time_of(level: Level, other: Level) -> Array:
    """Returns the network's time of a level of the straight path, 0 for the data.

    It is in proportion to sigma, with the factor of the other level.
    """
    return level.sigma * (other.t / other.sigma)


def check_straight(schedule: AnySchedule, name: str) -> None:
    """Raises `InputError` if a schedule is not the straight path."""
    if not isinstance(schedule, RectifiedFlow):
        raise InputError(
            f"schedule must be straight-path for the {name}, got "
            f"{type(schedule).__name__}. Train with --schedule straight-path "
            "--prediction velocity."
        )
