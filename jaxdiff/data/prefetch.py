"""Reads ahead: what comes next is made by other threads while this one computes."""

from collections.abc import Callable, Iterator
from typing import TypeVar

from jaxdiff.errors import require

THREADS = 4
"""Reading, decoding and NumPy's copies run beside Python, and so beside each other."""

Made = TypeVar("Made")


def read_ahead(
    make: Callable[[int], Made], first: int, end: int, ahead: int = 2 * THREADS
) -> Iterator[Made]:
    """`make(first)`, `make(first + 1)` and so on up to `end`, in this order, by Grain.

    Args:
        make: a pure function, called from several threads.
        first: where to begin.
        end: where to end; this one is not made.
        ahead: how many are made before they are asked for.
    """
    grain = require("grain")
    options = grain.ReadOptions(num_threads=THREADS, prefetch_buffer_size=ahead)
    places = grain.MapDataset.range(first, end)
    made: Iterator[Made] = iter(
        places.map(lambda place: make(int(place))).to_iter_dataset(options)
    )
    return made
