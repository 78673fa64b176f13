"""Data of a run: its training images, and those that it holds out."""

import warnings

from jaxdiff.data import Arrays, Dataset
from jaxdiff.data.dataset import EmptySplit
from jaxdiff.errors import InputError
from jaxdiff.parallel.processes import first_then_others, is_first
from jaxdiff.runs.run import Run
from jaxdiff.training.experiment import AnyExperiment, DataInfo


def load_data(experiment: AnyExperiment, split: str) -> Dataset:
    """Loads a split of the experiment's data; one process prepares it for all."""
    return first_then_others(lambda: experiment.data.load(split))


def load_data_of(run: Run) -> tuple[Dataset, Dataset]:
    """Loads the training data of a run, and its held-out images, possibly none.

    Of images in buckets, these are the ones of the shape that the run draws: of the
    bucket with the most training images.

    Raises:
        InputError: the data that the experiment names differ from the training data.

    Warns:
        UserWarning: the images are those of one bucket.
    """
    if run.parts is not None:
        raise InputError(
            "data must be images for this command, got latents. Look at samples of the "
            "model: jaxdiff sample."
        )
    training = training_data(run.experiment, run.info)
    return of_one_size(training, held_out_data(run.experiment, training))


def of_one_size(training: Dataset, held_out: Dataset) -> tuple[Dataset, Dataset]:
    """Returns the images of the bucket with the most training images.

    Data without buckets are returned as they are.

    Warns:
        UserWarning: the images are those of one bucket.
    """
    shape = training.image_shape
    found = training.of_shape(shape), held_out.of_shape(shape)
    if len(training.buckets) > 1 and is_first():
        numbers = [f"{len(part):,}" for part in found]
        warnings.warn(
            f"used the images of {shape[0]}x{shape[1]}, the bucket with the most "
            f"training images: {numbers[0]} and {numbers[1]} held out",
            stacklevel=3,
        )
    return found


def training_data(experiment: AnyExperiment, info: DataInfo) -> Dataset:
    """Loads the training data of a run.

    Raises:
        InputError: the data that the experiment names differ from the training data.
    """
    known = info.fingerprint
    wrong = f"data must have the fingerprint of the run's training data, {known}, got "
    if isinstance(experiment.data, Arrays):
        raise InputError(
            f"{wrong}arrays of a Python program. Name the same images on disk with "
            "--data, or pass them in Python (jaxdiff.evaluation)."
        )
    training = load_data(experiment, "train")
    found = training.fingerprint()
    if known not in (None, found):  # None in older and imported runs
        raise InputError(
            f"{wrong}{found}. Restore its images and labels, or name them with "
            "--data or --data.path."
        )
    if training.image_shape != info.image_shape:
        raise InputError(
            f"data must have the run's image shape {info.image_shape}, got "
            f"{training.image_shape}. Import the model with the experiment of its data."
        )
    return training


def held_out_data(experiment: AnyExperiment, training: Dataset) -> Dataset:
    """Loads the images that a run holds out, possibly none."""
    try:
        return load_data(experiment, "test")
    except EmptySplit:
        return training.emptied(training.image_shape)
