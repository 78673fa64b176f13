"""Sets of images, and batches of them as pure functions of the seed and the step."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, count

import numpy as np

from jaxdiff.data.streaming import Images
from jaxdiff.errors import InputError
from jaxdiff.typing import ArrayLike, Batch

_FLIP = 2**64 - 1  # a second word of the Philox key that no epoch reaches


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set; `from_arrays` makes one from checked arrays.

    Attributes:
        images: uint8 [size, height, width, channels], in memory or read from disk where
            they are indexed.
        labels: int32 [size], or None for a data set without classes.
        class_names: the name of each class, or None.
        known_fingerprint: its fingerprint, where that was computed before.
    """

    images: Images
    labels: np.ndarray | None = None
    class_names: tuple[str, ...] | None = None
    known_fingerprint: str | None = None

    def __len__(self) -> int:
        return len(self.images)

    @property
    def num_classes(self) -> int | None:
        """How many classes there are: as many as names, else the largest label + 1."""
        if self.labels is None:
            return None
        if self.class_names is not None:
            return len(self.class_names)
        return int(self.labels.max()) + 1

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        height, width, channels = self.images.shape[1:]
        return height, width, channels

    def batches(
        self, batch_size: int, *, seed: int = 0, flip: bool = False
    ) -> Iterator[Batch]:
        """Yields the batches of steps 0, 1, ... for ever; see `batch`."""
        for step in count():
            yield batch(self, seed, step, batch_size, flip=flip)

    def fingerprint(self) -> str:
        """A hash of every image and label, of their order and of the classes' names."""
        if self.known_fingerprint is not None:
            return self.known_fingerprint
        labels = () if self.labels is None else (self.labels,)
        parts = chain((np.asarray(self.images),), labels)
        return fingerprint_of(self.images.shape, self.class_names, parts)


def fingerprint_of(
    shape: tuple[int, ...],
    class_names: tuple[str, ...] | None,
    parts: Iterable[np.ndarray],
) -> str:
    """See `Dataset.fingerprint`.

    Args:
        shape: of all images together.
        class_names: the name of each class, or None.
        parts: the images, however they are divided, and then the labels if there are.
    """
    digest = hashlib.sha256(repr((shape, class_names)).encode())
    for part in parts:
        digest.update(np.ascontiguousarray(part).data)
    return digest.hexdigest()[:16]


def check_split(split: str) -> None:
    """Refuses a split that no data set has."""
    if split not in ("train", "test"):
        raise InputError(f"split is {split!r}; give 'train' or 'test'")


def from_arrays(
    images: np.ndarray,
    labels: np.ndarray | None = None,
    class_names: Sequence[str] | None = None,
) -> Dataset:
    """A data set of your own images.

    Args:
        images: uint8 [size, height, width, channels].
        labels: integers [size] from 0, or None.
        class_names: the name of each class, in the order of the labels, or None.

    Raises:
        InputError: the arrays do not fit this description.
    """
    images = np.asarray(images)
    if images.dtype != np.uint8:
        raise InputError(f"images are {images.dtype}; give uint8 from 0 to 255")
    if images.ndim != 4:
        raise InputError(
            f"images have shape {images.shape}; give [size, height, width, channels]"
        )
    if images.size == 0:
        raise InputError(f"images have shape {images.shape}; give at least one image")
    names = None if class_names is None else tuple(class_names)
    if labels is not None:
        labels = checked_labels(np.asarray(labels), len(images), names)
    elif names is not None:
        raise InputError(f"{len(names)} class_names but no labels; give labels as well")
    return Dataset(images, labels, names)


