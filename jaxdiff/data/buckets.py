"""Aspect-ratio buckets: images of a few shapes, one shape per batch.

Podell et al. 2023 (SDXL), section 2.3, as NovelAI did before. A bucket has a height h
and a width w, both multiples of a step, of at most the pixels of a square of side s:

    (1)  w = the largest multiple with h w <= s^2 and w <= 2 h, for each h <= w;
         and the same with h and w in each other's place
    (2)  an image goes to the bucket that minimises | log(h / w) - log(h' / w') |, where
         h' and w' are the image's height and width

Of several buckets with one ratio, the largest counts.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np

from jaxdiff.data.streaming import Records
from jaxdiff.errors import InputError

MOST_RATIO = 2
"""Largest ratio of the sides of a bucket."""


@lru_cache(maxsize=16)
def bucket_sizes(size: int, step: int) -> tuple[tuple[int, int], ...]:
    """Returns height and width of each bucket, equation (1), by their ratio.

    Args:
        size: Side of the square with the most pixels.
        step: Number that divides heights and widths, from 1 to `size`.
    """
    largest: dict[float, tuple[int, int]] = {}
    for short in range(step, size + 1, step):
        long = min(size**2 // short, MOST_RATIO * short) // step * step
        for height, width in ((short, long), (long, short)):
            if long >= short:  # of one ratio, the last is the largest
                largest[height / width] = height, width
    return tuple(largest[ratio] for ratio in sorted(largest))


def nearest_size(
    height: int, width: int, sizes: Sequence[tuple[int, int]]
) -> tuple[int, int]:
    """Returns the bucket of an image of this height and width, equation (2).

    The bucket with the smaller ratio counts if two are equally near.
    """
    ratio = math.log(height / width)
    return min(sizes, key=lambda size: abs(math.log(size[0] / size[1]) - ratio))


class Buckets:
    """Images of several shapes, bucket after bucket.

    An index selects images of one bucket. `shape` is that of all images, as if they had
    the shape of the bucket with the most images.

    Args:
        parts: Images of each bucket [number, height, width, channels].

    Raises:
        InputError: If there are no images, or their channels or types differ.
    """

    def __init__(self, parts: Sequence[np.ndarray | Records]):
        self.parts = tuple(parts)
        kinds = {(len(part.shape), part.shape[-1:], part.dtype) for part in parts}
        if len(kinds) != 1 or not all(map(len, self.parts)):
            raise InputError(
                "parts must be images of one number of channels and one type, at least "
                f"one per bucket, got {[part.shape for part in parts]}"
            )
        self.sizes = tuple(map(len, self.parts))
        self.first = np.cumsum([0, *self.sizes])
        self.largest = int(np.argmax(self.sizes))
        self.shape = len(self), *self.parts[self.largest].shape[1:]
        self.dtype = self.parts[0].dtype

    def __len__(self) -> int:
        return int(self.first[-1])

    def __getitem__(self, places: Any) -> np.ndarray:
        """Reads images of one bucket by integers or a slice ([..., *shape]).

        Raises:
            InputError: If the images lie in several buckets.
            IndexError: If a position does not exist.
        """
        chosen = np.arange(len(self))[places]
        found = np.unique(np.searchsorted(self.first, chosen, "right")) - 1
        if len(found) > 1:
            raise InputError(
                f"images must be of one bucket, got {len(found)}. Take those of one "
                "with Dataset.buckets."
            )
        bucket = int(found[0]) if len(found) else self.largest
        return np.asarray(self.parts[bucket][chosen - self.first[bucket]])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Reads all images, if they lie in one bucket."""
        return np.asarray(self[:], dtype)


Images: TypeAlias = np.ndarray | Records | Buckets
"""Images uint8 [size, height, width, channels], or latents; integers or a slice select
an array."""
