"""Pictures of images: grids of samples, strips and animations.

Images are uint8 [N, H, W, C], enlarged by a whole factor, pixel by pixel. C = 1 is grey
and C = 3 is RGB. Any other number of channels is drawn as grey images, side by side.
Every function writes one file: `path` lies in an existing folder, or is an open binary
file. An existing file is replaced when the new one is complete. Invalid arguments and a
full disk raise an `InputError`.
"""

import math
import os
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np

from jaxdiff.errors import InputError, printable, require
from jaxdiff.storage.files import replacing
from jaxdiff.typing import ArrayLike

PathLike: TypeAlias = str | os.PathLike[str] | BinaryIO
Texts: TypeAlias = Sequence[object] | None
GAP = 6  # pixels between images and around the grid
GAP_COLOUR = 255  # white
TILE = 64  # without a scale, images are enlarged to at least this many pixels
_TEXT = 16  # height of labels and captions, in pixels
INK = "#333333"


def save_grid(
    path: PathLike,
    images: ArrayLike,
    *,
    row_labels: Texts = None,
    columns: int | None = None,
    scale: int | None = None,
    notes: Mapping[str, str] | None = None,
) -> None:
    """Writes a grid of images as a PNG, one row per label.

    Args:
        path: Path of the file, or an open binary file.
        images: Images, row by row; the last row may be incomplete (uint8 [N, H, W, C]).
        row_labels: Texts to the left of the rows, one per row.
        columns: Number of images per row; None means N / rows with row labels,
            otherwise about the square root of N.
        scale: Whole factor of enlargement; None enlarges to about 64 pixels.
        notes: Texts that the file carries, by their names.
    """
    tiles = checked("images", images, "N, H, W, C")
    if columns is None and row_labels is not None and len(row_labels):
        columns = -(-len(tiles) // len(row_labels))
    sheet, centres = sheet_of(tiles, columns, scale)
    rows = sorted({y for _, y in centres})
    labels, widest = _texts("row_labels", row_labels, "rows", len(rows))
    left = widest + GAP if labels else 0
    texts = [(left, y, label) for y, label in zip(rows, labels, strict=False)]
    save_png(path, sheet, texts, "rm", room=(left, 0), notes=notes)


def save_image(
    path: PathLike, image: ArrayLike, *, notes: Mapping[str, str] | None = None
) -> None:
    """Writes one image as a PNG, pixel by pixel.

    Args:
        path: Path of the file, or an open binary file.
        image: Image (uint8 [H, W, C]).
        notes: Texts that the file carries, by their names.
    """
    (tile,) = checked("image", np.asarray(image)[None], "N, H, W, C")
    save_png(path, tile, [], "mm", room=(0, 0), notes=notes)


def save_samples(
    path: PathLike,
    images: ArrayLike,
    labels: ArrayLike | None,
    class_names: Sequence[str] | None,
    columns: int,
    notes: Mapping[str, str] | None = None,
) -> None:
    """Writes a labelled grid: one row per class, with the first images of each class.

    With one class or none, the grid shows every image without labels.

    Args:
        path: Path of the PNG, or an open binary file.
        images: Images (uint8 [num, height, width, channels]).
        labels: Class of each image, or None for a grid without rows of classes
            (integers [num]).
        class_names: Name of each class; None shows the classes' numbers.
        columns: Largest number of images per row.
        notes: Texts that the file carries, by their names.
    """
    images = np.asarray(images)
    if labels is None or len(set(np.asarray(labels).tolist())) == 1:
        save_grid(path, images, columns=min(columns, len(images)), notes=notes)
        return
    classes, counts = np.unique(labels, return_counts=True)
    columns = min(columns, counts.min())
    rows = [images[labels == c][:columns] for c in classes]
    row_labels = [class_names[c] if class_names else str(c) for c in classes]
    save_grid(
        path, np.concatenate(rows), row_labels=row_labels, columns=columns, notes=notes
    )


def save_strip(path: PathLike, images: ArrayLike, captions: Texts = None) -> None:
    """Writes images [N, H, W, C] in one row as a PNG, each with its caption below."""
    tiles = checked("images", images, "N, H, W, C")
    captions, widest = _texts("captions", captions, "images", len(tiles))
    sheet, centres = sheet_of(tiles, len(tiles), widest=widest)
    y = len(sheet) + _TEXT / 2
    texts = [(x, y, text) for (x, _), text in zip(centres, captions, strict=False)]
    save_png(path, sheet, texts, "mm", room=(0, _TEXT + GAP if texts else 0))


def save_gif(
    path: PathLike,
    frames: ArrayLike,
    *,
    columns: int | None = None,
    milliseconds: int = 80,
    hold: int = 1500,
    scale: int | None = None,
) -> None:
    """Writes an endless animation as a GIF, each frame a grid of images.

    Few colours make the file small: 16 greys, or 64 colours shared by all frames of
    RGB. Equal successive frames become one frame of their total duration.

    Args:
        path: Path of the file, or an open binary file.
        frames: Images of each frame (uint8 [F, N, H, W, C]).
        columns: Number of images per row; None means about the square root of N.
        milliseconds: Duration of a frame in milliseconds, in steps of 10.
        hold: Duration of the last frame in milliseconds.
        scale: Whole factor of enlargement; None enlarges to about 64 pixels.
    """
    image = require("PIL.Image")
    stack = checked("frames", frames, "F, N, H, W, C")
    if min(milliseconds, hold) < 20:
        raise InputError(
            f"milliseconds and hold must be at least 20, got {milliseconds} and {hold}"
        )
    # Images become indices into a palette, whose last colour is white, for the gaps.
    if stack.shape[-1] == 1:
        palette = np.arange(256).repeat(3).tolist()
        stack = np.rint(stack / 17).astype(np.uint8) * 17
    else:
        tall = image.fromarray(stack.reshape(-1, stack.shape[3], 3)).quantize(63)
        palette = (tall.getpalette() or [])[: 3 * 63]
        palette += [GAP_COLOUR] * (3 * 256 - len(palette))
        stack = np.asarray(tall).reshape(*stack.shape[:-1], 1)
    pictures = [image.fromarray(sheet_of(f, columns, scale)[0][..., 0]) for f in stack]
    for picture in pictures:
        picture.putpalette(palette)
    durations = [milliseconds] * (len(pictures) - 1) + [hold]
    options = {"append_images": pictures[1:], "duration": durations, "loop": 0}
    save_picture(path, pictures[0], "GIF", save_all=True, **options)


def save_picture(path: PathLike, picture: Any, form: str, **options: Any) -> None:
    """Writes one of Pillow's pictures; a file at `path` is replaced when complete."""
    if isinstance(path, str | os.PathLike):
        with replacing(path) as file:
            picture.save(file, form, **options)
    else:
        picture.save(path, form, **options)


def check_installed() -> None:
    """Raises an error if a package for drawing is missing, before long work begins."""
    require("matplotlib")
    require("PIL")


def checked(name: str, values: ArrayLike, axes: str) -> np.ndarray:
    """Returns uint8 images with 1 or 3 channels, after a check of their axes."""
    array = np.asarray(values)
    fits = array.dtype == np.uint8 and array.ndim == len(axes.split())
    if not fits or not array.size:
        expected = f"uint8 [{axes}], none empty"
        raise InputError(f"{name} must be {expected}, got {array.dtype} {array.shape}")
    if array.shape[-1] in (1, 3):
        return array
    beside = np.moveaxis(array, -1, -2)  # [..., height, channels, width]
    return beside.reshape(*beside.shape[:-2], -1, 1)


def _texts(name: str, texts: Texts, of: str, count: int) -> tuple[list[str], int]:
    """Returns texts, one for each of `count`, and the width of the widest in pixels."""
    if texts is not None and len(texts) != count:
        raise InputError(
            f"{name} must have one text for each of the {count} {of}, got {len(texts)}"
        )
    strings = [drawable(printable(str(text))) for text in texts or ()]
    widths = (font(text).getlength(text) for text in strings)
    return strings, math.ceil(max(widths, default=0))


def drawable(text: str) -> str:
    """Returns a text; if no font has all its characters, with escapes for the rare."""
    if _font_file(text):
        return text
    known = _glyphs(_usual_font())
    return "".join(
        c if ord(c) in known else c.encode("ascii", "backslashreplace").decode()
        for c in text
    )


def font(text: str = "", size: int = _TEXT) -> Any:
    """Returns the font of labels and captions, or another one with a text's glyphs."""
    path = _font_file(text) or _usual_font()
    return require("PIL.ImageFont").truetype(path, size)


def _usual_font() -> str:
    folder = Path(require("matplotlib").get_data_path(), "fonts", "ttf")
    return str(folder / "DejaVuSans.ttf")


@cache
def _font_file(text: str) -> str | None:
    """Returns the path of a font with all glyphs of a text, or None."""
    usual, wanted = _usual_font(), set(map(ord, text))
    if wanted <= _glyphs(usual):
        return usual
    fonts = require("matplotlib.font_manager").fontManager.ttflist
    plain_first = sorted(
        (one.style != "normal", one.weight not in (400, "normal"), one.fname)
        for one in fonts
    )
    return next((path for *_, path in plain_first if wanted <= _glyphs(path)), None)


@cache
def _glyphs(path: str) -> frozenset[int]:
    """Returns the characters that Pillow can draw by a font."""
    if "LastResort" in Path(path).name:  # a box for every character
        return frozenset()
    try:
        require("PIL.ImageFont").truetype(path, _TEXT)
        return frozenset(require("matplotlib.ft2font").FT2Font(path).get_charmap())
    except (OSError, RuntimeError):  # damaged, or bitmaps of another size
        return frozenset()


def sheet_of(
    images: np.ndarray, columns: int | None, scale: int | None = None, widest: int = 0
) -> tuple[np.ndarray, list[tuple[float, float]]]:
    """Returns enlarged images on one [h, w, C], spaced for texts, and their centres."""
    for name, value in (("columns", columns), ("scale", scale)):
        if value is not None and value < 1:
            raise InputError(
                f"{name} must be a whole number of at least 1, got {value}"
            )
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


def save_png(
    path: PathLike,
    sheet: np.ndarray,
    texts: list[Any],
    anchor: str,
    room: Any,
    notes: Mapping[str, str] | None = None,
    size: int = _TEXT,
) -> None:
    """Saves the sheet with texts (x, y, text), and `room` for them left and below."""
    image = require("PIL.Image")
    pads = ((0, room[1]), (room[0], 0), (0, 0))
    padded = np.pad(sheet, pads, constant_values=GAP_COLOUR)
    picture = image.fromarray(padded[..., 0] if padded.shape[-1] == 1 else padded)
    draw = require("PIL.ImageDraw").Draw(picture)
    for x, y, text in texts:
        draw.text((x, y), text, fill=INK, font=font(text, size), anchor=anchor)
    chunks = require("PIL.PngImagePlugin").PngInfo()
    for name, text in (notes or {}).items():
        chunks.add_itxt(name, text)
    save_picture(path, picture, "PNG", optimize=True, pnginfo=chunks)
