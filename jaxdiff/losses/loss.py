"""The training loss: noise a batch, ask the network, hand both to the objective.

    (1)  x_t = alpha_t x_0 + sigma_t eps,   eps ~ N(0, 1),   t as the objective draws it
    (2)  L = E[ objective(output(x_t, t), x_0, eps) ]

By default L is DDPM's L_simple, E || output - eps ||^2 (Ho et al. 2020, equation 14).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxdiff import rng
from jaxdiff.checks import concrete
from jaxdiff.denoisers.network import check_labels, num_classes_of
from jaxdiff.denoisers.predictions import Eps, Prediction
from jaxdiff.errors import InputError
from jaxdiff.losses.objectives import Noised, Objective, Simple
from jaxdiff.schedules.forward import q_sample
from jaxdiff.typing import (
    AnySchedule,
    Array,
    ArrayLike,
    Batch,
    Key,
    Network,
    Params,
    Timesteps,
)

QUARTERS = 4


def loss_fn(
    params: Params,
    network: Network,
    schedule: AnySchedule,
    batch: Batch,
    key: Key,
    prediction: Prediction | None = None,
    objective: Objective | None = None,
    memory: Any = None,
) -> tuple[Array, dict[str, Any]]:
    """The training loss, equation (2).

    The noise, the time and the dropout of an example depend on (key, its index) alone.

    Args:
        params: the network's parameters, what to differentiate by.
        network: a Flax module such as `UNet`.
        schedule: the noise schedule, discrete or continuous.
        batch: images in [-1, 1], labels or None, and each example's index.
        key: the step's key.
        prediction: what the network outputs; `Eps()` by default.
        objective: what to make small; `Simple()` by default.
        memory: what the objective's times remember (`LossHistory`); the beginning of
            it by default. `objective.times.update(memory, metrics["seen"])` is the
            next step's.

    Returns:
        The scalar loss, and metrics that are means over the batch (so that the means of
        shards or of steps are averages of them): `loss`, and what the objective says
        it is made of; `loss_by_quarter` [4], the part of it from each quarter of the
        time range, least noisy first; `share_by_quarter` [4], the part of the examples
        there (a quarter's own mean loss is the ratio of the two); and `seen`, for the
        times' memory.

    Raises:
        InputError: images that are not float, not [batch, height, width, channels] or
            (where they are concrete) outside [-1, 1]; labels that do not fit; a
            schedule, prediction and objective that do not go together.
    """
    check_batch(batch, num_classes_of(network))
    prediction, objective = prediction or Eps(), objective or Simple()
    check_combination(schedule, prediction, objective)
    memory = objective.times.init() if memory is None else memory
    x_0 = jnp.asarray(batch.images)
    u, importance, t, eps, dropout_keys = draw(batch, key, schedule, objective, memory)

    x_t = q_sample(schedule, x_0, t, eps)
    noised = Noised(x_0, eps, x_t, schedule.level(t), schedule.next_level(t))
    labels = None if batch.labels is None else jnp.asarray(batch.labels)
    output = network.apply(
        {"params": params},
        prediction.scaled(x_t, noised.level),
        noised.level.t,
        labels,
        dropout_keys,
    )
    losses = objective.losses(prediction, output, noised, schedule)

    metrics: dict[str, Any] = {
        name: (importance * values).mean() for name, values in losses.items()
    }
    place = jnp.minimum(jnp.floor(u * QUARTERS).astype(jnp.int32), QUARTERS - 1)
    quarter = importance[:, None] * jax.nn.one_hot(place, QUARTERS)
    metrics["loss_by_quarter"] = (quarter * losses["loss"][:, None]).mean(axis=0)
    metrics["share_by_quarter"] = quarter.mean(axis=0)
    metrics["seen"] = objective.times.observe(u, losses["loss"])
    return metrics["loss"], metrics


class Draws(NamedTuple):
    """What chance gives a batch.

    Attributes:
        u: fractions of the schedule's range, [batch].
        importance: the losses' weights, which make up for how u was drawn, [batch].
        t: the times at these fractions, [batch].
        eps: the noise, of the images' shape.
        dropout_keys: a key of each example for the network, [batch].
    """

    u: Array
    importance: Array
    t: Timesteps
    eps: Array
    dropout_keys: Key


def draw(
    batch: Batch, key: Key, schedule: AnySchedule, objective: Objective, memory: Any
) -> Draws:
    """Draws the times, the noise and the dropout of a batch; see `loss_fn`."""
    keys = rng.example_keys(key, jnp.asarray(batch.indices))
    u = rng.uniform(rng.fold(keys, 0))
    u, importance = objective.times.draw(u, schedule, memory)
    eps = rng.normal(rng.fold(keys, 1), batch.images.shape[1:])
    return Draws(u, importance, objective.time(schedule, u), eps, rng.fold(keys, 2))


def check_combination(
    schedule: AnySchedule, prediction: Prediction, objective: Objective
) -> None:
    """Refuses a prediction that the schedule or the objective cannot take."""
    prediction.check_schedule(schedule)
    objective.check(prediction)


def check_batch(batch: Batch, num_classes: int | None) -> None:
    """Refuses a batch that the objective cannot take; see `loss_fn`."""
    images: ArrayLike = batch.images
    if images.ndim != 4:
        raise InputError(
            f"images must be [batch, height, width, channels]; got shape {images.shape}"
        )
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise InputError(
            f"images must be float, scaled to [-1, 1]; got {images.dtype}: use to_float"
        )
    if not len(images):
        raise InputError("a batch must have at least one image; got 0")
    values = concrete(images)
    if values is not None and values.size:
        low, high = values.min(), values.max()
        if not -1.001 <= low <= high <= 1.001:
            raise InputError(
                f"images must lie in [-1, 1]; got {low:g} to {high:g}: scale them "
                "(to_float does it for 0..255)"
            )
    if batch.labels is None:
        if num_classes is not None:
            raise InputError(
                f"the network has {num_classes} classes, but the batch has no labels"
            )
    else:
        check_labels(batch.labels, num_classes)
    lengths = {len(a) for a in batch if a is not None}
    if len(lengths) != 1:
        raise InputError(
            f"images, labels and indices must be of one length; got {sorted(lengths)}"
        )
