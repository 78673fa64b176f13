"""One step of the sampling loop, for `sample` and for `sample_steps`."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from jaxdiff import rng
from jaxdiff.typing import (
    AnySchedule,
    Array,
    Denoiser,
    Estimate,
    Key,
    Level,
    StepInfo,
)

if TYPE_CHECKING:
    from jaxdiff.samplers.base import Sampler


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class InType:
    """Denoiser whose estimates have the type of the sampling loop."""

    denoiser: Denoiser
    dtype: Any = field(metadata={"static": True})

    def __call__(self, x_t: Array, level: Level, /) -> Estimate:
        """Returns the denoiser's estimate, in the loop's dtype."""
        found = self.denoiser(x_t, level)
        return jax.tree.map(lambda a: a.astype(self.dtype), found)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Loop:
    """Parts that all steps of a loop share; the denoiser has the loop's dtype."""

    denoiser: InType
    sampler: "Sampler"
    schedule: AnySchedule
    key: Key
    indices: Array

    def start(self, scale: Array, num_steps: int, shape: tuple[int, ...]) -> Array:
        """Returns the noise that the loop starts from, of `shape`."""
        noise = rng.step_noise(self.key, self.indices, num_steps, shape[1:])
        dtype = self.denoiser.dtype
        return scale.astype(dtype) * noise.astype(dtype)

    def step(
        self,
        carry: tuple[Array, Any],
        level: Level,
        next_level: Level,
        steps_left: Array,
        given: Array | None = None,
    ) -> tuple[Array, Any]:
        """Returns x and the memory after one step.

        Args:
            carry: x and the sampler's memory.
            level: level of x.
            next_level: level to step to.
            steps_left: number of steps after this one, [].
            given: noise of the step instead of noise from the key.
        """
        x, memory = carry
        draws = self.sampler.draws
        if given is None:
            shape = x.shape[1:] if draws == 1 else (2, *x.shape[1:])
            noise = rng.step_noise(self.key, self.indices, steps_left, shape)
            given = noise.astype(self.denoiser.dtype)
            given = given if draws == 1 else given.swapaxes(0, 1)
        eps, more = (given, None) if draws == 1 else (given[0], given[1])
        info = StepInfo(level, next_level, eps, steps_left, more)
        return self.sampler.denoise_and_step(
            self.denoiser, self.schedule, x, info, memory
        )


def loop_dtype(x_T: Array | None) -> Any:
    """Returns the dtype of a sampling loop: that of x_T, but at least float32."""
    # Neighbouring levels would be equal in 16 bits.
    dtype = jnp.dtype(jnp.float32)
    if x_T is not None and x_T.dtype.itemsize > dtype.itemsize:
        return x_T.dtype
    return dtype


def in_dtype(grid: Level, dtype: Any) -> Level:
    """Returns levels in the dtype of a loop; integer times stay integers."""
    float_times = jnp.issubdtype(grid.t.dtype, jnp.floating)
    return Level(
        grid.t.astype(dtype) if float_times else grid.t,
        grid.alpha.astype(dtype),
        grid.sigma.astype(dtype),
    )
