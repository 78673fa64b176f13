"""Training loss: noise a batch, evaluate the network, apply the objective.

    (1)  x_t = alpha_t x_0 + sigma_t eps,   eps ~ N(0, 1),   t as the objective draws it
    (2)  L = E[ objective(output(x_t, t), x_0, eps) ]
    (3)  x_0 = mean + deviation xi,   xi ~ N(0, 1),   for latents of an autoencoder

By default L is DDPM's L_simple, E || output - eps ||^2 (Ho et al. 2020, equation 14).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxdiff import rng
from jaxdiff.checks import check_built, check_object, concrete
from jaxdiff.conditions import hidden
from jaxdiff.denoisers.guidance import classifier_free_guidance
from jaxdiff.denoisers.network import (
    NetworkDenoiser,
    check_condition,
    evaluate,
    num_classes_of,
    with_null_class,
)
from jaxdiff.denoisers.predictions import Eps, Prediction
from jaxdiff.errors import InputError
from jaxdiff.losses.noised import Noised
from jaxdiff.losses.objectives import Objective, Simple
from jaxdiff.schedules.forward import q_sample
from jaxdiff.typing import (
    PIXELS,
    AnySchedule,
    Array,
    ArrayLike,
    Batch,
    Condition,
    Denoiser,
    Key,
    Level,
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
    data_range: tuple[float, float] | None = PIXELS,
    step: Array | int = 0,
    teacher: Params | None = None,
) -> tuple[Array, dict[str, Any]]:
    """Returns the training loss, equation (2), and its metrics.

    The noise, the time and the dropout of an example depend on (key, its index) alone.

    Args:
        params: parameters of the network; the gradient is with respect to them.
        network: Flax module such as `UNet`.
        schedule: noise schedule, discrete or continuous.
        batch: images in [-1, 1], a condition or labels or None, and the index of each
            example; or means and deviations of latents, equation (3).
        key: key of the step.
        prediction: meaning of the network's output; `Eps()` by default.
        objective: objective to minimise; `Simple()` by default.
        memory: memory of the objective's times (`LossHistory`); the initial one by
            default. `objective.times.update(memory, metrics["seen"])` returns the
            memory for the next step.
        data_range: smallest and largest number of an image; None for latents.
        step: number of training steps done, an integer [], for objectives that change
            with it.
        teacher: parameters of the network that an objective with a teacher learns from;
            None for other objectives.

    Returns:
        The scalar loss, and metrics. All metrics are means over the batch, so that
        shards or steps can be averaged:

        - `loss`, and the parts that the objective returns;
        - `loss_by_quarter` [4]: the part of the loss from each quarter of the time
          range, least noisy first;
        - `share_by_quarter` [4]: the share of the examples in each quarter (the mean
          loss of a quarter is the ratio of the two);
        - `seen`: the observation for the times' memory.

    Raises:
        InputError: images that are not float, not [batch, height, width, channels], or
            concrete and outside the range; a condition that does not fit the network;
            or a schedule, prediction and objective that do not go together.
    """
    check_object("network", network, "apply")
    check_batch(batch, network, data_range)
    prediction, objective = prediction or Eps(), objective or Simple()
    check_combination(schedule, prediction, objective)
    objective.check_network(network)
    memory = objective.times.init() if memory is None else memory
    drawn = draw(batch, key, schedule, objective, memory)
    u, importance, t, eps, dropout_keys, x_0, keys = drawn

    x_t = q_sample(schedule, x_0, t, eps)
    levels = schedule.level(t), schedule.next_level(t)
    condition = jax.tree.map(jnp.asarray, Condition.of(batch.condition))
    known: Denoiser | None = None
    if teacher is not None:
        known = NetworkDenoiser(teacher, condition, network, prediction)
        if objective.teacher_guidance != 1:
            known = classifier_free_guidance(known, objective.teacher_guidance)
    elif objective.has_teacher:
        raise InputError(
            "teacher must be given for this objective, got None. Give the parameters "
            "of the trained network."
        )
    free = with_null_class(hidden(condition), network)
    noised = Noised(x_0, eps, x_t, *levels, condition, free, u, keys, step, known)

    def apply(x: Array, level: Level, condition: Condition) -> Array:
        x = prediction.scaled(x, level)
        return evaluate(network, params, x, level.t, condition, dropout_keys)

    losses = objective.losses(apply, noised, prediction, schedule)

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
    """Random numbers of a batch.

    Attributes:
        u: fractions of the schedule's range, [batch].
        importance: weights of the losses, which compensate for the density of u,
            [batch].
        t: times at these fractions, [batch].
        eps: noise of the images' shape.
        dropout_keys: keys for the network, one per example, [batch].
        x_0: images, or latents drawn by equation (3), of the images' shape.
        keys: keys for further draws of the objective, one per example, [batch].
    """

    u: Array
    importance: Array
    t: Timesteps
    eps: Array
    dropout_keys: Key
    x_0: Array
    keys: Key


def draw(
    batch: Batch, key: Key, schedule: AnySchedule, objective: Objective, memory: Any
) -> Draws:
    """Draws times, noise, dropout keys and latents of a batch; see `loss_fn`."""
    keys = rng.example_keys(key, jnp.asarray(batch.indices))
    u = rng.uniform(rng.fold(keys, 0))
    u, importance = objective.times.draw(u, schedule, memory)
    shape, x_0 = batch.images.shape[1:], jnp.asarray(batch.images)
    eps = rng.normal(rng.fold(keys, 1), shape)
    if batch.deviation is not None:
        x_0 = x_0 + jnp.asarray(batch.deviation) * rng.normal(rng.fold(keys, 3), shape)
    t = objective.time(schedule, u)
    return Draws(u, importance, t, eps, rng.fold(keys, 2), x_0, rng.fold(keys, 4))


def check_combination(
    schedule: AnySchedule, prediction: Prediction, objective: Objective
) -> None:
    """Checks that the schedule and the objective accept the prediction.

    Raises:
        InputError: one of them does not, is not built, or is a class.
    """
    check_built(schedule, "next_level", "time")
    check_object("prediction", prediction)
    check_object("objective", objective)
    prediction.check_schedule(schedule)
    objective.check(prediction)
    objective.check_schedule(schedule)


def check_batch(
    batch: Batch, network: Network, data_range: tuple[float, float] | None = PIXELS
) -> None:
    """Checks a batch for a network; see `loss_fn`.

    Raises:
        InputError: the images, condition or indices do not fit.
    """
    images: ArrayLike = batch.images
    if images.ndim != 4:
        raise InputError(
            f"images must be [batch, height, width, channels], got shape {images.shape}"
        )
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise InputError(
            f"images must be float, scaled to [-1, 1], got {images.dtype}. Use "
            "to_float."
        )
    if not len(images):
        raise InputError("a batch must have at least one image, got 0")
    values = concrete(images)
    if values is not None and values.size and data_range is not None:
        least, most = data_range
        low, high = values.min(), values.max()
        if not least - 0.001 <= low <= high <= most + 0.001:
            raise InputError(
                f"images must lie in [{least:g}, {most:g}], got {low:g} to {high:g}. "
                "Scale them (to_float scales 0..255)."
            )
    condition, num_classes = Condition.of(batch.condition), num_classes_of(network)
    if condition.labels is None and num_classes is not None:
        raise InputError(
            f"labels must be given for a network with {num_classes} classes, got "
            "None. Give the batch labels."
        )
    check_condition(condition, network)
    if batch.deviation is not None and batch.deviation.shape != images.shape:
        raise InputError(
            f"deviation must have the shape of images, {images.shape}, got "
            f"{batch.deviation.shape}"
        )
    lengths = {len(a) for a in (images, batch.indices, *condition) if a is not None}
    if len(lengths) != 1:
        raise InputError(
            f"images, labels and indices must be of one length, got {sorted(lengths)}"
        )
