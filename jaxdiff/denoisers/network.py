"""Denoisers from networks, and as pytrees."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from jaxdiff.checks import check_range
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
"""The label that leaves an image's class open; `guidance` uses it, users need not."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class NetworkDenoiser:
    """A network with its parameters and the labels of its batch; see `bind`.

    A pytree: as an argument of a compiled function, other parameters or labels need no
    new compilation.
    """

    params: Params
    labels: Labels | None
    network: Network = field(metadata={"static": True})
    prediction: Prediction = field(metadata={"static": True})

    def __call__(self, x_t: Array, level: Level, /) -> Estimate:
        """The network's estimate at x_t [batch, ...]; level is [] or [batch]."""
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
    """The denoiser that a network becomes once it has parameters and labels.

    Args:
        network: a Flax module such as `UNet`.
        params: its parameters.
        labels: integer classes [batch], one for each image that will be denoised; or a
            blend of the classes' embeddings, float [batch, num_classes], of which the
            null class takes what is missing to 1. None for a network without classes,
            or for the unconditional (null) class.
        prediction: what the network was trained to output; `Eps()` by default.

    Raises:
        InputError: labels for a network without classes, not integer, or (where they
            are concrete) outside 0..num_classes-1.
    """
    if labels is not None:
        check_labels(labels, num_classes_of(network))
        labels = jnp.asarray(labels)
    return NetworkDenoiser(params, labels, network, prediction or Eps())


def num_classes_of(network: Network) -> int | None:
    """Returns the number of classes of a network; None if it takes no labels."""
    return getattr(network, "num_classes", None)


def check_labels(labels: ArrayLike, num_classes: int | None) -> None:
    """Refuses labels, or shares, that a network of so many classes cannot take."""
    if num_classes is None:
        raise InputError(
            "labels were given, but the network has no classes: leave them"
        )
    labels = labels if hasattr(labels, "dtype") else np.asarray(labels)
    if labels.ndim == 2 and jnp.issubdtype(labels.dtype, jnp.floating):
        if labels.shape[1] != num_classes:
            raise InputError(
                f"a blend of classes must have {num_classes} shares an image; got "
                f"{labels.shape[1]}"
            )
        return
    if labels.ndim != 1 or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise InputError(
            f"labels must be a vector of integers; got {labels.dtype} of shape "
            f"{labels.shape}"
        )
    check_range("labels", labels, num_classes)


def check_null_class(network: Network) -> None:
    """Refuses a network that says it has no class for "any", and so no guidance."""
    check = getattr(network, "check_null_class", None)
    if check is not None:
        check()


def check_schedule(denoiser: Denoiser, schedule: AnySchedule) -> None:
    """Refuses a schedule that a network within the denoiser was not made for."""
    for part in networks_of(denoiser):
        part.prediction.check_schedule(schedule)


def networks_of(denoiser: Denoiser) -> list[NetworkDenoiser]:
    """The networks within a denoiser."""

    def bound(part: object) -> bool:
        return isinstance(part, NetworkDenoiser)

    return [part for part in jax.tree.leaves(denoiser, is_leaf=bound) if bound(part)]


def as_pytree(function: Function) -> Function:
    """The function itself, or a plain one wrapped so that jit takes it."""
    if jax.tree_util.all_leaves([function]):
        return cast(Function, Partial(function))
    return function
