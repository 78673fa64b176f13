"""Guidance: functions from denoiser to denoiser.

With a weight w, one estimate is carried on past another, in x_0 and in eps alike:

    (1)  guided = base + w (better - base)

`classifier_free_guidance` (Ho & Salimans 2022, equation 6, whose w is 1 less) takes for
`better` the estimate given the class and for `base` the one without; `autoguidance`
(Karras et al. 2024, equation 2) takes for `base` a weaker denoiser. A classifier's
gradient moves the score (Dhariwal & Nichol 2021, section 4.2):

    (2)  eps' = eps - w sigma grad log p(label | x_t)

All are pytrees, so that another weight needs no new compilation. They stack in any
order: `clip_x0(classifier_free_guidance(denoiser, 2.0))` clips what is guided.
"""

from collections.abc import Callable
from dataclasses import replace
from operator import itemgetter
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from jaxdiff.checks import concrete
from jaxdiff.denoisers.network import (
    ANY_CLASS,
    as_pytree,
    check_null_class,
    networks_of,
)
from jaxdiff.errors import InputError
from jaxdiff.typing import Array, ArrayLike, Denoiser, Estimate, Labels, Level


def classifier_free_guidance(
    denoiser: Denoiser,
    weight: float | Array,
    *,
    interval: tuple[float, float] | None = None,
    rescale: float | Array = 0.0,
) -> Denoiser:
    """Classifier-free guidance, in one batched call of the network; equation (1).

    Args:
        denoiser: bound to labels, such as `run.denoiser(labels)` or an oracle.
        weight: 0 for the unconditional model, 1 for the conditional one, above 1 for
            guidance; [] or [batch].
        interval: the sigma / alpha from which and up to which to guide; outside it the
            model is the conditional one (Kynkaanniemi et al. 2024). Everywhere by
            default.
        rescale: by how much to bring each image's standard deviation back to that of
            the conditional model's x_0, 0 to 1 (Lin et al. 2024, section 3.4).

    Raises:
        InputError: the denoiser is not bound to labels, its network has no null class,
            or rescale is out of range.
    """
    labels, _ = _labels_of(denoiser)
    if not labels:
        raise InputError(
            "classifier-free guidance needs a denoiser that is bound to labels, such "
            "as run.denoiser(labels)"
        )
    for part in networks_of(denoiser):
        check_null_class(part.network)
    share = concrete(rescale)
    if share is not None and not 0 <= share <= 1:
        raise InputError(f"rescale must lie in 0..1; got {share:g}")
    return Partial(_classifier_free, denoiser, weight, _checked(interval), rescale)


def autoguidance(
    denoiser: Denoiser,
    weak: Denoiser,
    weight: float | Array,
    *,
    interval: tuple[float, float] | None = None,
) -> Denoiser:
    """Guidance by a weaker version of the model (Karras et al. 2024), equation (1).

    Args:
        denoiser: the model.
        weak: a smaller one, or one trained for less time, of the same data.
        weight: 0 for the weak model, 1 for the model, above 1 for guidance.
        interval: as for `classifier_free_guidance`.
    """
    better, base = as_pytree(denoiser), as_pytree(weak)
    return Partial(_autoguided, better, base, weight, _checked(interval))


def classifier_guidance(
    denoiser: Denoiser,
    log_prob: Callable[[Array, Level], Array],
    weight: float | Array = 1.0,
) -> Denoiser:
    """Guidance by a classifier's gradient (Dhariwal & Nichol 2021), equation (2).

    Args:
        denoiser: the model.
        log_prob: from (x_t, level) to log p(label | x_t), [batch], of a classifier of
            noisy images. As a pytree (`jax.tree_util.Partial` of a function and its
            parameters) it is an argument of the compiled chain.
        weight: how strongly; 1 is Bayes' rule. A level without signal is not guided.
    """
    return Partial(_classifier_guided, as_pytree(denoiser), as_pytree(log_prob), weight)


def mix_classes(denoiser: Denoiser, labels: ArrayLike, shares: ArrayLike) -> Denoiser:
    """A blend of classes: the mean of what the denoiser says given each of them.

    Args:
        denoiser: bound to any labels [batch]; these take their place.
        labels: integers [K, batch], K classes for each image.
        shares: [K] or [K, batch], how much of each; they should sum to 1.

    Raises:
        InputError: the denoiser is not bound to labels, or the shapes do not fit.
    """
    found, put = _labels_of(denoiser)
    labels, shares = jnp.asarray(labels), jnp.asarray(shares)
    if not found:
        raise InputError("a blend of classes needs a denoiser that is bound to labels")
    if labels.ndim != 2 or shares.shape not in (labels.shape, labels.shape[:1]):
        raise InputError(
            "labels must be [K, batch] and shares [K] or [K, batch]; got shapes "
            f"{labels.shape} and {shares.shape}"
        )
    return Partial(_mixed, put([labels] * len(found)), shares)


