"""Likelihood of data under a model, in bits per dimension, computed in two ways.

The first is the variational bound (`losses.variational`) with all its T terms. The
second is the exact density under the probability-flow ODE. Let s = sigma / alpha and
y = x_t / alpha = x_0 + s eps. In these variables the ODE is the same for every schedule
(Karras et al. 2022, equation 1; Song et al. 2021, section 4.3):

    (1)  dy / ds = eps-hat(alpha y, level)
    (2)  log p(y_0) = log p(y_1) + integral from s_0 to s_1 of div_y eps-hat ds

from the least noisy level s_0, where y stands for the data, to the noisiest, where
alpha y is Gaussian noise. The classical fourth-order Runge-Kutta method solves it in
log s. The divergence is the trace of a Jacobian. It is computed exactly, or estimated
as v . J v with a random sign vector v, which is unbiased (Hutchinson 1990; Grathwohl
et al. 2019).

Images have discrete grey levels, so a density over them is unbounded. Uniform noise
over a bin makes them continuous (`dequantise`), and then (Theis et al. 2016, section
3.1)

    (3)  bits per dimension <= -log2(density) / D - log2(bin width)
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff import rng
from jaxdiff.checks import at_least_float32
from jaxdiff.denoisers.network import as_pytree, check_schedule
from jaxdiff.errors import InputError
from jaxdiff.losses.variational import BIN, bound_term, prior_term
from jaxdiff.samplers.ancestral import Variance
from jaxdiff.samplers.spacing import MOST_NOISE
from jaxdiff.schedules.forward import log_snr, variance_floor
from jaxdiff.typing import AnySchedule, Array, Denoiser, Key


class BoundTerms(NamedTuple):
    """Terms of the variational bound of each example, in bits per dimension.

    Attributes:
        prior: L_T, [batch].
        terms: L_0, L_1, ..., L_{T-1}, [batch, T]; or estimates of the sums over
            neighbouring terms, [batch, num_terms].
        squared_errors: squared error of the estimated eps at the time of each term,
            mean over the image, of the shape of `terms`.
    """

    prior: Array
    terms: Array
    squared_errors: Array

    @property
    def total(self) -> Array:
        """Sum of all terms, the bound, [batch]."""
        return self.prior + self.terms.sum(axis=-1)


def variational_bound(
    denoiser: Denoiser,
    schedule: AnySchedule,
    x_0: Array,
    key: Key,
    variances: tuple[Variance, ...],
    *,
    indices: Array | None = None,
    num_terms: int | None = None,
) -> tuple[BoundTerms, ...]:
    """Returns the bound on the bits per dimension, with one draw of noise per term.

    One network evaluation per time serves all variances. With `num_terms`, as many
    evaluations per image estimate the bound without bias. The times are split into
    `bound_parts`. Each image draws one time per part uniformly, and its term stands for
    all terms of the part.

    Args:
        denoiser: estimates x_0.
        schedule: the noise schedule. A continuous one is evaluated at its `times`.
        x_0: 8-bit images scaled to [-1, 1], float [batch, ...].
        key: PRNG key. The noise of example i at step t depends only on (key,
            indices[i], t).
        variances: variances of the reverse step; each gets its own bound. In L_0,
            `FixedLarge` has the variance beta_0, and `FixedLargeFloored` has the
            posterior's variance of step 1, as in improved DDPM.
        indices: positions of the examples in the dataset, integers [batch]; 0, 1, ...
            by default.
        num_terms: number of terms to evaluate per image, 2..T; all by default.

    Returns:
        The terms for each of the variances.

    Raises:
        InputError: num_terms is out of range, x_0 is not floating point, or the
            network's prediction does not fit the schedule.
    """
    x_0 = at_least_float32("x_0", x_0)
    check_schedule(denoiser, schedule)
    indices = jnp.arange(len(x_0)) if indices is None else indices
    edges = None
    if num_terms is not None:
        edges = tuple(bound_parts(schedule.num_steps, num_terms).tolist())
    return _bound(as_pytree(denoiser), schedule, x_0, key, variances, indices, edges)


def bound_parts(num_steps: int, num_terms: int) -> np.ndarray:
    """Splits the times 0..T-1 into parts, narrower at less noise.

    Terms are larger at less noise. The edges after the first are therefore evenly
    spaced in log t, as far as integers allow. L_0, the term of the decoder, is a part
    of its own.

    Args:
        num_steps: T.
        num_terms: number of parts, 2..T.

    Returns:
        Increasing integers [num_terms + 1]; part k is edges[k]..edges[k + 1] - 1.

    Raises:
        InputError: num_terms is out of range.
    """
    if not 2 <= num_terms <= num_steps:
        raise InputError(f"num_terms must lie in 2..{num_steps}, got {num_terms}")
    edges = np.rint(np.geomspace(1, num_steps, num_terms)).astype(np.int64)
    for k in range(1, num_terms):  # no part is empty
        edges[k] = max(edges[k], edges[k - 1] + 1)
    return np.concatenate([[0], edges])


@jax.jit(static_argnames=("variances", "edges"))
def _bound(
    denoiser: Denoiser,
    schedule: AnySchedule,
    x_0: Array,
    key: Key,
    variances: tuple[Variance, ...],
    indices: Array,
    edges: tuple[int, ...] | None,
) -> tuple[BoundTerms, ...]:
    keys = rng.example_keys(key, indices)
    floor = variance_floor(schedule)

    def term(_: None, now: tuple[Array, Array, Array]) -> tuple[None, Any]:
        step, first, last = now
        size = (last - first + 1).astype(x_0.dtype)
        if edges is not None:  # each example draws its own step
            u = rng.uniform(rng.fold(keys, schedule.num_steps + step))
            step = first + jnp.minimum((u * size).astype(first.dtype), last - first)
        t = schedule.times[step]
        level, next_level = schedule.level(t), schedule.next_level(t)
        fold = rng.fold if edges is None else jax.vmap(jax.random.fold_in)
        eps = rng.normal(fold(keys, step), x_0.shape[1:])
        alpha, sigma = level.scales(x_0)
        x_t = alpha * x_0 + sigma * eps
        estimate = denoiser(x_t, level)
        error = ((estimate.eps - eps) ** 2).mean(axis=tuple(range(1, x_0.ndim)))
        return None, (
            [
                size
                * bound_term(estimate, x_0, x_t, level, next_level, variance, floor)
                for variance in variances
            ],
            error,
        )

    ends = jnp.arange(schedule.num_steps + 1) if edges is None else jnp.array(edges)
    parts = (jnp.arange(len(ends) - 1), ends[:-1], ends[1:] - 1)
    _, (terms, errors) = jax.lax.scan(term, None, parts)
    prior = prior_term(schedule, x_0)
    return tuple(BoundTerms(prior, t.T, errors.T) for t in terms)


def ode_log_density(
    denoiser: Denoiser,
    schedule: AnySchedule,
    x: Array,
    key: Key,
    *,
    num_steps: int = 64,
    exact_trace: bool = False,
    indices: Array | None = None,
) -> Array:
    """Returns the log-density of data under the probability-flow ODE, (1) and (2).

    Each step takes 4 evaluations of the denoiser and its derivative. With
    `exact_trace`, each evaluation takes D derivatives.

    Args:
        denoiser: estimates eps, unclipped; clipping would change the model's density.
        schedule: the noise schedule. A discrete one is interpolated between its times.
        x: continuous data (`dequantise` images first), float [batch, ...].
        key: PRNG key. The random signs of example i depend only on (key, indices[i]).
        num_steps: steps of the solver, evenly spaced in log(sigma / alpha).
        exact_trace: if True, compute the divergence exactly instead of estimating it.
        indices: positions of the examples in the dataset, integers [batch]; 0, 1, ...
            by default.

    Returns:
        Log-densities in nats, [batch].

    Raises:
        InputError: num_steps is not positive, x is not floating point, or the network's
            prediction does not fit the schedule.
    """
    x = at_least_float32("x", x)
    if num_steps < 1:
        raise InputError(f"num_steps must be at least 1, got {num_steps}")
    check_schedule(denoiser, schedule)
    indices = jnp.arange(len(x)) if indices is None else indices
    return _log_density(
        as_pytree(denoiser), schedule, x, key, num_steps, exact_trace, indices
    )


@jax.jit(static_argnames=("num_steps", "exact_trace"))
def _log_density(
    denoiser: Denoiser,
    schedule: AnySchedule,
    x: Array,
    key: Key,
    num_steps: int,
    exact_trace: bool,
    indices: Array,
) -> Array:
    keys = rng.example_keys(key, indices)
    signs = jnp.where(rng.normal(keys, x.shape[1:]) > 0, 1.0, -1.0)
    signs = signs.astype(x.dtype)

    ends = log_snr(schedule.level(schedule.times[jnp.array([0, -1])]))
    first, last = -ends / 2  # log s
    last = jnp.minimum(last, math.log(MOST_NOISE))
    step = (last - first) / num_steps

    def slope(y: Array, log_s: Array) -> tuple[Array, Array]:
        """Returns the derivatives of y and of log p with respect to log s."""
        level = schedule.level_of_log_snr(-2 * log_s)

        def drift(y: Array) -> Array:
            return jnp.exp(log_s) * denoiser(level.alpha * y, level).eps

        if exact_trace:
            return drift(y), -_divergence(drift, y)
        value, along = jax.jvp(drift, (y,), (signs,))
        return value, -(along * signs).sum(axis=tuple(range(1, y.ndim)))

    def solver_step(carry: tuple[Array, Array], log_s: Array) -> tuple[tuple, None]:
        """Runs a step of the classical fourth-order Runge-Kutta method."""
        y, log_p = carry
        k1, d1 = slope(y, log_s)
        k2, d2 = slope(y + step / 2 * k1, log_s + step / 2)
        k3, d3 = slope(y + step / 2 * k2, log_s + step / 2)
        k4, d4 = slope(y + step * k3, log_s + step)
        y = y + step / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        return (y, log_p + step / 6 * (d1 + 2 * d2 + 2 * d3 + d4)), None

    carry = (x, jnp.zeros(len(x), x.dtype))
    log_s = first + step * jnp.arange(num_steps, dtype=step.dtype)
    (y, change), _ = jax.lax.scan(solver_step, carry, log_s)
    # At the end y is N(0, (prior_scale / alpha)^2).
    scale = schedule.prior_scale / schedule.level_of_log_snr(-2 * last).alpha
    log_prior = -((y / scale) ** 2 + jnp.log(2 * jnp.pi * scale**2)) / 2
    return log_prior.sum(axis=tuple(range(1, y.ndim))) - change


def dequantise(images: Array, key: Key, indices: Array | None = None) -> Array:
    """Adds uniform noise over the bin of each grey level to 8-bit images.

    Args:
        images: float [batch, ...] in [-1, 1].
        key: PRNG key. The noise of image i depends only on (key, indices[i]).
        indices: integers [batch]; 0, 1, ... by default.

    Raises:
        InputError: images are not floating point.
    """
    images = at_least_float32("images", images)
    indices = jnp.arange(len(images)) if indices is None else indices
    keys = rng.example_keys(key, indices)
    u = jax.vmap(lambda key: jax.random.uniform(key, images.shape[1:]))(keys)
    return images + BIN * (u - 0.5)


def bits_per_dim(log_density: Array, size: int) -> Array:
    """Returns bits per dimension of 8-bit images, from dequantised densities, (3).

    Args:
        log_density: nats, of any shape.
        size: D, the number of values per image.
    """
    return -log_density / (size * math.log(2)) - math.log2(BIN)


def _divergence(fn: Callable[[Array], Array], y: Array) -> Array:
    """Returns the trace of the Jacobian of `fn` for each example, [batch]."""
    size = math.prod(y.shape[1:])

    def add(total: Array, i: Array) -> tuple[Array, None]:
        one = jnp.zeros(size, y.dtype).at[i].set(1.0).reshape(1, *y.shape[1:])
        one = jnp.broadcast_to(one, y.shape)
        along = jax.jvp(fn, (y,), (one,))[1]
        return total + (along * one).sum(axis=tuple(range(1, y.ndim))), None

    return jax.lax.scan(add, jnp.zeros(len(y), y.dtype), jnp.arange(size))[0]
