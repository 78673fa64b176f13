"""Sizes of images that a network or an autoencoder takes."""

import itertools
from collections.abc import Sequence
from typing import Any

from jaxdiff.errors import InputError


def check_sides(
    height: int, width: int, multiple: int, why: str = "", remedy: str = ""
) -> None:
    """Checks that both sides of an image are multiples of a number.

    Args:
        height: height of the image.
        width: width of the image.
        multiple: number that must divide both, from 1.
        why: text after the number, such as " for 4 levels".
        remedy: text after the nearest multiples, such as ", or fewer multipliers".

    Raises:
        InputError: a side is below 1 or no multiple. The message has the nearest
            multiples.
    """
    for name, side in (("height", height), ("width", width)):
        if side < 1 or side % multiple:
            below = side // multiple * multiple
            near = [str(s) for s in (below, below + multiple) if s > 0]
            raise InputError(
                f"image {name} must be a multiple of {multiple}{why}, got {side}. Use "
                f"{' or '.join(near)}{remedy}."
            )


def on_patches(patch: int) -> str:
    """Returns the side of a network's patches for `check_sides`, if it has patches."""
    return f" of patches of {patch}" if patch > 1 else ""


def attention_sizes(
    config: Any, sizes: Sequence[tuple[int, int]], patch: int = 1
) -> tuple[int, ...]:
    """Returns the option `attention` that means the same levels for all sizes.

    Args:
        config: options with `attention` and a multiplier per level.
        sizes: heights and widths of images; the option is for the first.
        patch: side of a patch.
    """
    levels = range(len(config.multipliers))
    sides = [[max(size) // patch >> level for level in levels] for size in sizes]
    attends = [side in config.attention for side in sides[0]]
    more = {side for row in sides for side in itertools.compress(row, attends)}
    return (*config.attention, *sorted(more - {*config.attention}))
