"""The command `statistics`: mean and covariance of a dataset's features.

The file is a .npz with `mu` [features] and `sigma` [features, features], as other tools
write it. So `evaluate` also reads the files of other tools with the same features.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from jaxdiff.cli.progress import bar
from jaxdiff.cli.quality_options import (
    FeatureOptions,
    build_features,
    describe_features,
)
from jaxdiff.errors import InputError, printable
from jaxdiff.evaluation.features import hash_of
from jaxdiff.evaluation.reference_statistics import moments_of
from jaxdiff.parallel import cpu_devices
from jaxdiff.parallel.processes import is_first
from jaxdiff.runs.data_of_run import load_data
from jaxdiff.storage.files import ensure_writable, replacing
from jaxdiff.training.experiment import Experiment


@dataclass(frozen=True, kw_only=True)
class StatisticsOptions(FeatureOptions):
    """Options of the command `statistics`; the other flags choose the dataset."""

    out: Path = Path("statistics.npz")
    """File to write, a .npz."""
    split: Literal["train", "test"] = "train"
    """Split of the dataset to read."""
    num: int | None = None
    """Number of images, from the start of the split. None takes all."""


def statistics(options: StatisticsOptions, experiment: Experiment) -> None:
    """Reads the images of an experiment's dataset and writes their statistics."""
    cpu_devices.use(experiment.parallel.usable(cpu_devices.available()))
    out = options.out
    if out.suffix != ".npz":
        raise InputError(f"--out must be a .npz file, got {out}")
    ensure_writable(out.parent, "--out")
    training = load_data(experiment, "train")  # the classifier trains on it
    images = training if options.split == "train" else load_data(experiment, "test")
    shape = training.image_shape  # with buckets, of the one with the most images
    training, images = training.of_shape(shape), images.of_shape(shape)
    num = len(images) if options.num is None else options.num
    if not 2 <= num <= len(images):
        raise InputError(f"num must lie in 2..{len(images)}, got {num}")
    features = options.features_of(training)
    extractor = build_features(features, training, None, experiment.parallel)
    with bar(num, "statistics") as on_chunk:
        moments = moments_of(images, num, extractor, on_chunk)
    if not is_first():
        return
    data = f"{num} {options.split} images of data {images.fingerprint()}"
    of = f"{data}, {describe_features(extractor)}"
    with replacing(out) as file:
        np.savez(
            file, allow_pickle=False, mu=moments.mean, sigma=moments.covariance,
            num=np.array(num), of=np.array(of),
        )  # fmt: skip
    print(printable(f"statistics {hash_of(moments)} of {of}, are in {out}"))
