"""Mean and covariance of features: of a data set, and from a file."""

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from jaxdiff.data import Dataset
from jaxdiff.errors import InputError, first_line
from jaxdiff.evaluation.features import Extractor
from jaxdiff.evaluation.frechet import Moments

_PART = 4096
"""Images read at a time: their features need not fit into memory all at once."""


def moments_of(
    images: Dataset,
    num: int,
    extractor: Extractor,
    on_chunk: Callable[[int], None] = lambda done: None,
) -> Moments:
    """Mean and covariance of the first images of a data set, read a part at a time.

    Args:
        images: the data set.
        num: how many of its images, at least 1.
        extractor: the features.
        on_chunk: called with the number of images done after each part.
    """
    found = None
    for places in np.array_split(np.arange(num), -(-num // _PART)):
        part = Moments.of(extractor.read(images.images[places])[0])
        found = part if found is None else found.joined(part)
        on_chunk(int(places[-1]) + 1)
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
