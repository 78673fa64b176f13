"""Samples of captions, of a model of text in pixels or in latents."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxdiff.data import Data, Dataset, Latents, order, to_float, to_uint8
from jaxdiff.data.latents import read_info
from jaxdiff.errors import InputError
from jaxdiff.evaluation.text_agreement import distinct
from jaxdiff.runs.data_of_run import (
    held_out_data,
    load_data,
    of_one_size,
    training_data,
)
from jaxdiff.runs.run import Run
from jaxdiff.runs.towers import TowersRun
from jaxdiff.runs.vectors import is_decoder
from jaxdiff.storage.files import expanded
from jaxdiff.training.experiment import Sampling

TEXTS_AT_ONCE = 64
"""Number of texts that are encoded at once."""


class Real(NamedTuple):
    """Images that a model of text was trained on, and those held out.

    Attributes:
        data: options of the images.
        training: training images.
        held_out: held-out images, possibly none.
    """

    data: Data
    training: Dataset
    held_out: Dataset

    @classmethod
    def of(cls, run: Run, stored: Data, towers: TowersRun | None) -> "Real":
        """Loads the images of a run; a run of latents takes those of the towers.

        Args:
            run: the trained model.
            stored: data in the run's config.json; flags may have changed `run`'s.
            towers: towers that were trained on the same images, or None.

        Raises:
            InputError: the images are not those of the run, or are not known.
        """
        experiment = run.experiment
        if run.parts is None:
            training = training_data(experiment, run.info)
        else:
            training, experiment = _of_latents(run, stored, towers)
        if training.captions is None:
            raise InputError(
                "data must have captions for a model of text, got none. Read those of "
                "a folder with --data.captions auto."
            )
        found = cls(experiment.data, training, held_out_data(experiment, training))
        if towers is not None:
            found.check_towers(towers)
        return cls(experiment.data, *of_one_size(found.training, found.held_out))

    def check_towers(self, towers: TowersRun) -> None:
        """Raises `InputError` for towers that were trained on other images."""
        shape, known = self.training.image_shape, self.training.fingerprint()
        if (towers.info.image_shape, towers.info.fingerprint) != (shape, known):
            raise InputError(
                f"towers must be trained on the images of the run, {shape} with the "
                f"fingerprint {known}, got {towers.info.image_shape} with "
                f"{towers.info.fingerprint}. Train towers on the same data."
            )


def _of_latents(
    run: Run, stored: Data, towers: TowersRun | None
) -> tuple[Dataset, Any]:
    """Returns the training images of a run of latents, and their experiment."""
    data, known = run.experiment.data, None
    if isinstance(stored, Latents):
        known = read_info(expanded(stored.path)).source.get("train")
    if isinstance(data, Latents):
        if towers is None:
            raise InputError(
                "towers or data must name images for a model of latents, got neither. "
                "Give --towers RUN, whose images are taken, or --data."
            )
        data = towers.experiment.data
    experiment = replace(run.experiment, data=data)
    training = load_data(experiment, "train")
    if known not in (None, training.fingerprint()):
        raise InputError(
            "data must be the images of the run's latents, with the fingerprint "
            f"{known}, got {training.fingerprint()}. Name them with --data."
        )
    if training.image_shape[:2] != run.image_size:
        raise InputError(
            f"data must have the model's size {run.image_size}, got "
            f"{training.image_shape[:2]}. Set --data.size."
        )
    return training, experiment


class Captioned(NamedTuple):
    """Real images with one caption each, to draw from and to compare with.

    Attributes:
        name: name of the set.
        split: split of the images.
        images: uint8 [num, height, width, channels].
        texts: caption of each image: its first one that is not empty.
        places: place of each image in its split, integers [num].
    """

    name: str
    split: str
    images: np.ndarray
    texts: tuple[str, ...]
    places: np.ndarray

    @classmethod
    def of(cls, name: str, split: str, dataset: Dataset, num: int) -> "Captioned":
        """Returns at most `num` images that have a caption; always the same ones."""
        captions = dataset.captions or ()
        firsts = [next(filter(None, texts), "") for texts in captions]
        known = [i for i in order(0, 0, len(dataset)) if firsts[i]]
        places = np.sort(np.array(known[:num], np.int64))
        texts = tuple(firsts[place] for place in places)
        return cls(name, split, np.asarray(dataset.images[places]), texts, places)

    def repeated(self, num: int) -> np.ndarray:
        """Returns the image in the set whose caption sample i is drawn from, [num]."""
        return np.arange(num) % len(self.texts)


def check_prompts(run: Run) -> None:
    """Raises `InputError` for a model of text that takes more than prompts."""
    info = None if run.parts is None else run.parts.info
    if info is not None and (info.unclip is not None or info.inputs != "none"):
        raise InputError(
            "the run must take prompts alone to be evaluated, got a model of "
            f"{info.pipeline}. Look at its samples: jaxdiff sample."
        )


def draw(
    run: Run,
    texts: Sequence[str],
    seed: int,
    sampling: Sampling | None = None,
    on_chunk: Callable[[int], None] = lambda done: None,
) -> np.ndarray:
    """Draws an image of each text, uint8 [num, height, width, channels].

    Args:
        run: the trained model; latents are decoded.
        texts: prompts.
        seed: seed of the samples; image i depends on it, on i and on its text.
        sampling: sampler, guidance and clipping; the experiment's by default.
        on_chunk: called with the number of samples drawn.
    """
    if is_decoder(run.experiment):
        vectors = run.unclip.draw(list(texts), seed)
        return _decoded(run, vectors, seed, sampling, on_chunk)
    different, numbers = distinct(texts)
    parts = [
        run.prompts(different[i : i + TEXTS_AT_ONCE], run.image_size, quiet=True)
        for i in range(0, len(different), TEXTS_AT_ONCE)
    ]
    condition = jax.tree.map(
        lambda *found: np.concatenate(found)[numbers], *jax.device_get(parts)
    )
    base = jax.device_get(run.negative(condition))
    found = run.generate(
        condition, len(numbers), seed, sampling=sampling, base=base, on_chunk=on_chunk
    )
    return to_uint8(found if run.parts is None else run.decode(found))


def draw_variations(
    run: Run,
    images: np.ndarray,
    seed: int,
    sampling: Sampling | None = None,
    on_chunk: Callable[[int], None] = lambda done: None,
) -> np.ndarray:
    """Draws a variation of each image by a decoder of unCLIP; see `draw`.

    Args:
        run: the trained decoder.
        images: uint8 [num, height, width, channels].
        seed: seed of the samples.
        sampling: sampler, guidance and clipping; the experiment's by default.
        on_chunk: called with the number of samples drawn.
    """
    vectors = run.unclip.encode(to_float(images))  # type: ignore[arg-type]
    return _decoded(run, vectors, seed, sampling, on_chunk)


def _decoded(
    run: Run,
    vectors: np.ndarray,
    seed: int,
    sampling: Sampling | None,
    on_chunk: Callable[[int], None],
) -> np.ndarray:
    """Returns an image of each vector, uint8."""
    condition, base = run.unclip.condition(vectors)
    found = run.generate(
        condition, len(vectors), seed, sampling=sampling, base=base, on_chunk=on_chunk
    )
    return to_uint8(found)
