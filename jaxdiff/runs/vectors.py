"""Vectors of images and texts by trained towers, on which unCLIP's models are trained.

The decoder is given the vector of each image. The prior is trained on these vectors in
place of images, given the captions by the text tower. All are computed once, at the
start of a training, and stay in memory. The run stores the checksum of the towers.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from jaxdiff.conditioning.image_condition import ImageVector, vector_condition
from jaxdiff.data import Dataset
from jaxdiff.data.buckets import Images
from jaxdiff.data.captions import Captions, numbered
from jaxdiff.data.dataset import Moments, Texts
from jaxdiff.errors import InputError
from jaxdiff.networks.prior import PriorConfig
from jaxdiff.parallel.processes import is_first
from jaxdiff.progress_bar import bar as progress_bar
from jaxdiff.progress_bar import is_shown
from jaxdiff.runs.bucketed import check_squares
from jaxdiff.runs.identity import identity
from jaxdiff.runs.towers import TowersRun, load_towers
from jaxdiff.storage.files import expanded
from jaxdiff.training.experiment import AnyExperiment, Experiment
from jaxdiff.training.prior_experiment import PriorExperiment
from jaxdiff.typing import Condition

BLOCK = 4096
"""Number of images that are read at once."""
TEXTS_AT_ONCE = 256
"""Number of texts that are encoded at once."""
AnExperiment = TypeVar("AnExperiment", bound=AnyExperiment)


def is_decoder(experiment: AnyExperiment) -> bool:
    """Returns True for a decoder of unCLIP of one's own."""
    return isinstance(getattr(experiment, "condition", None), ImageVector)


def towers_of(experiment: AnyExperiment) -> Path | None:
    """Returns the folder of an experiment's towers; None for one without.

    Raises:
        InputError: the experiment names none.
    """
    condition = getattr(experiment, "condition", None)
    if isinstance(experiment, PriorExperiment):
        name, path = "towers", experiment.towers
    elif isinstance(condition, ImageVector):
        name, path = "condition.towers", condition.towers
    else:
        return None
    if not path:
        raise InputError(
            f"{name} must name the run folder of towers, got ''. Train some with "
            f"jaxdiff train-towers, and set --{name}."
        )
    return expanded(path)


def identity_of_towers(experiment: AnyExperiment) -> str | None:
    """Returns the step and the checksum of an experiment's towers; None without.

    Raises:
        InputError: there are no such towers.
    """
    folder = towers_of(experiment)
    return None if folder is None else identity(folder)


def read_towers(experiment: AnyExperiment, known: str | None = None) -> TowersRun:
    """Returns the towers of an experiment that has some.

    Args:
        experiment: the experiment.
        known: their step and checksum; those of the newest step by default.

    Raises:
        InputError: there are no such towers, or they have changed.
    """
    folder = towers_of(experiment)
    assert folder is not None, "an experiment with towers"
    step = None if known is None else int(known.split()[0])
    if known is not None and identity(folder, step) != known:
        raise InputError(
            f"'{folder}' must hold the towers that the run was trained with, {known}, "
            f"got {identity(folder, step)}. Restore them."
        )
    return load_towers(folder, step)


def with_vectors(
    experiment: AnExperiment, dataset: Dataset
) -> tuple[AnExperiment, Dataset]:
    """Returns experiment and dataset with what the towers make of it.

    Without towers, both stay as they are.

    Raises:
        InputError: the towers do not fit the data or the network.
    """
    if towers_of(experiment) is None:
        return experiment, dataset
    check_squares(dataset)
    if experiment.data.flip:
        raise InputError(
            "data.flip must be False, because the vectors are those of the images as "
            "they are, got True. Set --data.no-flip."
        )
    towers = read_towers(experiment)
    if isinstance(experiment, PriorExperiment):
        network, found = _of_prior(experiment, dataset, towers)
        return replace(experiment, network=network), found
    assert isinstance(experiment, Experiment), "a decoder"
    return experiment, _of_decoder(experiment, dataset, towers)


