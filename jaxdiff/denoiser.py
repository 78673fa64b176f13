"""Denoisers from networks, and as pytrees."""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from jaxdiff.errors import InputError, check_range
from jaxdiff.prediction import Eps, Prediction
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
        output = self.network.apply({"params": self.params}, x_in, t, self.labels)
        return self.prediction.estimate(output, x_t, level)


def bind(
    network: Network,
    params: Params,
    labels: Labels | None = None,
    prediction: Prediction | None = None,
) -> NetworkDenoiser:
    """The denoiser that a network becomes once it has parameters and labels.

    Args:
        network: a Flax module such as `UNet`.
        params: its parameters.
        labels: integer classes [batch], one for each image that will be denoised; None
            for a network without classes, or for the unconditional (null) class.
        prediction: what the network was trained to output; `Eps()` by default.

    Raises:
        InputError: labels for a network without classes, not integer, or (where they
            are concrete) outside 0..num_classes-1.
    """
    if labels is not None:
        check_labels(labels, network.num_classes)
        labels = jnp.asarray(labels)
    return NetworkDenoiser(params, labels, network, prediction or Eps())


def check_labels(labels: ArrayLike, num_classes: int | None) -> None:
    """Refuses labels [batch] that a network of so many classes cannot take."""
    if num_classes is None:
        raise InputError(
            "labels were given, but the network has no classes: leave them"
        )
    labels = labels if hasattr(labels, "dtype") else np.asarray(labels)
    if labels.ndim != 1 or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise InputError(
            f"labels must be a vector of integers; got {labels.dtype} of shape "
            f"{labels.shape}"
        )
    check_range("labels", labels, num_classes)


def check_schedule(denoiser: Denoiser, schedule: AnySchedule) -> None:
    """Refuses a schedule that a network within the denoiser was not made for."""
    for part in jax.tree.leaves(
        denoiser, is_leaf=lambda part: isinstance(part, NetworkDenoiser)
    ):
        if isinstance(part, NetworkDenoiser):
            part.prediction.check_schedule(schedule)


def as_pytree(denoiser: Denoiser) -> Denoiser:
    """The denoiser itself, or a plain function wrapped so that jit takes it."""
    if jax.tree_util.all_leaves([denoiser]):
        return Partial(denoiser)
    return denoiser
