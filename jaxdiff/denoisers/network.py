"""Denoisers made of networks, and denoisers as pytrees."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from jaxdiff.checks import check_built, check_object, check_range
from jaxdiff.conditions import ANY_CLASS, check_parts
from jaxdiff.denoisers.predictions import Eps, Prediction
from jaxdiff.errors import InputError
from jaxdiff.typing import (
    AnySchedule,
    Array,
    ArrayLike,
    Condition,
    Denoiser,
    Estimate,
    Key,
    Level,
    Network,
    Params,
)

Function = TypeVar("Function", bound=Callable)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class NetworkDenoiser:
    """Network with its parameters and the condition of its batch; see `bind`.

    It is a pytree. As an argument of a compiled function, other parameters or another
    condition, such as another prompt, need no new compilation.
    """

    params: Params
    condition: Condition
    network: Network = field(metadata={"static": True})
    prediction: Prediction = field(metadata={"static": True})

    def __call__(self, x_t: Array, level: Level, /) -> Estimate:
        """Returns the estimate at x_t [batch, ...] and a level [] or [batch]."""
        t = jnp.broadcast_to(level.t, x_t.shape[:1])
        x_in = self.prediction.scaled(x_t, level)
        condition = with_null_class(self.condition, self.network)
        output = evaluate(self.network, self.params, x_in, t, condition)
        return self.prediction.estimate(output, x_t, level)


def bind(
    network: Network,
    params: Params,
    condition: Condition | ArrayLike | None = None,
    prediction: Prediction | None = None,
    *,
    labels: ArrayLike | None = None,
) -> NetworkDenoiser:
    """Makes a denoiser of a network, its parameters and a condition.

    Args:
        network: Flax module such as `UNet`.
        params: parameters of the network.
        condition: condition of each image to denoise; or labels alone. None for no
            condition, or for the unconditional (null) class.
        prediction: meaning of the network's output; `Eps()` by default.
        labels: in place of the condition, integer classes [batch], one per image to
            denoise. Or shares of the classes' embeddings, float [batch, num_classes];
            the null class takes the rest up to 1.

    Raises:
        InputError: the network does not take a part of the condition; or labels are
            not integers, or are concrete and outside 0..num_classes-1; or the network
            has no method `apply`, or needs a part that is None.
    """
    check_object("network", network, "apply")
    check_object("prediction", prediction)
    given = Condition.of(condition if labels is None else labels)
    check_condition(given, network)
    given = Condition(*(None if part is None else jnp.asarray(part) for part in given))
    return NetworkDenoiser(params, given, network, prediction or Eps())


def with_null_class(condition: Condition, network: Network) -> Condition:
    """Returns a condition in which the label of any class is the null class."""
    labels, null = condition.labels, num_classes_of(network)
    if labels is not None and jnp.issubdtype(labels.dtype, jnp.integer):
        labels = jnp.where(labels == ANY_CLASS, null or 0, labels)
        condition = condition._replace(labels=labels)
    return condition


def with_end(denoiser: Denoiser, end: Array) -> Denoiser:
    """Returns a denoiser whose networks get the time at which a step ends.

    Args:
        denoiser: denoiser with networks that take it.
        end: times [batch].

    Raises:
        InputError: no network in the denoiser takes a second time.
    """

    def bound(part: object) -> bool:
        return isinstance(part, NetworkDenoiser) and "end" in taken_by(part.network)

    parts, tree = jax.tree.flatten(denoiser, is_leaf=bound)
    if not any(map(bound, parts)):
        raise InputError(
            "denoiser must have a network with a second time for a flow map, got one "
            "without. Choose another sampler."
        )
    return jax.tree.unflatten(
        tree,
        [
            replace(part, condition=part.condition._replace(end=end))
            if bound(part)
            else part
            for part in parts
        ],
    )


def evaluate(
    network: Network,
    params: Params,
    x: Array,
    t: Array,
    condition: Condition,
    keys: Key | None = None,
) -> Array:
    """Returns a network's output; see `typing.Network` for the arguments."""
    own = hasattr(network, "takes")
    given = condition if own else condition.labels
    return network.apply({"params": params}, x, t, given, keys)


