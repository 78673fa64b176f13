"""Mean and covariance of features: of a dataset, or from a file."""

import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from jaxdiff.data import Dataset
from jaxdiff.errors import InputError, first_line
from jaxdiff.evaluation.features import Extractor
from jaxdiff.evaluation.frechet import Moments
from jaxdiff.storage.files import open_regular, size

_PART = 4096
"""Images per part: the features of a whole dataset may not fit into memory."""
_MOST = 2**31
"""Most bytes of the arrays in a file; 2,048 features need 34 MB."""


def moments_of(
    images: Dataset,
    num: int,
    extractor: Extractor,
    on_chunk: Callable[[int], None] = lambda done: None,
) -> Moments:
    """Computes the moments of a dataset's first images, part by part.

    Args:
        images: the dataset.
        num: number of images, at least 1.
        extractor: feature network.
        on_chunk: called with the number of finished images after each part.
    """
    found = None
    for places in np.array_split(np.arange(num), -(-num // _PART)):
        part = Moments.of(extractor.read(images.images[places])[0])
        found = part if found is None else found.joined(part)
        on_chunk(int(places[-1]) + 1)
    assert found is not None, "there is an image"
    return found


def load_statistics(path: Path) -> Moments:
    """Reads a .npz file with the arrays mu and sigma, and optionally num.

    Raises:
        InputError: the file cannot be read, or holds no mean and covariance.
    """
    try:
        with open_regular(path) as opened, zipfile.ZipFile(opened) as archive:
            if sum(info.file_size for info in archive.infolist()) > _MOST:
                raise ValueError(f"more than {size(_MOST)}")
        with np.load(path, allow_pickle=False) as file:
            mean, covariance = (np.asarray(file[k], float) for k in ("mu", "sigma"))
            num = int(file["num"]) if "num" in file else 0
    except FileNotFoundError:
        raise InputError(f"there is no file '{path}'. Check --statistics.") from None
    except (
        OSError, ValueError, KeyError, EOFError, MemoryError, NotImplementedError,
        RuntimeError, zipfile.BadZipFile, zlib.error,
    ) as error:  # fmt: skip
        raise InputError(
            f"'{path}' must hold statistics, got: {first_line(error)}. Give a .npz "
            "file with mu and sigma."
        ) from error
    features = mean.size
    if mean.shape != (features,) or covariance.shape != (features, features):
        raise InputError(
            f"'{path}': mu and sigma must have shapes [features] and [features, "
            f"features], got {mean.shape} and {covariance.shape}"
        )
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise InputError(
            f"'{path}' must hold finite numbers, got nan or inf. Compute it again."
        )
    return Moments(num, mean, covariance)