def checked_labels(
    labels: np.ndarray, size: int, names: tuple[str, ...] | None
) -> np.ndarray:
    """Labels as int32 [size], or an InputError that says what is wrong with them."""
    if not np.issubdtype(labels.dtype, np.integer):
        raise InputError(f"labels are {labels.dtype}; give integers from 0")
    if labels.shape != (size,):
        raise InputError(
            f"labels have shape {labels.shape}; give one for each of {size} images"
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0:
        raise InputError(f"the smallest label is {low}; number the classes from 0")
    limit = 2**31 if names is None else len(names)
    if high >= limit:
        raise InputError(
            f"the largest label is {high}; it must be below {limit}, "
            + ("to fit int32" if names is None else "the number of class_names")
        )
    return labels.astype(np.int32)


def to_float(images: np.ndarray) -> np.ndarray:
    """Images uint8 [...] from 0 to 255, as float32 in [-1, 1]."""
    return np.asarray(images, np.float32) / np.float32(127.5) - np.float32(1)


def to_uint8(images: ArrayLike) -> np.ndarray:
    """Images float [...] in [-1, 1], rounded and clipped to uint8 from 0 to 255."""
    pixels = (np.asarray(images, np.float32) + np.float32(1)) * np.float32(127.5)
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


@lru_cache(maxsize=4)
def order(seed: int, epoch: int, size: int) -> np.ndarray:
    """The read-only permutation int64 [size] in which an epoch visits the examples.

    It sorts raw Philox words, which NumPy never changes, where the method that
    `numpy.random.Generator.permutation` uses may change with the NumPy version.
    """
    words = _philox(seed, epoch).random_raw(size)
    places = np.argsort(words, kind="stable")
    places.setflags(write=False)
    return places


def batch(
    dataset: Dataset,
    seed: int,
    step: int,
    batch_size: int,
    *,
    flip: bool = False,
    rows: np.ndarray | None = None,
) -> Batch:
    """The examples of one training step: a pure function of `seed` and `step`.

    Step after step walks through `order(seed, 0, size)`, then `order(seed, 1, size)`
    and so on. A batch straddles the end of an epoch, so each epoch visits every example
    exactly once.

    Args:
        dataset: where the examples come from.
        seed: a seed from 0 to 2**64 - 1 of the order and the flips.
        step: the training step, from 0.
        batch_size: how many examples; it may exceed the size of the data set.
        flip: mirror each example left to right with probability 1/2.
        rows: which examples of the batch to read, integers [rows]; all by default. The
            others are not touched.
    """
    rows = np.arange(batch_size) if rows is None else rows
    chosen = examples(len(dataset), seed, step, batch_size)[rows]
    images = dataset.images[chosen]
    if flip:
        first = step * batch_size
        mirrored = _flips(seed, first, batch_size)[rows, None, None, None]
        images = np.where(mirrored, images[:, :, ::-1], images)
    return Batch(
        images=to_float(images),
        labels=None if dataset.labels is None else dataset.labels[chosen],
        indices=rows.astype(np.int32),
    )


def examples(size: int, seed: int, step: int, batch_size: int) -> np.ndarray:
    """Which of `size` examples a step's batch has, integers [batch_size]."""
    if batch_size < 1:
        raise InputError(f"batch_size is {batch_size}; give at least 1")
    first = step * batch_size
    epochs, places = np.divmod(np.arange(first, first + batch_size), size)
    return np.concatenate(
        [
            order(seed, epoch, size)[places[epochs == epoch]]
            for epoch in range(int(epochs[0]), int(epochs[-1]) + 1)
        ]
    )


def _flips(seed: int, first: int, count: int) -> np.ndarray:
    """Whether to flip, bool [count], at the positions first, first + 1, ...

    Each position owns one Philox word; the counter, which numbers blocks of four words,
    goes straight to the first position's block.
    """
    block, skipped = divmod(first, 4)
    words = _philox(seed, _FLIP, block).random_raw(skipped + count)
    return words[skipped:] >> np.uint64(63) == 1


def _philox(seed: int, word: int, block: int = 0) -> np.random.Philox:
    if not 0 <= seed < 2**64:
        raise InputError(f"seed is {seed}; give an integer from 0 to 2**64 - 1")
    key = np.array([seed, word], np.uint64)
    return np.random.Philox(key=key, counter=block)
