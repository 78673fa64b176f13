"""Guidance: functions from denoiser to denoiser.

A weight w extrapolates from one estimate past another, for x_0 and eps alike:

    (1)  guided = base + w (better - base)

In `classifier_free_guidance` (Ho & Salimans 2022, equation 6, whose w is smaller by 1)
`better` is the estimate given the class, and `base` the estimate without it. In
`autoguidance` (Karras et al. 2024, equation 2) `base` is a weaker denoiser. A
classifier's gradient moves the score (Dhariwal & Nichol 2021, section 4.2):

    (2)  eps' = eps - w sigma grad log p(label | x_t)

An edit by instruction has a condition of two parts, a text c and an image i, and a
weight for each (Brooks et al. 2023, equation 3); 0 is an image of zeros, and n a text
that says nothing, or a negative prompt:

    (3)  guided = D(n, 0) + w_i (D(n, i) - D(n, 0)) + w (D(c, i) - D(n, i))

All results are pytrees, so that another weight needs no new compilation. Guidance and
thresholding compose in any order: `clip_x0(classifier_free_guidance(denoiser, 2.0))`
clips the guided estimate.
"""

from collections.abc import Callable
from dataclasses import replace
from operator import itemgetter
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from jaxdiff.checks import concrete
from jaxdiff.conditions import hidden
from jaxdiff.denoisers.network import as_pytree, check_null_class, networks_of
from jaxdiff.errors import InputError
from jaxdiff.schedules.forward import root
from jaxdiff.typing import Array, ArrayLike, Condition, Denoiser, Estimate, Level


def classifier_free_guidance(
    denoiser: Denoiser,
    weight: float | Array,
    *,
    interval: tuple[float, float] | None = None,
    rescale: float | Array = 0.0,
    base: Condition | None = None,
) -> Denoiser:
    """Applies classifier-free guidance, in one batched network call; equation (1).

    Args:
        denoiser: denoiser bound to labels or to another condition, such as
            `run.denoiser(labels)` or an oracle.
        weight: guidance weight [] or [batch]: 0 for the unconditional model, 1 for the
            conditional one, above 1 for guidance.
        interval: lowest and highest sigma / alpha with guidance, 0 to infinity; the
            model is conditional outside (Kynkaanniemi et al. 2024). None for all
            levels.
        rescale: share, in 0..1, by which each image's standard deviation returns to the
            conditional model's, for x_0 (Lin et al. 2024, section 3.4).
        base: condition of the unconditional model, such as a negative prompt. Parts
            that it lacks are as in the denoiser's. By default the condition is hidden,
            as in training; see `conditions.hidden`.

    Raises:
        InputError: the denoiser is not bound to a condition, or base does not match it;
            its network has no null class; or rescale or interval is out of range.
    """
    conditions, _ = _conditions_of(denoiser)
    if not conditions:
        raise InputError(
            "denoiser must be bound to labels for classifier-free guidance, got one "
            "without labels. Bind it, as run.denoiser(labels) does."
        )
    if base is None:
        for part in networks_of(denoiser):
            if part.condition.labels is not None:
                check_null_class(part.network)
    else:
        base = Condition.of(base)
        for condition in conditions:
            _check_base(base, condition)
    share = concrete(rescale)
    if share is not None and not 0 <= share <= 1:
        raise InputError(f"rescale must lie in 0..1, got {share:g}")
    return Partial(
        _classifier_free, denoiser, weight, _checked(interval), rescale, base
    )


def instruction_guidance(
    denoiser: Denoiser,
    weight: float | Array,
    image_weight: float | Array,
    *,
    base: Condition | None = None,
) -> Denoiser:
    """Applies guidance by a text and by an image, each with its weight; equation (3).

    Args:
        denoiser: denoiser bound to a condition with a text and an image.
        weight: guidance weight of the text, [] or [batch].
        image_weight: guidance weight of the image, [] or [batch].
        base: condition of a negative prompt; hidden by default.

    Raises:
        InputError: the denoiser is not bound to an image, or base does not match.
    """
    conditions, _ = _conditions_of(denoiser)
    if not conditions or any(one.image is None for one in conditions):
        raise InputError(
            "denoiser must be bound to a condition with an image, got one without. "
            "Bind it to a Condition with image."
        )
    if base is not None:
        for condition in conditions:
            _check_base(base, condition)
    return Partial(_instructed, denoiser, weight, image_weight, base)


