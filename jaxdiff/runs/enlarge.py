"""Super-resolution by a run that was trained with the condition low-resolution.

    small images -> noise of a level -> bicubic enlargement -> condition of the run
    base run -> small images -> run -> images -> further run -> larger images

`conditioning.low_resolution` has the equations. A cascade (Ho et al. 2022) is calls of
`Run.generate` and then of `Run.enlarge`, each with `stage_seeds` of its own.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff import rng
from jaxdiff.conditioning.image_condition import ImageVector
from jaxdiff.conditioning.low_resolution import LowResolution
from jaxdiff.conditioning.tokenizers import Tokenizer
from jaxdiff.data import Dataset
from jaxdiff.denoisers.network import taken
from jaxdiff.errors import InputError
from jaxdiff.runs.own_text import condition_of
from jaxdiff.runs.unclip import stage_seeds
from jaxdiff.training.experiment import DataInfo, Experiment, Sampling
from jaxdiff.typing import ArrayLike, Condition

if TYPE_CHECKING:
    from jaxdiff.runs.run import Run

CASCADE = 0.1
"""Level of the noise that a cascade adds to the images of its previous stage."""
_NOISE, _FIRST = 4, 5
"""Numbers of stages: noise of small images, and the first enlargement of a cascade."""


def is_low_resolution(experiment: Experiment) -> bool:
    """Returns True if an experiment is one of super-resolution."""
    return isinstance(experiment.condition, LowResolution)


def low_resolution_of(experiment: Experiment) -> LowResolution:
    """Returns the condition of an experiment of super-resolution.

    Raises:
        InputError: it is another experiment.
    """
    condition = experiment.condition
    if not isinstance(condition, LowResolution):
        raise InputError(
            "the run must be one of super-resolution to enlarge images, got another. "
            "Train a run with --condition low-resolution."
        )
    return condition


def refuse_image_condition(experiment: Experiment, command: str) -> None:
    """Raises `InputError` if a command is given a run that draws from images."""
    kind = kind_of_condition(experiment)
    if kind is not None:
        raise InputError(
            f"{command} must have a run that draws from noise alone, got {kind}. Use "
            "the commands sample or evaluate."
        )


def kind_of_condition(experiment: Experiment) -> str | None:
    """Returns in words what a run draws from images; None for one without."""
    kinds = {LowResolution: "one of super-resolution", ImageVector: "one of unCLIP"}
    return kinds.get(type(experiment.condition))


def condition_of_rows(
    dataset: Dataset, rows: np.ndarray, info: DataInfo, tokenizer: Tokenizer | None
) -> Condition:
    """Returns classes and captions of some images, without their small images.

    Args:
        dataset: images, with classes and captions if they have some.
        rows: places of the images [num].
        info: data of the run.
        tokenizer: tokenizer of the run, or None.
    """
    labels = None
    if info.num_classes is not None and dataset.labels is not None:
        labels = dataset.labels[rows]
    if tokenizer is None:
        return Condition(labels=labels)
    captions = [""] * len(rows)
    if dataset.captions is not None:
        captions = [dataset.captions[row][0] for row in rows]
    return condition_of(tokenizer, captions)._replace(labels=labels)


def cascade_seeds(seed: int | np.ndarray, place: int) -> np.ndarray:
    """Returns seeds of an enlargement in a cascade, so that its noise is its own.

    Args:
        seed: seed of all images, or one per image.
        place: place of the enlargement in the cascade, from 0.
    """
    return stage_seeds(seed, _FIRST + place)


def condition_of_small(
    run: "Run",
    images: ArrayLike,
    labels: Condition | np.ndarray | None,
    seed: int | np.ndarray,
    *,
    augmentation: float = 0.0,
    indices: np.ndarray | None = None,
) -> tuple["Run", Condition]:
    """Returns the run for the size of small images, and their condition.

    Arguments and errors are those of `enlarge`.
    """
    low = low_resolution_of(run.experiment)
    if not 0 <= augmentation <= low.augmentation:
        raise InputError(
            f"augmentation must lie in 0..{low.augmentation:g}, the levels of the "
            f"training, got {augmentation:g}"
        )
    channels = run.model.image_shape[-1]
    small = jnp.clip(jnp.asarray(images, jnp.float32), -1, 1)
    if small.ndim != 4 or small.shape[-1] != channels or not small.size:
        raise InputError(
            f"images must be [num, height, width, {channels}], got shape {small.shape}"
        )
    num = len(small)
    size = small.shape[1] * low.factor, small.shape[2] * low.factor
    if size != run.image_size:
        run = run.resized(*size)
    seeds = np.broadcast_to(stage_seeds(seed, _NOISE), (num,))
    places = np.arange(num) if indices is None else indices
    keys = jax.vmap(rng.key)(jnp.asarray(seeds))
    noise = rng.step_noise(keys, jnp.asarray(places, jnp.int32), 0, small.shape[1:])
    made = low.condition(small, jnp.full(num, augmentation, jnp.float32), noise)
    given = Condition.of(labels)
    whole = given._replace(image=made.image, image_level=made.image_level)
    return run, jax.tree.map(np.asarray, taken(whole, run.network))


def enlarge(
    run: "Run",
    images: ArrayLike,
    labels: Condition | np.ndarray | None,
    seed: int | np.ndarray,
    *,
    augmentation: float = 0.0,
    sampling: Sampling | None = None,
    indices: np.ndarray | None = None,
    base: Condition | None = None,
    on_chunk: Callable[[int], None] = lambda done: None,
) -> np.ndarray:
    """Enlarges small images by a run of super-resolution; see `Run.enlarge`."""
    sized, condition = condition_of_small(
        run, images, labels, seed, augmentation=augmentation, indices=indices
    )
    return sized.generate(
        condition, len(condition.image), seed, sampling=sampling, indices=indices,
        base=base, on_chunk=on_chunk,
    )  # fmt: skip
