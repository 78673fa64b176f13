"""Images that stay on disk until they are indexed, for datasets larger than memory."""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from jaxdiff.errors import InputError

SHARE = 0.5
"""Share of the memory; images that need more are read from disk on demand."""
_AT_ONCE = 256  # number of examples per read
Example = TypeVar("Example")


class Source(Protocol):
    """Serialized examples, indexed by position, such as an ArrayRecord file."""

    def __len__(self) -> int: ...

    def __getitems__(self, places: Sequence[int]) -> Sequence[bytes]: ...


class Records:
    """Array on disk, such as a prepared split's images, whose rows are read on demand.

    Any number of threads may read at the same time.

    Args:
        source: Serialized examples.
        decode: Function that returns the array of an example.
        shape: Shape of each array, such as height, width and channels.
        dtype: Type of the arrays.
        places: Positions of the examples in the source (integers [n]); None for all.
    """

    def __init__(
        self,
        source: Source,
        decode: Callable[[bytes], np.ndarray],
        shape: tuple[int, ...],
        dtype: Any = np.uint8,
        places: np.ndarray | None = None,
    ):
        self._source, self._decode = source, decode
        self._places = np.arange(len(source)) if places is None else places
        self.shape, self.dtype = (len(self._places), *shape), np.dtype(dtype)
        self.ndim = len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, places: Any) -> np.ndarray:
        """Reads rows by integers or a slice ([..., *shape of a row]).

        Raises:
            InputError: If an example cannot be read, or has another shape.
            IndexError: If a position does not exist.
        """
        chosen = self._places[places]
        found = np.empty((chosen.size, *self.shape[1:]), self.dtype)
        flat = chosen.reshape(-1)
        for i, row in enumerate(examples_at(self._source, self._decode, flat)):
            found[i] = checked(row, self.shape[1:], int(flat[i]))
        return found.reshape(*chosen.shape, *self.shape[1:])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Reads all rows into memory."""
        return np.asarray(self[:], dtype)


class Unreadable(InputError):
    """Prepared data that is damaged, or whose disk fails."""


def examples_at(
    source: Source, decode: Callable[[bytes], Example], places: np.ndarray
) -> Iterator[Example]:
    """Yields the decoded examples at these positions, in this order (integers [n]).

    Raises:
        Unreadable: If an example cannot be read.
    """
    for first in range(0, len(places), _AT_ONCE):
        some = places[first : first + _AT_ONCE].tolist()
        try:
            yield from map(decode, source.__getitems__(some))
        except InputError:
            raise
        except Exception as error:  # the file's reader may raise anything
            raise Unreadable(
                f"cannot read the examples {some[0]} to {some[-1]} of the prepared "
                f"data: {error}. Remove the data's folder to prepare the data again."
            ) from error


def checked(image: np.ndarray, shape: tuple[int, ...], place: int) -> np.ndarray:
    """Returns the image; raises an error if its shape differs from `shape`."""
    if image.shape != shape:
        raise InputError(
            f"images must have one size, got {shape} and {image.shape} (at index "
            f"{place}). Resize the images of the dataset to one size."
        )
    return image


def too_large(count: int, shape: tuple[int, ...]) -> bool:
    """Returns True if `count` images would fill too much of this machine's memory."""
    return count * int(np.prod(shape)) > SHARE * memory()


def memory() -> int:
    """Returns the memory of this machine or its container, in bytes."""
    found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:  # "max" means no limit
        return min(found, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):
        return found