def autoguidance(
    denoiser: Denoiser,
    weak: Denoiser,
    weight: float | Array,
    *,
    interval: tuple[float, float] | None = None,
) -> Denoiser:
    """Applies guidance by a weaker version of the model, equation (1).

    The method is from Karras et al. 2024.

    Args:
        denoiser: model to guide.
        weak: smaller model, or one trained for less time, of the same data.
        weight: guidance weight [] or [batch]: 0 for the weak model, 1 for the model,
            above 1 for guidance.
        interval: interval of levels, as in `classifier_free_guidance`.

    Raises:
        InputError: the interval is out of order.
    """
    better, base = as_pytree(denoiser), as_pytree(weak)
    return Partial(_autoguided, better, base, weight, _checked(interval))


def classifier_guidance(
    denoiser: Denoiser,
    log_prob: Callable[[Array, Level], Array],
    weight: float | Array = 1.0,
) -> Denoiser:
    """Applies guidance by a classifier's gradient, equation (2).

    The method is from Dhariwal & Nichol 2021.

    Args:
        denoiser: model to guide.
        log_prob: function from (x_t, level) to log p(label | x_t) [batch], of a
            classifier of noisy images. A pytree (`jax.tree_util.Partial` of a function
            and its parameters) is an argument of the compiled sampling loop.
        weight: guidance weight; 1 is Bayes' rule. Levels without signal are not guided.
    """
    return Partial(_classifier_guided, as_pytree(denoiser), as_pytree(log_prob), weight)


def mix_classes(denoiser: Denoiser, labels: ArrayLike, shares: ArrayLike) -> Denoiser:
    """Blends classes: averages the denoiser's estimates given each class.

    Args:
        denoiser: denoiser bound to any labels [batch], which `labels` replace.
        labels: K classes for each image, integers [K, batch].
        shares: share of each class [K] or [K, batch]; the shares should sum to 1.

    Raises:
        InputError: the denoiser is not bound to labels, or the shapes do not match.
    """
    found, put = _conditions_of(denoiser)
    labels, shares = jnp.asarray(labels), jnp.asarray(shares)
    if not found:
        raise InputError(
            "denoiser must be bound to labels for a blend of classes, got one without "
            "labels. Bind it, as run.denoiser(labels) does."
        )
    if labels.ndim != 2 or shares.shape not in (labels.shape, labels.shape[:1]):
        raise InputError(
            "labels must be [K, batch] and shares [K] or [K, batch], got shapes "
            f"{labels.shape} and {shares.shape}"
        )

    def repeated(part: Any) -> Any:
        return jnp.broadcast_to(part, (len(labels), *part.shape))

    several = [
        jax.tree.map(repeated, condition._replace(labels=None))._replace(labels=labels)
        for condition in found
    ]
    return Partial(_mixed, put(several), shares)


def _classifier_free(
    denoiser: Denoiser,
    weight: Array,
    interval: tuple[Array, Array] | None,
    rescale: Array,
    base: Condition | None,
    x_t: Array,
    level: Level,
) -> Estimate:
    conditions, put = _conditions_of(denoiser)
    both = [
        jax.tree.map(lambda *parts: jnp.stack(parts), given, _base_of(given, base))
        for given in conditions
    ]
    # vmap makes the two evaluations one network call with twice the batch.
    estimates = jax.vmap(lambda conditions: put(conditions)(x_t, level))(both)
    given = jax.tree.map(itemgetter(0), estimates)
    free = jax.tree.map(itemgetter(1), estimates)
    guided = _extrapolated(free, given, weight, interval, x_t, level)
    spread, wanted = _deviation(guided.x_0), _deviation(given.x_0)
    # An image without contrast is not rescaled.
    ratio = jnp.where(spread > 0, wanted / jnp.where(spread > 0, spread, 1.0), 1.0)
    change = rescale * (ratio - 1) * guided.x_0
    alpha, sigma = level.scales(x_t)
    return guided._replace(
        x_0=guided.x_0 + change, eps=guided.eps - alpha / sigma * change
    )