def _classifier_free(
    denoiser: Denoiser,
    weight: Array,
    interval: tuple[Array, Array] | None,
    rescale: Array,
    x_t: Array,
    level: Level,
) -> Estimate:
    labels, put = _labels_of(denoiser)
    both = [jnp.stack([given, _no_class(given)]) for given in labels]
    # Mapped over, the two are one call of the network with a batch twice as long.
    estimates = jax.vmap(lambda labels: put(labels)(x_t, level))(both)
    given = jax.tree.map(itemgetter(0), estimates)
    free = jax.tree.map(itemgetter(1), estimates)
    guided = _extrapolated(free, given, weight, interval, x_t, level)
    axes = tuple(range(1, x_t.ndim))
    # An image without contrast keeps it.
    spread = jnp.std(guided.x_0, axis=axes, keepdims=True)
    wanted = jnp.std(given.x_0, axis=axes, keepdims=True)
    ratio = jnp.where(spread > 0, wanted / jnp.where(spread > 0, spread, 1.0), 1.0)
    change = rescale * (ratio - 1) * guided.x_0
    alpha, sigma = level.scales(x_t)
    return guided._replace(
        x_0=guided.x_0 + change, eps=guided.eps - alpha / sigma * change
    )


def _autoguided(
    denoiser: Denoiser,
    weak: Denoiser,
    weight: Array,
    interval: tuple[Array, Array] | None,
    x_t: Array,
    level: Level,
) -> Estimate:
    better, base = denoiser(x_t, level), weak(x_t, level)
    return _extrapolated(base, better, weight, interval, x_t, level)


def _extrapolated(
    base: Estimate,
    better: Estimate,
    weight: Array,
    interval: tuple[Array, Array] | None,
    x_t: Array,
    level: Level,
) -> Estimate:
    """Equation (1); the better estimate itself outside the interval."""
    weight = jnp.asarray(weight, x_t.dtype)
    if interval is not None:
        low, high = interval
        above = level.sigma >= low * level.alpha
        weight = jnp.where(above & (level.sigma <= high * level.alpha), weight, 1.0)
    weight = weight.reshape(weight.shape + (1,) * (x_t.ndim - weight.ndim))
    return better._replace(
        x_0=base.x_0 + weight * (better.x_0 - base.x_0),
        eps=base.eps + weight * (better.eps - base.eps),
    )


def _classifier_guided(
    denoiser: Denoiser, log_prob: Any, weight: Array, x_t: Array, level: Level
) -> Estimate:
    estimate = denoiser(x_t, level)
    gradient = jax.grad(lambda x: log_prob(x, level).sum())(x_t)
    alpha, sigma = level.scales(x_t)
    push = jnp.where(alpha > 0, weight * sigma * gradient, 0.0)
    some_alpha = jnp.where(alpha > 0, alpha, 1.0)
    return estimate._replace(
        x_0=estimate.x_0 + sigma / some_alpha * push, eps=estimate.eps - push
    )


def _mixed(denoiser: Denoiser, shares: Array, x_t: Array, level: Level) -> Estimate:
    labels, put = _labels_of(denoiser)
    estimates = jax.vmap(lambda labels: put(labels)(x_t, level))(labels)
    shares = jnp.asarray(shares, x_t.dtype)
    shares = shares.reshape(shares.shape + (1,) * (x_t.ndim + 1 - shares.ndim))
    return jax.tree.map(lambda a: (shares * a).sum(axis=0), estimates)


def _labels_of(
    denoiser: Denoiser,
) -> tuple[list[Labels], Callable[[list[Labels]], Denoiser]]:
    """The labels of every part of a denoiser, and how to put others in their place."""

    def bound(part: Any) -> bool:
        return getattr(part, "labels", None) is not None

    parts, tree = jax.tree.flatten(denoiser, is_leaf=bound)

    def put(labels: list[Labels]) -> Denoiser:
        others = iter(labels)
        return jax.tree.unflatten(
            tree, [replace(p, labels=next(others)) if bound(p) else p for p in parts]
        )

    return [part.labels for part in parts if bound(part)], put


def _no_class(labels: Labels) -> Labels:
    """The labels, or shares of the classes, that leave the class open."""
    shares = jnp.issubdtype(labels.dtype, jnp.floating)
    return jnp.full_like(labels, 0 if shares else ANY_CLASS)


def _checked(interval: tuple[float, float] | None) -> tuple[float, float] | None:
    """Refuses an interval whose ends are not in order."""
    if interval is not None:
        low, high = interval
        if not 0 <= low <= high:
            raise InputError(
                f"interval must be (low, high) with 0 <= low <= high; got {interval}"
            )
    return interval
