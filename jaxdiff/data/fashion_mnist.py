"""Fashion-MNIST from its IDX files: 28x28 grey images of clothes, in 10 classes.

Xiao, Rasul and Vollgraf 2017, "Fashion-MNIST: a novel image dataset for benchmarking
machine learning algorithms". The files come from the authors' site or from Debian's
package dataset-fashion-mnist. MNIST and KMNIST have files of the same names and format.
"""

import gzip
import math
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jaxdiff.checks import Checked, DiskPath
from jaxdiff.data.dataset import Dataset, check_split, from_arrays
from jaxdiff.errors import InputError
from jaxdiff.storage.files import expanded

CLASSES: tuple[str, ...] = (
    "T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker",
    "Bag", "Ankle boot",
)  # fmt: skip
FIRST_LABELS = {
    "train": (9, 0, 0, 3, 0, 2, 7, 2, 5, 5),
    "test": (9, 2, 1, 1, 6, 1, 4, 6, 5, 7),
}
"""First labels of Fashion-MNIST's files."""
_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
_MOST = 2**31  # most bytes of an IDX file's data; a header could claim any number


@dataclass(frozen=True, kw_only=True)
class FashionMNIST(Checked):
    """60,000 grey images of clothes to train on and 10,000 to test, of 28x28 pixels.

    `--data tfds --data.name fashion_mnist` downloads the same images.
    """

    path: DiskPath = "/usr/share/datasets/fashion-mnist"
    """Folder of the four IDX files, each uncompressed or compressed (.gz)."""
    flip: bool = False
    """If True, mirror training images left to right at random. All shoes point one
    way."""

    def load(self, split: str = "train") -> Dataset:
        """Returns the "train" split (60,000 examples) or the "test" split (10,000).

        Raises:
            InputError: If a file is missing, or is not a valid IDX file.

        Warns:
            UserWarning: If the labels are not Fashion-MNIST's. The classes are then
                named 0 to 9.
        """
        check_split(split)
        folder = expanded(self.path)
        images, labels = (read_idx(_find(folder, name)) for name in _FILES[split])
        if images.ndim != 3 or labels.shape != images.shape[:1]:
            raise InputError(
                f"the {split} files in {str(folder)!r} must hold images [size, height, "
                f"width] and labels [size], got shapes {images.shape} and "
                f"{labels.shape}. Download both files again."
            )
        names, first = CLASSES, FIRST_LABELS[split]
        if tuple(labels[: len(first)].tolist()) != first:
            names = tuple(map(str, range(len(CLASSES))))
            warnings.warn(
                f"named the classes 0 to 9: the {split} files in {str(folder)!r} are "
                "not Fashion-MNIST's",
                stacklevel=2,
            )
        return from_arrays(images[..., None], labels, names)


def read_idx(path: Path) -> np.ndarray:
    """Reads the unsigned bytes of an IDX file, compressed with gzip or not.

    LeCun's format for MNIST: two zeros, the type (8 for unsigned bytes), the number of
    axes, their lengths (32 bits each, most significant byte first), the data.

    Raises:
        InputError: If the file cannot be read, or is not an IDX file of unsigned bytes.
    """
    try:
        with open(path, "rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        with gzip.open(path) if packed else open(path, "rb") as file:
            head = file.read(4)
            if len(head) < 4 or head[:3] != b"\0\0\x08" or not 1 <= head[3] <= 4:
                raise InputError(
                    f"{str(path)!r} is not an IDX file of unsigned bytes. "
                    "Download the file again."
                )
            sizes = file.read(4 * head[3])
            lengths = np.frombuffer(sizes[: len(sizes) // 4 * 4], ">u4").tolist()
            size = math.prod(lengths)
            if len(lengths) < head[3] or size > _MOST:
                raise InputError(
                    f"{str(path)!r} has a damaged header: {lengths}. "
                    "Download the file again."
                )
            data = file.read(size + 1)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(
            f"cannot read {str(path)!r}: {reason}. Check or download the file."
        ) from error
    if len(data) != size:
        raise InputError(
            f"{str(path)!r} must have {size} bytes of data, got "
            f"{'more' if len(data) > size else len(data)}. Download the file again."
        )
    return np.frombuffer(data, np.uint8).reshape(lengths)


def _find(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise InputError(
        f"there is no {name}.gz in {str(folder)!r}. Install Debian's package "
        "dataset-fashion-mnist, set --data.path to the folder of the IDX files, or "
        "download them with --data tfds --data.name fashion_mnist."
    )
