"""Prefetching: threads of Grain prepare the next results while the caller computes."""

from collections.abc import Callable, Iterator
from typing import TypeVar

from jaxdiff.errors import require

THREADS = 4
"""Number of threads. Reading, decoding and NumPy's copies release Python's lock, so
they run in parallel."""

Made = TypeVar("Made")


def read_ahead(
    make: Callable[[int], Made], first: int, end: int, ahead: int = 2 * THREADS
) -> Iterator[Made]:
    """Returns an iterator over `make(first)`, ..., `make(end - 1)`, in this order.

    Threads of Grain prefetch the results.

    Args:
        make: Pure function, called from several threads.
        first: First argument of `make`.
        end: End of the arguments, exclusive.
        ahead: Number of results to prefetch.
    """
    grain = require("grain")
    options = grain.ReadOptions(num_threads=THREADS, prefetch_buffer_size=ahead)
    places = grain.MapDataset.range(first, end)
    made: Iterator[Made] = iter(
        places.map(lambda place: make(int(place))).to_iter_dataset(options)
    )
    return made
