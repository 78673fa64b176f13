"""Images that stay on disk until they are asked for: sets larger than memory."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np

from jaxdiff.errors import InputError

SHARE = 0.5
"""Images that fill more than this share of the memory are read as they are needed."""
_AT_ONCE = 256  # images that are read together where all are read


class Source(Protocol):
    """Serialized examples by their place, such as an array_record file."""

    def __len__(self) -> int: ...

    def __getitems__(self, places: Sequence[int]) -> Sequence[bytes]: ...


class Records:
    """The images of a prepared split as an array that is read where it is indexed.

    Any number of threads may read at a time.

    Args:
        source: its examples.
        feature: the TFDS features by which they are read, with the image.
        key: the name of the image among them.
        shape: height, width and channels of each image.
    """

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __init__(
        self, source: Source, features: Any, key: str, shape: tuple[int, int, int]
    ):
        self._source, self._features, self._key = source, features, key
        self.shape = (len(source), *shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, places: Any) -> np.ndarray:
        """The images at integers or a slice, uint8 [..., height, width, channels].

        Raises:
            InputError: a record cannot be read, or holds an image of another size.
            IndexError: there is no such place.
        """
        chosen = np.arange(len(self))[places]
        found = np.empty((chosen.size, *self.shape[1:]), np.uint8)
        flat = chosen.reshape(-1)
        for i, example in enumerate(examples_at(self._source, self._features, flat)):
            found[i] = checked(example[self._key], self.shape[1:], int(flat[i]))
        return found.reshape(*chosen.shape, *self.shape[1:])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """All of them in memory."""
        return np.asarray(self[:], dtype)


Images: TypeAlias = np.ndarray | Records
"""Images uint8 [size, height, width, channels]: integers or a slice give an array."""


def examples_at(
    source: Source, features: Any, places: np.ndarray
) -> Iterator[dict[str, Any]]:
    """The examples at integers [n], in this order.

    Raises:
        InputError: a record cannot be read.
    """
    for first in range(0, len(places), _AT_ONCE):
        some = places[first : first + _AT_ONCE].tolist()
        try:
            yield from map(features.deserialize_example_np, source.__getitems__(some))
        except InputError:
            raise
        except Exception as error:  # whatever the reader of the file raises
            raise InputError(
                f"cannot read the records {some[0]} to {some[-1]} of the prepared "
                f"data: {error}; remove its folder, so that it is prepared again"
            ) from error


def checked(image: np.ndarray, shape: tuple[int, ...], place: int) -> np.ndarray:
    """Refuses an image of another shape than the others."""
    if image.shape != shape:
        raise InputError(
            f"the data has images of several sizes, {shape} and {image.shape} (at "
            f"place {place}); prepare a data set whose images are resized to one"
        )
    return image


def too_large(count: int, shape: tuple[int, ...]) -> bool:
    """Whether so many images would fill too much of this machine's memory."""
    return count * int(np.prod(shape)) > SHARE * memory()


def memory() -> int:
    """The memory of this machine, or of its container, in bytes."""
    found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:  # "max" is no limit, and no number
        return min(found, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):
        return found
