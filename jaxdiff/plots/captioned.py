"""Grids of images with texts below them: prompts, or captions of a dataset."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np

from jaxdiff.errors import InputError, first_few, printable
from jaxdiff.plots.images import (
    GAP,
    TILE,
    PathLike,
    checked,
    drawable,
    font,
    save_png,
    sheet_of,
)
from jaxdiff.typing import ArrayLike

LINES, SIZE, LINE = 3, 11, 13
"""Largest number of lines of a text; height of its letters and lines, in pixels."""
NARROWEST = 96
"""Smallest width of a text, in pixels."""
DOTS = "..."


def save_captioned(
    path: PathLike,
    images: ArrayLike,
    captions: Sequence[str],
    *,
    columns: int,
    notes: Mapping[str, str] | None = None,
) -> None:
    """Writes a grid of images as a PNG, each with its text below.

    Neighbours in a row that have the same text share it. A text is wrapped, and cut
    with dots after three lines.

    Args:
        path: path of the file, or an open binary file.
        images: images, row by row (uint8 [N, H, W, C]).
        captions: text of each image.
        columns: number of images per row.
        notes: texts that the file carries, by their names.

    Raises:
        InputError: there is not one text per image.

    Warns:
        UserWarning: no font has some characters, which are written as escapes.
    """
    tiles = checked("images", images, "N, H, W, C")
    if len(captions) != len(tiles):
        raise InputError(
            f"captions must have one text for each of the {len(tiles)} images, got "
            f"{len(captions)}"
        )
    columns = min(columns, len(tiles))
    texts = [printable(text) for text in captions]
    _warn_of_missing(texts)
    width = max(NARROWEST, tiles.shape[2] * -(-TILE // max(tiles.shape[1:3])))
    rows = [
        list(_blocks(texts[i : i + columns], width))
        for i in range(0, len(texts), columns)
    ]
    sheets, found, top = [], [], 0
    for i, row in enumerate(rows):
        part = tiles[i * columns : (i + 1) * columns]
        blank = np.full((columns, *tiles.shape[1:]), 255, np.uint8)
        blank[: len(part)] = part
        sheet, centres = sheet_of(blank, columns, widest=width)
        height = max(len(lines) for _, _, lines in row) * LINE
        pad = ((0, height + GAP * (height > 0)), (0, 0), (0, 0))
        sheets.append(np.pad(sheet, pad, constant_values=255))
        for first, last, lines in row:
            x = (centres[first][0] + centres[last][0]) / 2
            for j, line in enumerate(lines):
                y = top + len(sheet) + (j + 0.5) * LINE - GAP / 2
                found.append((x, y, line))
        top += len(sheets[-1])
    save_png(path, np.concatenate(sheets), found, "mm", (0, 0), notes, SIZE)


def wrapped(text: str, width: int, most: int = LINES) -> list[str]:
    """Returns the lines of a text of at most this width; dots end a text that is cut.

    Lines break at spaces, and inside of words that are wider than a line, as in scripts
    without spaces.

    Args:
        text: text that a font can draw; see `plots.images.drawable`.
        width: width of a line, in pixels.
        most: largest number of lines.
    """
    letters = font(text, SIZE)

    def fits(line: str) -> bool:
        return bool(letters.getlength(line) <= width)

    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".lstrip()
        if fits(longer):
            lines[-1] = longer
            continue
        rest = word
        if lines[-1]:
            lines.append("")
        while not fits(rest):
            count = max(1, _most(rest, fits))
            lines[-1] = rest[:count]
            lines.append("")
            rest = rest[count:]
        lines[-1] = rest
    if len(lines) <= most:
        return lines
    last = lines[most - 1]
    while last and not fits(last + DOTS):
        last = last[:-1]
    return [*lines[: most - 1], last.rstrip() + DOTS]


def _most(word: str, fits: Any) -> int:
    """Returns how many characters of a word fit on a line."""
    return next(i for i in range(len(word)) if not fits(word[: i + 1]))


def _blocks(texts: Sequence[str], width: int) -> Iterator[tuple[int, int, list[str]]]:
    """Yields the first and last column of each text in a row, and its lines."""
    place = 0
    for text, group in groupby(texts):
        count = len(list(group))
        across = count * width + (count - 1) * 2 * GAP
        yield place, place + count - 1, wrapped(drawable(text), across)
        place += count


def _warn_of_missing(texts: Sequence[str]) -> None:
    """Warns about characters that no font has."""
    seen = dict.fromkeys(text for text in texts if drawable(text) != text)
    missing = sorted({c for text in seen for c in text if drawable(c) != c}, key=ord)
    if seen:
        names = first_few([f"U+{ord(c):04X}" for c in missing])
        warnings.warn(
            f"no font draws {len(seen)} of the texts below the images "
            f"(characters {names}), which are written as escapes. Install a font, such "
            "as Noto Sans for the script",
            stacklevel=3,
        )
