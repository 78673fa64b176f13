"""Large images tile by tile, with blended seams: memory for one tile only."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxdiff.errors import InputError
from jaxdiff.typing import ArrayLike


def tiled(
    function: Callable[[Any], ArrayLike],
    x: ArrayLike,
    tile: int,
    overlap: int,
    multiple: int = 1,
) -> np.ndarray:
    """Applies a function to overlapping tiles, and blends the results.

    All tiles have one size: the function is compiled once. In an overlap the weight of
    a tile falls linearly to its border. The result is a convex combination of the
    tiles' results: where these agree, it is equal to them.

    Args:
        function: function from [batch, tile, tile, c] to [batch, s tile, s tile, d], s
            a ratio of the sizes, above or below 1.
        x: images or latents [batch, height, width, c]. A side below `tile` is one tile.
        tile: side of a tile.
        overlap: number of pixels that neighbouring tiles share at least, 0 to tile - 1.
        multiple: tiles begin at multiples of this number, a divisor of tile, overlap
            and x's sides.

    Returns:
        The result of the whole, [batch, s height, s width, d], in the host's memory.

    Raises:
        InputError: overlap is out of range.
    """
    if not 0 <= overlap < tile:
        raise InputError(f"overlap must lie in 0..{tile - 1}, got {overlap}")
    x = np.asarray(x)
    rows, columns = (_starts(size, tile, overlap, multiple) for size in x.shape[1:3])
    found: np.ndarray | None = None
    total = np.zeros(())
    for top, left in itertools.product(rows, columns):
        part = np.asarray(function(x[:, top : top + tile, left : left + tile]))
        given = x[:, top : top + tile, left : left + tile].shape[1:3]
        sizes = [(side, one) for side, one in zip(part.shape[1:3], given, strict=True)]

        def scaled(count: int, sizes: tuple[int, int] = sizes[0]) -> int:
            return count * sizes[0] // sizes[1]

        if found is None:
            shape = (len(x), *map(scaled, x.shape[1:3]), part.shape[-1])
            found, total = np.zeros(shape, part.dtype), np.zeros(shape[1:3], part.dtype)
        weight = np.outer(
            _ramp(part.shape[1], scaled(overlap), top > 0, top + tile < x.shape[1]),
            _ramp(part.shape[2], scaled(overlap), left > 0, left + tile < x.shape[2]),
        ).astype(part.dtype)
        place = (
            slice(scaled(top), scaled(top) + part.shape[1]),
            slice(scaled(left), scaled(left) + part.shape[2]),
        )
        found[:, *place] += weight[None, :, :, None] * part
        total[place] += weight
    assert found is not None, "there is a tile"
    return found / total[None, :, :, None]


def _starts(size: int, tile: int, overlap: int, multiple: int) -> list[int]:
    """Returns the first pixel of each tile; the last tile ends with the image."""
    if size <= tile:
        return [0]
    count = -(-(size - overlap) // (tile - overlap))
    steps, last = count - 1, (size - tile) // multiple
    return [i * last // steps * multiple for i in range(count)]


def _ramp(size: int, overlap: int, rises: bool, falls: bool) -> np.ndarray:
    """Returns the weights of a tile along one axis."""
    weight = np.ones(size)
    if overlap:
        slope = (np.arange(overlap) + 1) / (overlap + 1)
        if rises:
            weight[:overlap] *= slope
        if falls:
            weight[-overlap:] *= slope[::-1]
    return weight
