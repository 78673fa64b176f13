"""The sampling loop step by step, to show an image while it forms."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from jaxdiff.denoisers.network import as_pytree
from jaxdiff.errors import InputError
from jaxdiff.samplers.base import Sampler, check_grid, check_numbers, check_parts
from jaxdiff.samplers.loop import InType, Loop, in_dtype, loop_dtype
from jaxdiff.typing import AnySchedule, Array, Denoiser, Key, Level


def sample_steps(
    denoiser: Denoiser,
    sampler: Sampler,
    schedule: AnySchedule,
    key: Key,
    shape: tuple[int, ...],
    *,
    indices: Array | None = None,
    x_T: Array | None = None,
    levels: Level | None = None,
) -> Iterator[tuple[Array, Level]]:
    """Yields the start of the sampling loop, and then the state after each step.

    The last state is the result of `sample` with the same arguments, up to rounding.
    One compiled step serves any number of steps. `sample` is faster, as it runs all
    steps without Python.

    Args:
        denoiser: denoiser, which estimates x_0 and eps.
        sampler: rule for one step.
        schedule: noise schedule, discrete or continuous.
        key: typed key, or one per image.
        shape: shape of a state, (batch, height, width, channels).
        indices: places of the images in the whole request, integers [batch]; 0, 1, ...
            by default.
        x_T: start of the loop, floats of `shape`, instead of noise from the key.
        levels: levels to visit instead of the sampler's own grid, each field [N + 1].

    Yields:
        N + 1 pairs: x of `shape`, and its level, each field [].

    Raises:
        InputError: an argument does not match the shape, as for `sample`.

    Example:
        >>> import jax, jaxdiff as jd
        >>> schedule = jd.Linear(num_steps=10, beta_end=0.9).build()
        >>> data = jd.oracles.Gaussian.of(jax.numpy.zeros((2, 2, 1)), 0.1)
        >>> args = data, jd.DDIM(), schedule, jax.random.key(0), (1, 2, 2, 1)
        >>> len(list(jd.samplers.sample_steps(*args)))
        11
    """
    check_parts(denoiser, sampler, schedule)
    check_numbers(sampler)
    grid = sampler.grid(schedule) if levels is None else levels
    check_grid(grid)
    indices = jnp.arange(shape[0]) if indices is None else jnp.asarray(indices)
    if x_T is not None and x_T.shape != tuple(shape):
        raise InputError(f"x_T must have shape {tuple(shape)}, got {x_T.shape}")
    return _steps(denoiser, sampler, schedule, grid, key, tuple(shape), indices, x_T)


def _steps(
    denoiser: Denoiser,
    sampler: Sampler,
    schedule: AnySchedule,
    grid: Level,
    key: Key,
    shape: tuple[int, ...],
    indices: Array,
    x_T: Array | None,
) -> Iterator[tuple[Array, Level]]:
    dtype = loop_dtype(x_T)
    num_steps = grid.alpha.shape[0] - 1
    inner = InType(as_pytree(denoiser), dtype)
    loop = Loop(inner, sampler.rule(), schedule, key, indices)
    if x_T is None:
        x = loop.start(sampler.start_scale(schedule, grid), num_steps, shape)
    else:
        x = x_T.astype(dtype)
    levels = in_dtype(grid, dtype)
    at = [jax.tree.map(lambda a, i=i: a[i], levels) for i in range(num_steps + 1)]
    yield x, at[0]
    # A weak type would compile the first step twice.
    memory = jax.tree.map(_strong, loop.sampler.init(x, num_steps))
    for i in range(num_steps):
        left = jnp.asarray(num_steps - 1 - i)
        x, memory = _step(loop, (x, memory), at[i], at[i + 1], left)
        yield x, at[i + 1]


@jax.jit
def _step(
    loop: Loop, carry: tuple[Array, Any], level: Level, next_level: Level, left: Array
) -> tuple[Array, Any]:
    return loop.step(carry, level, next_level, left)


def _strong(array: Any) -> Array:
    array = jnp.asarray(array)
    return jax.lax.convert_element_type(array, array.dtype)