def taken_by(network: Network) -> tuple[str, ...]:
    """Returns the names of the parts of a condition that a network takes."""
    takes = getattr(network, "takes", None)
    if takes is None:
        return ("labels",) if num_classes_of(network) is not None else ()
    return tuple(takes)


def taken(condition: Condition, network: Network) -> Condition:
    """Returns the parts of a condition that a network takes."""
    takes = taken_by(network)
    parts = zip(Condition._fields, condition, strict=True)
    return Condition(*(part if name in takes else None for name, part in parts))


def check_condition(condition: Condition, network: Network) -> None:
    """Checks a condition for a network.

    Raises:
        InputError: the network does not take a part, or needs one that is None; or a
            part has another shape or type.
    """
    takes = taken_by(network)
    for name in getattr(network, "needs", ()):
        if getattr(condition, name) is None:
            raise InputError(
                f"{name} must be given to this network, got None. Give it a Condition "
                f"with {name}, in Python."
            )
    if "tokens" in takes and condition.text is None and condition.tokens is None:
        raise InputError(
            "text must be given to this network, got None. Give it a Condition with "
            "text or tokens, such as run.text(prompts)."
        )
    if condition.labels is not None:
        check_labels(condition.labels, num_classes_of(network))
    for name, part in condition._asdict().items():
        if part is not None and name not in takes:
            raise InputError(
                f"{name} must be None, because the network takes "
                f"{' and '.join(takes) or 'no condition'}. Omit it."
            )
    check_parts(condition)


def num_classes_of(network: Network) -> int | None:
    """Returns the number of classes of a network; None if it takes no labels."""
    return getattr(network, "num_classes", None)


def check_labels(labels: ArrayLike, num_classes: int | None) -> None:
    """Checks labels, or shares of classes, for a network with `num_classes` classes.

    Raises:
        InputError: the network has no classes, or does not accept these labels.
    """
    if num_classes is None:
        raise InputError(
            "labels must be None, because the network has no classes. Omit the labels."
        )
    labels = labels if hasattr(labels, "dtype") else np.asarray(labels)
    if labels.ndim == 2 and jnp.issubdtype(labels.dtype, jnp.floating):
        if labels.shape[1] != num_classes:
            raise InputError(
                f"labels as shares of classes must have {num_classes} columns, got "
                f"{labels.shape[1]}"
            )
        return
    if labels.ndim != 1 or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise InputError(
            f"labels must be a vector of integers, got {labels.dtype} of shape "
            f"{labels.shape}"
        )
    check_range("labels", labels, num_classes)


def check_null_class(network: Network) -> None:
    """Raises `InputError` if the network has no null class, which guidance needs."""
    check = getattr(network, "check_null_class", None)
    if check is not None:
        check()


def check_schedule(denoiser: Denoiser, schedule: AnySchedule) -> None:
    """Checks that a schedule is built, and fits the networks in a denoiser.

    Raises:
        InputError: the schedule is not built, or a network's prediction does not fit.
    """
    check_built(schedule, "times")
    for part in networks_of(denoiser):
        part.prediction.check_schedule(schedule)


def networks_of(denoiser: Denoiser) -> list[NetworkDenoiser]:
    """Returns the networks in a denoiser."""

    def bound(part: object) -> bool:
        return isinstance(part, NetworkDenoiser)

    return [part for part in jax.tree.leaves(denoiser, is_leaf=bound) if bound(part)]


def as_pytree(function: Function) -> Function:
    """Returns the function as a pytree, which `jit` takes as an argument.

    A function that is a pytree already is returned unchanged.
    """
    if jax.tree_util.all_leaves([function]):
        return cast(Function, Partial(function))
    return function
