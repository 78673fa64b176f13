"""Pictures of images: grids of samples, strips and animations.

Images come as uint8 [N, H, W, C] with C = 1 (grey) or 3 (RGB) and are
enlarged by a whole factor, pixel by pixel. Every function writes one file at `path`, in
a folder that is there, or to a file that is open, and raises `InputError` where what it
is given does not fit.
"""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np

from jaxdiff.errors import InputError, require
from jaxdiff.typing import ArrayLike

PathLike: TypeAlias = str | os.PathLike[str] | BinaryIO
Texts: TypeAlias = Sequence[object] | None
GAP = 6  # pixels between two images and around them all
GAP_COLOUR = 255  # white
TILE = 64  # where no scale is given, images are enlarged to at least this many pixels
_TEXT = 16  # the height of labels and captions, in pixels
INK = "#333333"


def save_grid(
    path: PathLike,
    images: ArrayLike,
    *,
    row_labels: Texts = None,
    columns: int | None = None,
    scale: int | None = None,
) -> None:
    """Write a grid of images as a PNG, one row per label.

    Args:
        path: the file to write.
        images: uint8 [N, H, W, C], row by row. The last row may be incomplete.
        row_labels: one text per row, drawn to its left.
        columns: images per row. By default N / rows where the rows are labelled, else
            what makes the grid about square.
        scale: the whole factor of enlargement, by default to about 64 pixels.
    """
    tiles = _checked("images", images, "N, H, W, C")
    if columns is None and row_labels is not None and len(row_labels):
        columns = -(-len(tiles) // len(row_labels))
    sheet, centres = _sheet(tiles, columns, scale)
    rows = sorted({y for _, y in centres})
    labels, widest = _texts("row_labels", row_labels, "rows", len(rows))
    left = widest + GAP if labels else 0
    texts = [(left, y, label) for y, label in zip(rows, labels, strict=False)]
    _save_png(path, sheet, texts, "rm", room=(left, 0))


def save_samples(
    path: PathLike,
    images: ArrayLike,
    labels: ArrayLike | None,
    class_names: Sequence[str] | None,
    columns: int,
) -> None:
    """The labelled grid: one row a class, the first `columns` images of each.

    Where there is one class, or none, the grid shows every image and no labels.

    Args:
        path: the PNG to write, or an open file.
        images: uint8 [num, height, width, channels].
        labels: integers [num], or None for a grid without rows of classes.
        class_names: a name a class; None to show the classes' numbers.
        columns: the most images in a row.
    """
    images = np.asarray(images)
    if labels is None or len(set(np.asarray(labels).tolist())) == 1:
        save_grid(path, images, columns=min(columns, len(images)))
        return
    classes, counts = np.unique(labels, return_counts=True)
    columns = min(columns, counts.min())
    rows = [images[labels == c][:columns] for c in classes]
    row_labels = [class_names[c] if class_names else str(c) for c in classes]
    save_grid(path, np.concatenate(rows), row_labels=row_labels, columns=columns)


def save_strip(path: PathLike, images: ArrayLike, captions: Texts = None) -> None:
    """Write images [N, H, W, C] in one row as a PNG, each with its caption beneath."""
    tiles = _checked("images", images, "N, H, W, C")
    captions, widest = _texts("captions", captions, "images", len(tiles))
    sheet, centres = _sheet(tiles, len(tiles), widest=widest)
    y = len(sheet) + _TEXT / 2
    texts = [(x, y, text) for (x, _), text in zip(centres, captions, strict=False)]
    _save_png(path, sheet, texts, "mm", room=(0, _TEXT + GAP if texts else 0))


def save_gif(
    path: PathLike,
    frames: ArrayLike,
    *,
    columns: int | None = None,
    milliseconds: int = 80,
    hold: int = 1500,
    scale: int | None = None,
) -> None:
    """Write an endless animation as a GIF, each frame a grid of images.

    Few colours keep it small: 16 greys, or 64 colours shared by all frames of RGB.
    Equal frames in succession become one that lasts as long as both.

    Args:
        path: the file to write.
        frames: uint8 [F, N, H, W, C].
        columns: images per row, by default what makes the grid about square.
        milliseconds: how long a frame is shown, in steps of 10.
        hold: how many milliseconds the last frame is shown.
        scale: the whole factor of enlargement, by default to about 64 pixels.
    """
    image = require("PIL.Image")
    stack = _checked("frames", frames, "F, N, H, W, C")
    if min(milliseconds, hold) < 20:
        raise InputError(f"milliseconds, hold: {milliseconds}, {hold}; give 20 or more")
    # The images become indices into a palette, whose last colour is the gaps': white.
    if stack.shape[-1] == 1:
        palette = np.arange(256).repeat(3).tolist()
        stack = np.rint(stack / 17).astype(np.uint8) * 17
    else:
        tall = image.fromarray(stack.reshape(-1, stack.shape[3], 3)).quantize(63)
        palette = (tall.getpalette() or [])[: 3 * 63]
        palette += [GAP_COLOUR] * (3 * 256 - len(palette))
        stack = np.asarray(tall).reshape(*stack.shape[:-1], 1)
    pictures = [image.fromarray(_sheet(f, columns, scale)[0][..., 0]) for f in stack]
    for picture in pictures:
        picture.putpalette(palette)
    durations = [milliseconds] * (len(pictures) - 1) + [hold]
    options = {"append_images": pictures[1:], "duration": durations, "loop": 0}
    pictures[0].save(path, "GIF", save_all=True, **options)


def check_installed() -> None:
    """Refuses to begin what could not be drawn in the end."""
    require("matplotlib")
    require("PIL")


def _checked(name: str, values: ArrayLike, axes: str) -> np.ndarray:
    array = np.asarray(values)
    fits = array.dtype == np.uint8 and array.ndim == len(axes.split())
    if not fits or not array.size or array.shape[-1] not in (1, 3):
        expected = f"give uint8 [{axes}] with C = 1 or 3, none empty"
        raise InputError(f"{name}: {array.dtype} {array.shape}; {expected}")
    return array


def _texts(name: str, texts: Texts, of: str, count: int) -> tuple[list[str], int]:
    """The texts, one for each of `count`, and the width of the widest in pixels."""
    if texts is not None and len(texts) != count:
        raise InputError(f"{name}: {len(texts)} texts for {count} {of}; give one each")
    strings = [] if texts is None else [str(text) for text in texts]
    return strings, math.ceil(max(map(font().getlength, strings), default=0))


def font() -> Any:
    """The font of labels and captions."""
    folder = Path(require("matplotlib").get_data_path(), "fonts", "ttf")
    return require("PIL.ImageFont").truetype(str(folder / "DejaVuSans.ttf"), _TEXT)


def _sheet(
    images: np.ndarray, columns: int | None, scale: int | None = None, widest: int = 0
) -> tuple[np.ndarray, list[tuple[float, float]]]:
    """Enlarged images on one [h, w, C], apart as texts need; their centres (x, y)."""
    for name, value in (("columns", columns), ("scale", scale)):
        if value is not None and value < 1:
            raise InputError(f"{name}: {value}; give a whole number, 1 or more")
    scale = scale or -(-TILE // max(images.shape[1:3]))
    tiles = images.repeat(scale, axis=1).repeat(scale, axis=2)
    count, height, width, channels = tiles.shape
    columns = min(columns or math.ceil(math.sqrt(count)), count)
    down, right = height + GAP, max(width + GAP, widest + 2 * GAP)
    gap = right - width
    size = GAP - (-count // columns) * down, gap + columns * right, channels
    sheet, centres = np.full(size, GAP_COLOUR, np.uint8), []
    for i, tile in enumerate(tiles):
        y, x = GAP + i // columns * down, gap + i % columns * right
        sheet[y : y + height, x : x + width] = tile
        centres.append((x + width / 2, y + height / 2))
    return sheet, centres


def _save_png(
    path: PathLike, sheet: np.ndarray, texts: list[Any], anchor: str, room: Any
) -> None:
    """Save the sheet with texts (x, y, text) and `room` for them to the left, below."""
    image = require("PIL.Image")
    pads = ((0, room[1]), (room[0], 0), (0, 0))
    padded = np.pad(sheet, pads, constant_values=GAP_COLOUR)
    picture = image.fromarray(padded[..., 0] if padded.shape[-1] == 1 else padded)
    draw = require("PIL.ImageDraw").Draw(picture)
    for x, y, text in texts:
        draw.text((x, y), text, fill=INK, font=font(), anchor=anchor)
    picture.save(path, "PNG", optimize=True)
