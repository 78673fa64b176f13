"""Denoisers made of networks, and denoisers as pytrees."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from jaxdiff.checks import check_built, check_object, check_range
from jaxdiff.denoisers.predictions import Eps, Prediction
from jaxdiff.errors import InputError
from jaxdiff.typing import (
    AnySchedule,
    Array,
    ArrayLike,
    Denoiser,
    Estimate,
    Labels,
    Level,
    Network,
    Params,
)

Function = TypeVar("Function", bound=Callable)

ANY_CLASS = -1
"""Label that leaves an image's class open, for `guidance`; users do not need it."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class NetworkDenoiser:
    """Network with its parameters and the labels of its batch; see `bind`.

    It is a pytree. As an argument of a compiled function, other parameters or labels
    need no new compilation.
    """

    params: Params
    labels: Labels | None
    network: Network = field(metadata={"static": True})
    prediction: Prediction = field(metadata={"static": True})

    def __call__(self, x_t: Array, level: Level, /) -> Estimate:
        """Returns the estimate at x_t [batch, ...] and a level [] or [batch]."""
        t = jnp.broadcast_to(level.t, x_t.shape[:1])
        x_in = self.prediction.scaled(x_t, level)
        labels, null = self.labels, num_classes_of(self.network)
        if labels is not None and jnp.issubdtype(labels.dtype, jnp.integer):
            labels = jnp.where(labels == ANY_CLASS, null or 0, labels)
        output = self.network.apply({"params": self.params}, x_in, t, labels)
        return self.prediction.estimate(output, x_t, level)


def bind(
    network: Network,
    params: Params,
    labels: ArrayLike | None = None,
    prediction: Prediction | None = None,
) -> NetworkDenoiser:
    """Makes a denoiser of a network, its parameters and labels.

    Args:
        network: Flax module such as `UNet`.
        params: parameters of the network.
        labels: integer classes [batch], one per image to denoise. Or shares of the
            classes' embeddings, float [batch, num_classes]; the null class takes the
            rest up to 1. None for a network without classes, or for the unconditional
            (null) class.
        prediction: meaning of the network's output; `Eps()` by default.

    Raises:
        InputError: labels for a network without classes, or labels that are not
            integers, or are concrete and outside 0..num_classes-1; or a network without
            the method `apply`, or one that needs further inputs.
    """
    check_object("network", network, "apply")
    check_object("prediction", prediction)
    check_inputs(network)
    if labels is not None:
        check_labels(labels, num_classes_of(network))
        labels = jnp.asarray(labels)
    return NetworkDenoiser(params, labels, network, prediction or Eps())


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


def check_inputs(network: Network) -> None:
    """Raises `InputError` if the network needs more than images, times and classes."""
    check = getattr(network, "check_inputs", None)
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
