"""Colour family of a picture of OpenMoji, from its palette of flat colours."""

from collections import Counter

import numpy as np

from jaxdiff.data.dataset import Images

PALETTE = {
    "blue": (0x92D3F5, 0x61B2E4, 0x1E50A0),
    "red": (0xEA5A47, 0xD22F27, 0x781E32),
    "green": (0xB1CC33, 0x5C9E31, 0x186648),
    "yellow": (0xFCEA2B, 0xF1B31C),
    "pink": (0xFFA7C0, 0xE67A94),
    "purple": (0xB399C8, 0x8967AA),
    "orange": (0xF4AA41, 0xE27022),
    "brown": (0xA57939, 0x6A462F),
    "": (
        0xFFFFFF, 0xD0CFCE, 0x9B9B9A, 0x3F3F3F, 0x000000,  # background and outlines
        0xFADCBC, 0xE0BB95, 0xBF8F68, 0x9B643D, 0x594539,  # skin tones
    ),
}  # fmt: skip
"""Colours of OpenMoji's style guide by family; those of no family are "".

Yellow is also the colour of faces and hands without a skin tone.
"""
LEAST = 0.03
"""Share of the pixels that a family must have."""
_FAMILIES = [name for name, colours in PALETTE.items() for _ in colours]
_COLOURS = np.array(
    [
        [colour >> 16, colour >> 8 & 255, colour & 255]
        for colours in PALETTE.values() for colour in colours
    ],
    np.float32,
)  # fmt: skip


def colour_families(images: Images) -> list[str | None]:
    """Returns the family that has the most pixels of each picture.

    A pixel is of the family of its nearest colour. Pixels of white, grey, black and
    skin do not count.

    Args:
        images: Pictures, on white or with an opacity (uint8 [num, height, width, 3 or
            4]).

    Returns:
        Names of families; None for a picture in which none covers 3% of the pixels.
    """
    return [_family(np.asarray(images[i : i + 1])[0]) for i in range(len(images))]


def _family(image: np.ndarray) -> str | None:
    pixels: np.ndarray = image.reshape(-1, image.shape[-1]).astype(np.float32)
    if pixels.shape[1] == 4:
        opacity = pixels[:, 3:] / 255
        pixels = pixels[:, :3] * opacity + 255 * (1 - opacity)
    # |p - c|^2 without |p|^2, which is the same for all colours.
    apart = (_COLOURS**2).sum(axis=1)[None] - 2 * pixels @ _COLOURS.T
    counts = Counter(_FAMILIES[i] for i in apart.argmin(axis=1).tolist())
    del counts[""]
    best = max(counts, key=lambda name: (counts[name], name), default=None)
    return best if best and counts[best] >= LEAST * len(pixels) else None