def _of_prior(
    experiment: PriorExperiment, dataset: Dataset, towers: TowersRun
) -> tuple[PriorConfig, Dataset]:
    """Returns a prior's network for the towers, and vectors in place of images."""
    if dataset.captions is None:
        raise InputError(
            "data must have captions for a prior, got none. Read those of a folder "
            "with --data.captions auto."
        )
    text = towers.network.config.text
    network = replace(
        experiment.network, features=towers.network.config.features,
        text_features=text.width, length=text.length,
    )  # fmt: skip
    vectors = vectors_of(towers, dataset.images)
    found = replace(
        dataset,
        images=vectors[:, None, None],
        labels=None,
        class_names=None,
        known_fingerprint=dataset.fingerprint(),
        texts=texts_of(towers, dataset.captions),
        moments=Moments(vectors.shape[1]),
    )
    return network, found


def _of_decoder(experiment: Experiment, dataset: Dataset, towers: TowersRun) -> Dataset:
    """Returns the images of a decoder, with the vector of each in place of a text."""
    if experiment.low_rank is not None:
        raise InputError(
            "adapter must be none for the condition image-vector, got lora. Leave it "
            "out."
        )
    wanted = getattr(experiment.network, "vector_channels", None)
    features = towers.network.config.features
    if wanted not in (None, features):
        raise InputError(
            f"network.vector_channels must be {features}, the features of the towers, "
            f"got {wanted}. Set it."
        )
    none = np.zeros((1, features), np.float32)
    rows = np.concatenate([none, vectors_of(towers, dataset.images)])
    texts = Texts(
        lambda numbers: Condition(vector=rows[numbers]),
        np.arange(1, len(rows)), np.arange(len(rows)),
    )  # fmt: skip
    return replace(dataset, texts=texts, known_fingerprint=dataset.fingerprint())


def vectors_of(towers: TowersRun, images: Images, *, quiet: bool = False) -> np.ndarray:
    """Returns the vectors of images, as a condition has them.

    Args:
        towers: the towers.
        images: images in memory or on disk, uint8 [num, height, width, channels].
        quiet: if True, no progress is shown.

    Raises:
        InputError: the images have another shape than those of the towers.
    """
    num, found = len(images), []
    shows = is_shown() and is_first() and not quiet
    with progress_bar(num, "vectors", "image", show=shows) as shown:
        for begin in range(0, num, BLOCK):
            block = images[np.arange(begin, min(begin + BLOCK, num))]
            found.append(towers.images(block))
            shown.update(len(block))
    return vector_condition(np.concatenate(found))


def text_condition(towers: TowersRun, texts: Sequence[str]) -> Condition:
    """Returns texts as the prior takes them: features of tokens, mask and vector."""
    found = towers.text_encoder(list(texts), quiet=True)
    vectors = vector_condition(towers.texts(list(texts)))
    tokens = np.asarray(found.text, np.float32)
    return Condition(text=tokens, mask=np.asarray(found.mask), vector=vectors)


def texts_of(towers: TowersRun, captions: Captions) -> Texts:
    """Returns the captions of all images as the prior takes them."""
    every, numbers, first = numbered(captions)
    parts = [
        text_condition(towers, every[begin : begin + TEXTS_AT_ONCE])
        for begin in range(0, len(every), TEXTS_AT_ONCE)
    ]
    text, mask, vector = (
        np.concatenate([getattr(part, name) for part in parts])
        for name in ("text", "mask", "vector")
    )
    half = text.astype(np.float16)  # most of the memory

    def of(numbers: np.ndarray) -> Condition:
        tokens = half[numbers].astype(np.float32)
        return Condition(text=tokens, mask=mask[numbers], vector=vector[numbers])

    return Texts(of, numbers, first)
