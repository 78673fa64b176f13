"""Sampling loop: a sampler's grid of levels, and one `lax.scan` over its steps."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal, Self, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from annotated_types import Ge

from jaxdiff.checks import (
    Checked,
    check_built,
    check_object,
    check_value,
    concrete,
    field_types,
    holds_float,
)
from jaxdiff.denoisers.network import as_pytree, check_schedule
from jaxdiff.errors import InputError
from jaxdiff.samplers.loop import InType, Loop, in_dtype, loop_dtype
from jaxdiff.samplers.spacing import AllTimes, Spacing
from jaxdiff.typing import AnySchedule, Array, Denoiser, Estimate, Key, Level
from jaxdiff.typing import StepInfo as StepInfo

STATIC = {"static": True}
"""Metadata of a field that is not an array; another value compiles another loop."""


NoiseScale: TypeAlias = Annotated[float, Ge(0)]
"""Factor of the noise that a sampler adds (s_noise)."""


@dataclass(frozen=True, kw_only=True)
class Sampler(Checked):
    """Rule for one step down the noise levels.

    A sampler is a frozen dataclass that derives from this class and defines `step`. It
    is a pytree: decorate it with `jax.tree_util.register_dataclass`. Fields that are
    choices, not numbers, have the metadata `STATIC`. A method that evaluates the
    denoiser more than once per step overrides `denoise_and_step` instead of `step`.
    """

    spacing: Spacing = field(default_factory=AllTimes, metadata=STATIC)
    """Time grid: the levels that the sampler visits."""

    def grid(self, schedule: AnySchedule) -> Level:
        """Returns N + 1 levels from noise to data, each field [N + 1]."""
        return self.spacing.levels(schedule)

    def start_scale(self, schedule: AnySchedule, grid: Level) -> Array:
        """Returns the standard deviation of the noise that the loop starts from, [].

        A spacing with a method `start_scale` sets it; see `prior_scale` for the others.
        """
        own = getattr(self.spacing, "start_scale", None)
        return prior_scale(schedule, grid) if own is None else own(grid)

    @property
    def draws(self) -> Literal[1, 2]:
        """Number of independent noises per step."""
        return 1

    def evaluations(self, num_steps: int) -> int:
        """Returns the number of network evaluations (NFE), the cost of sampling.

        Args:
            num_steps: number of steps, the last one onto the data.
        """
        return num_steps

    @property
    def deterministic(self) -> bool:
        """True if the step ignores `noise`, or if that depends on a traced value."""
        return True

    def rule(self) -> Self:
        """Returns the sampler without its spacing: the input of the compiled loop."""
        return replace(self, spacing=AllTimes())

    def init(self, x: Array, num_steps: int) -> Any:
        """Returns the memory before the first step; () for a method without memory."""
        return ()

    def step(
        self, estimate: Estimate, x_t: Array, info: StepInfo, memory: Any
    ) -> tuple[Array, Any]:
        """Returns x at `info.next_level`, and the memory for the step after it.

        A deterministic method ignores `info.noise`.
        """
        raise NotImplementedError

    def denoise_and_step(
        self,
        denoiser: Denoiser,
        schedule: AnySchedule,
        x_t: Array,
        info: StepInfo,
        memory: Any,
    ) -> tuple[Array, Any]:
        """Evaluates the denoiser once and returns the result of `step`."""
        return self.step(denoiser(x_t, info.level), x_t, info, memory)


def sample(
    denoiser: Denoiser,
    sampler: Sampler,
    schedule: AnySchedule,
    key: Key,
    shape: tuple[int, ...],
    *,
    indices: Array | None = None,
    x_T: Array | None = None,
    noise: Array | None = None,
    levels: Level | None = None,
    every: int | None = None,
) -> Array:
    """Runs all steps from noise to images, compiled, in one `lax.scan`.

    Image i depends on (key, indices[i]) alone: it is the same by itself, in a batch,
    and on any number of devices.

    Numbers are arguments of the compiled loop: the levels, the sampler's numbers, and a
    denoiser that is a pytree (`bind`, the transforms of `guidance`). Other parameters,
    labels, guidance weights, keys, eta, churn or time grids therefore need no new
    compilation. Two changes need one: another number of steps, and times between
    integers after integer times.

    Args:
        denoiser: denoiser, which estimates x_0 and eps.
        sampler: rule for one step, such as `DDPM()`.
        schedule: noise schedule, discrete or continuous.
        key: typed key, `jax.random.key(seed)`.
        shape: shape of the result, (batch, height, width, channels).
        indices: places of the images in the whole request, integers [batch]; 0, 1, ...
            by default.
        x_T: start of the sampling loop, floats of `shape`, instead of noise from the
            key. The loop computes in x_T's dtype, but at least in float32.
        noise: noise of all steps in their order, [N, *shape], instead of noise from the
            key; [N, 2, *shape] for a sampler with `draws` 2.
        levels: levels to visit instead of the sampler's own grid, each field [N + 1].
        every: number of steps between the returned states, counted back from the last
            step. None returns the images only. The memory grows with the number of
            states.

    Returns:
        Images of `shape`, in the dtype of the computation; with `every`, the trajectory
        [N // every + 1, *shape], whose last entry is the images.

    Raises:
        InputError: an argument does not match the shape or the number of steps, two
            neighbouring levels are equal, a number of the sampler is an array, or the
            network's prediction does not fit the schedule.
    """
    check_parts(denoiser, sampler, schedule)
    shape = tuple(shape)
    if not shape or min(shape) < 1:
        raise InputError(f"shape must have positive sizes, got {shape}")
    indices = jnp.arange(shape[0]) if indices is None else jnp.asarray(indices)
    if indices.shape != shape[:1]:
        raise InputError(f"indices must have shape {shape[:1]}, got {indices.shape}")
    if x_T is not None and x_T.shape != shape:
        raise InputError(f"x_T must have shape {shape}, got {x_T.shape}")
    if x_T is not None and not jnp.issubdtype(x_T.dtype, jnp.floating):
        raise InputError(f"x_T must be floating point, got {x_T.dtype}")
    if every is not None:
        check_value("every", every, Annotated[int, Ge(1)])
        every = int(every)
    check_numbers(sampler)
    grid = sampler.grid(schedule) if levels is None else levels
    check_grid(grid)
    num_steps = grid.alpha.shape[0] - 1
    drawn = (num_steps, *(() if sampler.draws == 1 else (2,)), *shape)
    if noise is not None and noise.shape != drawn:
        raise InputError(f"noise must have shape {drawn}, got {noise.shape}")
    scale = sampler.start_scale(schedule, grid)
    return _chain(
        as_pytree(denoiser), sampler.rule(), schedule, grid, scale, key, shape, indices,
        x_T, noise, every,
    )  # fmt: skip


def check_parts(denoiser: Denoiser, sampler: Sampler, schedule: AnySchedule) -> None:
    """Checks the parts of a sampling loop.

    Raises:
        InputError: the sampler is a class, no pytree, or lacks a step; the schedule is
            not built; or the network's prediction does not fit the schedule.
    """
    check_object("sampler", sampler, "grid", "denoise_and_step")
    kind: Any = type(sampler)
    if jax.tree_util.all_leaves([sampler]):
        raise InputError(
            f"sampler must be a pytree, got {kind.__name__}. Decorate the class with "
            "jax.tree_util.register_dataclass."
        )
    if (kind.step, kind.denoise_and_step) == (Sampler.step, Sampler.denoise_and_step):
        raise InputError(
            f"sampler must define the method step, got {kind.__name__} without."
        )
    check_built(schedule, "times", "prior_scale")
    check_schedule(denoiser, schedule)


def check_grid(grid: Level) -> None:
    """Checks the levels of a sampling loop; values that `jit` traces are skipped.

    Raises:
        InputError: the fields do not have one shape [N + 1], N at least 1, or two
            neighbouring levels are equal.
    """
    shapes = [jnp.shape(field) for field in grid]
    if len({*shapes}) > 1 or len(shapes[0]) != 1 or shapes[0][0] < 2:
        raise InputError(
            "levels must have fields of one shape [N + 1], N at least 1, got "
            f"{', '.join(map(str, shapes))}"
        )
    alpha, sigma = concrete(grid.alpha), concrete(grid.sigma)
    if alpha is not None and sigma is not None:
        equal = (alpha[1:] == alpha[:-1]) & (sigma[1:] == sigma[:-1])
        if equal.any():
            place = int(equal.argmax())
            raise InputError(
                "levels must change in each step, got equal levels at "
                f"{place} and {place + 1}. Take fewer steps, or remove one level."
            )


def check_numbers(sampler: Sampler) -> None:
    """Checks that a sampler's numbers, such as eta, are single numbers.

    Raises:
        InputError: a number is an array, such as one number per image.
    """
    cls: Any = type(sampler)
    for name, hint in field_types(cls).items():
        value = getattr(sampler, name)
        if isinstance(value, Sampler):
            check_numbers(value)
        elif holds_float(hint) and np.ndim(value):
            raise InputError(
                f"{name} must be one number for all images, got shape "
                f"{np.shape(value)}. Use jax.vmap for several."
            )


def corrected_if(
    usual: Array,
    correct: Callable[..., Array],
    denoiser: Denoiser,
    x_s: Array,
    *of: Any,
) -> Array:
    """Returns `correct(denoiser, x_s, *of)` if `usual` is True, else x_s.

    The branches live as long as the module and close over no array: JAX keeps their
    traces by the functions.
    """
    return jax.lax.cond(usual, correct, _unchanged, as_pytree(denoiser), x_s, *of)


def _unchanged(denoiser: Denoiser, x_s: Array, *of: Any) -> Array:
    return x_s


@jax.jit(static_argnames=("shape", "every"))
def _chain(
    denoiser: Denoiser,
    sampler: Sampler,
    schedule: AnySchedule,
    grid: Level,
    scale: Array,
    key: Key,
    shape: tuple[int, ...],
    indices: Array,
    x_T: Array | None,
    noise: Array | None,
    every: int | None,
) -> Array:
    num_steps = grid.alpha.shape[0] - 1
    dtype = loop_dtype(x_T)
    grid = in_dtype(grid, dtype)
    loop = Loop(InType(denoiser, dtype), sampler, schedule, key, indices)

    def step(carry: tuple[Array, Any], now: Any) -> tuple[tuple[Array, Any], None]:
        return loop.step(carry, *now), None

    def run(carry: tuple[Array, Any], steps: Any) -> tuple[Array, Any]:
        return jax.lax.scan(step, carry, steps)[0]

    x = loop.start(scale, num_steps, shape)  # checks the key, too
    if x_T is not None:
        x = x_T.astype(dtype)
    levels = Level(*(field[:-1] for field in grid))
    next_levels = Level(*(field[1:] for field in grid))
    steps = (levels, next_levels, jnp.arange(num_steps)[::-1], noise)
    carry = (x, sampler.init(x, num_steps))
    if every is None:
        return run(carry, steps)[0]

    # Trajectory: first the steps that do not fill a stride, then whole strides.
    first = num_steps % every
    carry = run(carry, jax.tree.map(lambda a: a[:first], steps))
    strides = jax.tree.map(lambda a: a[first:].reshape(-1, every, *a.shape[1:]), steps)

    def stride(carry: tuple[Array, Any], steps: Any) -> tuple[tuple[Array, Any], Array]:
        carry = run(carry, steps)
        return carry, carry[0]

    _, states = jax.lax.scan(stride, carry, strides)
    return jnp.concatenate([carry[0][None], states])


def prior_scale(schedule: AnySchedule, grid: Level) -> Array:
    """Returns the standard deviation of the noise at a grid's first level, [].

    It is the schedule's own at the schedule's noisiest level. From there it falls like
    the standard deviation of x_t for data of unit variance.
    """
    noisiest = schedule.level(schedule.times[-1])
    spread = jnp.hypot(grid.alpha[0], grid.sigma[0])
    whole = jnp.hypot(noisiest.alpha, noisiest.sigma).astype(spread.dtype)
    return schedule.prior_scale * spread / whole
