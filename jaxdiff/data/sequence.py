"""Order of the examples: pure functions of the seed and of a position in the training.

An epoch visits each example once. Images in buckets have an order of their own in each
bucket, and every step draws from one bucket:

(1)  the n_1 + ... + n_K = N steps of a round draw n_k times from bucket k, of n_k
     examples, in a random order
(2)  draw i of a bucket takes the examples i B, ..., (i + 1) B - 1 of its epochs, one
     after the other, for batches of B

A round thus visits each example B times, also in a bucket of fewer examples than B. All
random numbers are raw words of NumPy's Philox generator, which NumPy never changes.
"""

from functools import lru_cache

import numpy as np

from jaxdiff.errors import InputError

_FLIP = 2**64 - 1  # second word of the flips' Philox key; no epoch reaches it
_CAPTION = 2**64 - 2  # the same for the choice of captions
_DROP = 2**64 - 3  # the same for captions that are left out
_BUCKET = 2**64 - 4  # the same for the sequence of the buckets


@lru_cache(maxsize=4)
def order(seed: int, epoch: int, size: int) -> np.ndarray:
    """Returns the order in which an epoch visits the examples (int64 [size]).

    The order sorts raw Philox words, which NumPy never changes. The method of
    `numpy.random.Generator.permutation` may change with the NumPy version. The array is
    cached and read-only.
    """
    return _order(seed, epoch, size, 0)


def _order(seed: int, stream: int, size: int, first: int) -> np.ndarray:
    """Returns the order of the words at first, first + 1, ... (int64 [size])."""
    places = np.argsort(_words(seed, stream, first, size), kind="stable")
    places.setflags(write=False)
    return places


_order_of_bucket = lru_cache(maxsize=64)(_order)  # some epochs of each bucket


def examples(
    size: int, seed: int, step: int, batch_size: int, first: int | None = None
) -> np.ndarray:
    """Returns the indices of a step's examples (integers [batch_size] below `size`).

    Args:
        size: Number of examples of the dataset, or of a bucket.
        seed: Seed of the order.
        step: Number of earlier steps, or of earlier draws from the bucket.
        batch_size: Number of examples per step.
        first: Number of examples in the buckets before; None without buckets.
    """
    if batch_size < 1:
        raise InputError(f"batch_size must be at least 1, got {batch_size}")

    def of_epoch(epoch: int) -> np.ndarray:
        if first is None:
            return order(seed, epoch, size)
        return _order_of_bucket(seed, epoch, size, first)

    start = step * batch_size
    epochs, places = np.divmod(np.arange(start, start + batch_size), size)
    return np.concatenate(
        [
            of_epoch(epoch)[places[epochs == epoch]]
            for epoch in range(int(epochs[0]), int(epochs[-1]) + 1)
        ]
    )


def bucket_draw(sizes: tuple[int, ...], seed: int, step: int) -> tuple[int, int]:
    """Returns the bucket of a step, and its number of earlier draws; equation (1).

    Args:
        sizes: Number of examples of each bucket.
        seed: Seed of the order.
        step: Training step, from 0.
    """
    number, place = divmod(step, sum(sizes))
    buckets, draws = _round(sizes, seed, number)
    bucket = int(buckets[place])
    return bucket, number * sizes[bucket] + int(draws[place])


@lru_cache(maxsize=2)
def _round(
    sizes: tuple[int, ...], seed: int, number: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns each step's bucket in a round, and its earlier draws (int [N] each)."""
    steps = sum(sizes)
    shuffled = _order(seed, _BUCKET, steps, number * steps)
    buckets = np.repeat(np.arange(len(sizes)), sizes)[shuffled]
    draws = np.empty(steps, np.int64)
    # A stable sort has the steps of each bucket in their order.
    draws[np.argsort(buckets, kind="stable")] = np.concatenate(
        [np.arange(size) for size in sizes]
    )
    return buckets, draws


def flips(seed: int, first: int, count: int) -> np.ndarray:
    """Returns whether to flip the examples at first, first + 1, ... (bool [count])."""
    return _words(seed, _FLIP, first, count) >> np.uint64(63) == 1


def drops(seed: int, first: int, count: int, rate: float) -> np.ndarray:
    """Returns whether to leave out the captions of these examples (bool [count])."""
    words = _words(seed, _DROP, first, count)
    return (words >> np.uint64(11)) * 2.0**-53 < rate


def caption_choice(
    seed: int, step: int, batch_size: int, counts: np.ndarray, rows: np.ndarray
) -> np.ndarray:
    """Returns the index of the caption that a step draws for each of its examples.

    The choice is a function of the seed and of the example's position in the training.
    Each caption of an image is equally likely.

    Args:
        seed: Seed of the run, from 0 to 2**64 - 1.
        step: Training step, from 0.
        batch_size: Number of examples per step.
        counts: Number of captions of each example, from 1 (integers [rows]).
        rows: Positions of the examples in the batch (integers [rows]).

    Returns:
        Indices in 0..counts - 1 (int64 [rows]).
    """
    words = _words(seed, _CAPTION, step * batch_size, batch_size)[rows]
    upper = words >> np.uint64(32)  # in 0..2^32 - 1
    return (upper * counts.astype(np.uint64) >> np.uint64(32)).astype(np.int64)


def _words(seed: int, stream: int, first: int, count: int) -> np.ndarray:
    """Returns the random words of the positions first, first + 1, ... (uint64 [count]).

    Each position owns one Philox word. The counter numbers blocks of four words, so the
    generator starts at the first position's block.
    """
    if not 0 <= seed < 2**64:
        raise InputError(f"seed must lie in 0..2^64 - 1, got {seed}")
    block, skipped = divmod(first, 4)
    key = np.array([seed, stream], np.uint64)
    words = np.random.Philox(key=key, counter=block).random_raw(skipped + count)
    return words[skipped:]
