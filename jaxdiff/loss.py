"""The training objective.

    (1)  L = E || output(x_t, t) - target ||^2,   t uniform, eps ~ N(0, 1)
         x_t = alpha_t x_0 + sigma_t eps           (Ho et al. 2020, equation 14)

With `Eps` the target is the noise, and (1) is DDPM's L_simple.
"""

import jax
import jax.numpy as jnp

from jaxdiff import keys as keys_lib
from jaxdiff.denoiser import check_labels
from jaxdiff.errors import InputError, concrete
from jaxdiff.forward import q_sample
from jaxdiff.prediction import Eps, Prediction
from jaxdiff.schedule import Schedule
from jaxdiff.typing import Array, ArrayLike, Batch, Key, Network, Params

QUARTERS = 4


def loss_fn(
    params: Params,
    network: Network,
    schedule: Schedule,
    batch: Batch,
    key: Key,
    prediction: Prediction | None = None,
) -> tuple[Array, dict[str, Array]]:
    """The mean squared error of the network's prediction, equation (1).

    The noise, the time and the dropout of an example depend on (key, its index) alone.

    Args:
        params: the network's parameters, what to differentiate by.
        network: a Flax module such as `UNet`.
        schedule: the noise schedule.
        batch: images in [-1, 1], labels or None, and each example's index.
        key: the step's key.
        prediction: what the network outputs; `Eps()` by default.

    Returns:
        The scalar loss, and metrics that are means over the batch (so that the means of
        shards or of steps are averages of them): `loss`; `loss_by_quarter` [4], the
        part of it from each quarter of the time range, least noisy first; and
        `share_by_quarter` [4], the part of the examples there. A quarter's own mean
        loss is the ratio of the last two.

    Raises:
        InputError: images that are not float, not [batch, height, width, channels] or
            (where they are concrete) outside [-1, 1]; labels that do not fit.
    """
    check_batch(batch, network.num_classes)
    prediction = prediction or Eps()
    x_0 = jnp.asarray(batch.images)
    keys = keys_lib.example_keys(key, jnp.asarray(batch.indices))
    u = keys_lib.uniform(keys_lib.fold(keys, 0))
    eps = keys_lib.normal(keys_lib.fold(keys, 1), x_0.shape[1:])
    level = schedule.level(schedule.time(u))

    x_t = q_sample(schedule, x_0, level.t, eps)
    labels = None if batch.labels is None else jnp.asarray(batch.labels)
    output = network.apply(
        {"params": params}, x_t, level.t, labels, keys_lib.fold(keys, 2)
    )
    error = (output - prediction.target(x_0, eps, level)) ** 2
    losses = error.mean(axis=tuple(range(1, error.ndim)))

    quarter = jax.nn.one_hot(jnp.floor(u * QUARTERS).astype(jnp.int32), QUARTERS)
    loss = losses.mean()
    return loss, {
        "loss": loss,
        "loss_by_quarter": (quarter * losses[:, None]).mean(axis=0),
        "share_by_quarter": quarter.mean(axis=0),
    }


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
