"""The command `statistics`: the features' mean and covariance, of any data set.

Written as other tools write them: `mu` [features] and `sigma` [features, features], in
a .npz. So theirs can be read too, where they used the same features.
"""

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from jaxdiff.data import Dataset
from jaxdiff.errors import InputError, first_line
from jaxdiff.features import Extractor, hash_of
from jaxdiff.judging import FeatureOptions, built, described
from jaxdiff.metrics.frechet import Moments
from jaxdiff.parallel.processes import is_first
from jaxdiff.progress import bar
from jaxdiff.runs.load import load_data
from jaxdiff.storage.files import ensure_writable
from jaxdiff.training.experiment import Experiment

_PART = 4096
"""Images read at a time: their features need not fit into memory all at once."""


@dataclass(frozen=True, kw_only=True)
class StatisticsOptions(FeatureOptions):
    """Whose statistics to write; the other flags choose the data set."""

    out: Path = Path("statistics.npz")
    """The .npz file to write."""
    split: Literal["train", "test"] = "train"
    """Which images of the data set."""
    num: int | None = None
    """How many of these images, the first ones; all by default."""


def statistics(experiment: Experiment, options: StatisticsOptions) -> None:
    """Reads the images of an experiment's data set and writes their statistics."""
    out = options.out
    if out.suffix != ".npz":
        raise InputError(f"--out {out}: name a .npz file")
    ensure_writable(out.parent, "--out")
    training = load_data(experiment, "train")  # on which a classifier is trained
    images = training if options.split == "train" else load_data(experiment, "test")
    num = len(images) if options.num is None else options.num
    if not 2 <= num <= len(images):
        raise InputError(f"num must lie in 2..{len(images)}; got {num}")
    features = options.features_of(training)
    extractor = built(features, training, None, experiment.parallel)
    moments = moments_of(images, num, extractor)
    if not is_first():
        return
    data = f"{num} {options.split} images of data {images.fingerprint()}"
    of = f"{data}, {described(extractor)}"
    np.savez(
        out, allow_pickle=False, mu=moments.mean, sigma=moments.covariance,
        num=np.array(num), of=np.array(of),
    )  # fmt: skip
    print(f"statistics {hash_of(moments)} of {of}, are in {out}")


def moments_of(images: Dataset, num: int, extractor: Extractor) -> Moments:
    """Of the first images of a data set, a part at a time."""
    found = None
    with bar(num, "statistics") as done:
        for places in np.array_split(np.arange(num), -(-num // _PART)):
            part = Moments.of(extractor.read(images.images[places])[0])
            found = part if found is None else found.joined(part)
            done(int(places[-1]) + 1)
    assert found is not None, "there is an image"
    return found


def load_statistics(path: Path) -> Moments:
    """Statistics as the command writes them, or another tool that names them so.

    Raises:
        InputError: the file cannot be read, or holds no mean and covariance.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            mean, covariance = (np.asarray(file[k], float) for k in ("mu", "sigma"))
            num = int(file["num"]) if "num" in file else 0
    except FileNotFoundError:
        raise InputError(f"there is no file '{path}': check --statistics") from None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(
            f"'{path}' holds no statistics ({first_line(error)}): give a .npz with mu "
            "and sigma"
        ) from error
    size = mean.size
    if mean.shape != (size,) or covariance.shape != (size, size):
        raise InputError(
            f"'{path}': mu has shape {mean.shape} and sigma {covariance.shape}; give "
            "[features] and [features, features]"
        )
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise InputError(f"'{path}' holds numbers that are not finite: make it anew")
    return Moments(num, mean, covariance)