def _instructed(
    denoiser: Denoiser,
    weight: Array,
    image_weight: Array,
    base: Condition | None,
    x_t: Array,
    level: Level,
) -> Estimate:
    conditions, put = _conditions_of(denoiser)

    def three(given: Condition) -> Condition:
        free = _base_of(given, base)
        blank = free._replace(image=jnp.zeros_like(given.image))
        return jax.tree.map(lambda *parts: jnp.stack(parts), given, free, blank)

    every = [three(given) for given in conditions]
    estimates = jax.vmap(lambda conditions: put(conditions)(x_t, level))(every)
    given, free, blank = (jax.tree.map(itemgetter(i), estimates) for i in range(3))
    by_image = _extrapolated(blank, free, image_weight, None, x_t, level)
    by_text = _extrapolated(free, given, weight, None, x_t, level)
    return given._replace(
        x_0=by_image.x_0 + by_text.x_0 - free.x_0,
        eps=by_image.eps + by_text.eps - free.eps,
    )


def _deviation(x: Array) -> Array:
    """Returns each image's standard deviation [batch, 1, ...].

    Its derivative is 0, instead of NaN, if the image has no contrast.
    """
    axes = tuple(range(1, x.ndim))
    return root(jnp.var(x, axis=axes, keepdims=True))


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
    """Returns equation (1), or the better estimate outside the interval."""
    weight = jnp.asarray(weight, x_t.dtype)
    if interval is not None:
        low, high = interval
        s = level.sigma / level.alpha  # infinite in a level without signal
        weight = jnp.where((low <= s) & (s <= high), weight, 1.0)
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
    conditions, put = _conditions_of(denoiser)
    estimates = jax.vmap(lambda conditions: put(conditions)(x_t, level))(conditions)
    shares = jnp.asarray(shares, x_t.dtype)
    shares = shares.reshape(shares.shape + (1,) * (x_t.ndim + 1 - shares.ndim))
    return jax.tree.map(lambda a: (shares * a).sum(axis=0), estimates)


def _base_of(condition: Condition, base: Condition | None) -> Condition:
    """Returns the condition of the unconditional half."""
    if base is None:
        return hidden(condition)
    pairs = zip(base, condition, strict=True)
    return Condition(*(own if part is None else part for part, own in pairs))


def _check_base(base: Condition, condition: Condition) -> None:
    for name, part, own in zip(Condition._fields, base, condition, strict=True):
        if part is None:
            continue
        if own is None or jnp.shape(part) != jnp.shape(own):
            found = "none" if own is None else jnp.shape(own)
            raise InputError(
                f"{name} of base must have the shape of the denoiser's {name}, "
                f"{found}, got {jnp.shape(part)}"
            )


def _conditions_of(
    denoiser: Denoiser,
) -> tuple[list[Condition], Callable[[list[Condition]], Denoiser]]:
    """Returns the condition of each part of a denoiser, and a function to replace them.

    A part has a field `condition`, or a field `labels` alone.
    """

    def condition(part: Any) -> Condition:
        found = getattr(part, "condition", None)
        return Condition.of(getattr(part, "labels", None)) if found is None else found

    def bound(part: Any) -> bool:
        if isinstance(part, Condition):  # one that guidance holds
            return False
        return any(field is not None for field in condition(part))

    def given(part: Any, new: Condition) -> Any:
        if getattr(part, "condition", None) is None:
            return replace(part, labels=new.labels)
        return replace(part, condition=new)

    parts, tree = jax.tree.flatten(denoiser, is_leaf=bound)

    def put(conditions: list[Condition]) -> Denoiser:
        others = iter(conditions)
        return jax.tree.unflatten(
            tree, [given(p, next(others)) if bound(p) else p for p in parts]
        )

    return [condition(part) for part in parts if bound(part)], put


def _checked(interval: tuple[float, float] | None) -> tuple[float, float] | None:
    if interval is not None:
        low, high = interval
        if not 0 <= low <= high:
            raise InputError(
                f"interval must be (low, high) with 0 <= low <= high, got {interval}"
            )
    return interval
