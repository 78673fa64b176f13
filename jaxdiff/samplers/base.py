"""The chain: a sampler's grid of levels, and one `lax.scan` over its steps."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxdiff import keys as keys_lib
from jaxdiff.denoiser import as_pytree, check_schedule
from jaxdiff.errors import InputError
from jaxdiff.typing import AnySchedule, Array, Denoiser, Estimate, Key, Level


class Sampler:
    """A rule for one step down the noise levels.

    A sampler is a frozen dataclass that derives from this class, defines `grid` and
    `step`, and is a pytree: `jax.tree_util.register_static` where its fields are plain
    choices, `jax.tree_util.register_dataclass` where some are arrays. A method that
    evaluates the denoiser more than once a step overrides `advance` instead of `step`.
    """

    def grid(self, schedule: AnySchedule) -> Level:
        """N + 1 levels, each field [N + 1], from noise to data."""
        raise NotImplementedError

    def init(self, x: Array) -> Any:
        """The memory before the first step; () for a method that keeps none."""
        return ()

    def step(
        self,
        estimate: Estimate,
        x_t: Array,
        level: Level,
        next_level: Level,
        noise: Array,
        memory: Any,
    ) -> tuple[Array, Any]:
        """One step: x at next_level, and the memory for the step after it.

        `noise` is standard Gaussian of x_t's shape; a deterministic method leaves it,
        and the compiler then draws none.
        """
        raise NotImplementedError

    def advance(
        self,
        denoiser: Denoiser,
        x_t: Array,
        level: Level,
        next_level: Level,
        noise: Array,
        memory: Any,
    ) -> tuple[Array, Any]:
        """Evaluates the denoiser once and steps."""
        estimate = denoiser(x_t, level)
        return self.step(estimate, x_t, level, next_level, noise, memory)


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
    every: int | None = None,
) -> Array:
    """Runs the whole chain from noise to images, compiled, in one `lax.scan`.

    Image i depends on (key, indices[i]) alone: it is the same by itself, in a batch,
    and on any number of devices. A denoiser that is a pytree (`bind`, the transforms of
    `guidance`) is an argument of the compiled chain: other parameters, labels or
    weights, and other keys, do not compile again.

    Args:
        denoiser: what estimates x_0 and eps.
        sampler: the rule for one step, such as `Ancestral()`.
        schedule: the noise schedule, discrete or continuous.
        key: a typed key, `jax.random.key(seed)`.
        shape: of the result, (batch, height, width, channels).
        indices: integers [batch], the images' places in the whole request; 0, 1, ... by
            default.
        x_T: where to start, float32 of `shape`, instead of the noise of the key.
        noise: the noise of every step, float32 [N, *shape] in the chain's order,
            instead of drawing it from the key.
        every: return the trajectory instead: x after every so many steps, counted
            from the last; the memory it takes grows with it.

    Returns:
        Float32 images of `shape`; with `every`, the trajectory
        [N // every + 1, *shape], whose last entry is the images.

    Raises:
        InputError: an argument does not fit the shape or the number of steps; or the
            network's prediction does not fit the schedule.
    """
    if jax.tree_util.all_leaves([sampler]):
        raise InputError(
            f"{type(sampler).__name__} is not a pytree: decorate the class with "
            "jax.tree_util.register_static"
        )
    check_schedule(denoiser, schedule)
    shape = tuple(shape)
    if not shape or min(shape) < 1:
        raise InputError(f"shape must have positive sizes; got {shape}")
    indices = jnp.arange(shape[0]) if indices is None else jnp.asarray(indices)
    if indices.shape != shape[:1]:
        raise InputError(f"indices must have shape {shape[:1]}; got {indices.shape}")
    if x_T is not None and x_T.shape != shape:
        raise InputError(f"x_T must have shape {shape}; got {x_T.shape}")
    if x_T is not None and not jnp.issubdtype(x_T.dtype, jnp.floating):
        raise InputError(f"x_T must be floating point; got {x_T.dtype}")
    if every is not None and every < 1:
        raise InputError(f"every must be at least 1; got {every}")
    return _chain(
        as_pytree(denoiser), sampler, schedule, key, shape, indices, x_T, noise, every
    )


@jax.jit(static_argnames=("shape", "every"))
def _chain(
    denoiser: Denoiser,
    sampler: Sampler,
    schedule: AnySchedule,
    key: Key,
    shape: tuple[int, ...],
    indices: Array,
    x_T: Array | None,
    noise: Array | None,
    every: int | None,
) -> Array:
    grid = sampler.grid(schedule)
    num_steps = grid.t.shape[0] - 1
    if noise is not None and noise.shape != (num_steps, *shape):
        raise InputError(
            f"noise must have shape {(num_steps, *shape)}; got {noise.shape}"
        )
    keys = keys_lib.example_keys(key, indices)

    def draw(steps_left: Array | int) -> Array:
        return keys_lib.normal(keys_lib.fold(keys, steps_left), shape[1:])

    def step(carry: tuple[Array, Any], now: Any) -> tuple[tuple[Array, Any], None]:
        x, memory = carry
        level, next_level, steps_left, given = now
        eps = draw(steps_left) if given is None else given
        return sampler.advance(denoiser, x, level, next_level, eps, memory), None

    def run(carry: tuple[Array, Any], steps: Any) -> tuple[Array, Any]:
        return jax.lax.scan(step, carry, steps)[0]

    x = schedule.prior_scale * draw(num_steps) if x_T is None else x_T
    levels = Level(*(field[:-1] for field in grid))
    next_levels = Level(*(field[1:] for field in grid))
    steps = (levels, next_levels, jnp.arange(num_steps)[::-1], noise)
    carry = (x, sampler.init(x))
    if every is None:
        return run(carry, steps)[0]

    # The trajectory: first the steps that do not fill a stride, then whole strides.
    first = num_steps % every
    carry = run(carry, jax.tree.map(lambda a: a[:first], steps))
    strides = jax.tree.map(lambda a: a[first:].reshape(-1, every, *a.shape[1:]), steps)

    def stride(carry: tuple[Array, Any], steps: Any) -> tuple[tuple[Array, Any], Array]:
        carry = run(carry, steps)
        return carry, carry[0]

    _, states = jax.lax.scan(stride, carry, strides)
    return jnp.concatenate([carry[0][None], states])
