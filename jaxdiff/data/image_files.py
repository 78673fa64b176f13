"""One image file as pixels, whatever its kind: the only file here that reads images."""

import os
import stat
import warnings
from pathlib import Path
from typing import IO, Annotated, Any, Literal

import numpy as np
from annotated_types import Interval

from jaxdiff.checks import check_value
from jaxdiff.errors import InputError, first_line, require

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
"""Pillow's decoders that are tried; some of the others run programs (EPS), or are old
and little used."""
MAX_PIXELS = 2**30 // 12
"""A file of more pixels is refused by its header; Pillow warns from here on."""
Size = Annotated[int, Interval(ge=1, le=4096)]
"""The sizes that images can be brought to."""
Channels = Literal[1, 3]
"""Grey or colour."""
_GREY_STEPS = {"L;2": 85, "L;4": 17}  # of grey values of fewer than 8 bits


def read_image(path: str | os.PathLike[str], size: int, channels: int) -> np.ndarray:
    """The image in a PNG, JPEG, WebP, BMP or GIF file, whatever the file's ending.

    It is turned as its EXIF says (where the EXIF can be read) and, if it is animated,
    its first frame. What is transparent lies on white. 16 bits become 8, grey ones by
    division by 257; CMYK becomes RGB by formula, and colour profiles are left out. Grey
    is the luma of ITU-R 601. The central square of the image, whose sides are the
    image's shorter side, is then resized by Pillow's Lanczos filter, which averages
    where it makes smaller.

    Any number of threads may read at a time. From the first image on, Pillow's own
    warnings are hidden in this process.

    Args:
        path: the file.
        size: height and width of the result, 1 to 4096.
        channels: 1 for grey, 3 for red, green and blue.

    Returns:
        uint8 [size, size, channels].

    Raises:
        InputError: the file cannot be read, is damaged or truncated, is none of these
            kinds, or has more than 2^30 / 12 pixels, which its header tells.
    """
    check_value("size", size, Size)
    check_value("channels", channels, Channels)
    image_module = require("PIL.Image")
    _hide_warnings()
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe would make us wait
            raise InputError("it is not a file")
        with open(path, "rb") as file:
            return _pixels(image_module, file, size, channels)
    except Exception as error:  # Pillow raises many kinds for files that are damaged
        reason = _reason(image_module, error, path)
        raise InputError(f"cannot read the image {str(path)!r}: {reason}") from error


def _hide_warnings() -> None:
    """Hides Pillow's warnings for good: a scope of them would hold for all threads."""
    hidden = {"action": "ignore", "module": r"PIL\."}
    there = any(
        action == "ignore" and module is not None and module.pattern == hidden["module"]
        for action, _, _, module, _ in warnings.filters
    )
    if not there:
        warnings.filterwarnings(**hidden)  # type: ignore[arg-type]


def _reason(image_module: Any, error: Exception, path: str | os.PathLike[str]) -> str:
    """Why a file cannot be read, in one line."""
    if isinstance(error, image_module.DecompressionBombError):
        return _too_large("far more")
    if isinstance(error, MemoryError):
        return "it does not fit into memory"
    if isinstance(error, require("PIL").UnidentifiedImageError):
        empty = Path(path).stat().st_size == 0
        return "it is empty" if empty else f"it is no image ({', '.join(FORMATS)})"
    return getattr(error, "strerror", None) or first_line(error)


def _too_large(pixels: str) -> str:
    return f"it is too large: {pixels} pixels, where at most {MAX_PIXELS:,} are read"


def _pixels(image_module: Any, file: IO[bytes], size: int, channels: int) -> np.ndarray:
    with image_module.open(file, formats=FORMATS) as image:
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise InputError(_too_large(f"{width} x {height}"))
        kind = image.tile[0][3] if image.tile else None  # how the file has its pixels
        image.load()
        try:
            require("PIL.ImageOps").exif_transpose(image, in_place=True)
        except MemoryError:
            raise
        except Exception:
            pass  # the EXIF is damaged, as in many a photograph
        # Cut first: the long side of a narrow image might not fit into memory.
        width, height = image.size
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        square = image.crop((left, top, left + side, top + side))
        plain = _without_alpha(image_module, square, kind)
        plain = plain.convert("L" if channels == 1 else "RGB")
        if side != size:
            plain = plain.resize((size, size), image_module.Resampling.LANCZOS)
        return np.array(plain, np.uint8).reshape(size, size, channels)


def _without_alpha(image_module: Any, image: Any, kind: Any) -> Any:
    """An image of 8 bits, "L" or "RGB", on white where it is transparent."""
    clear = image.info.get("transparency")  # a colour, or the palette's alphas
    if image.mode.startswith("I"):
        # Pillow clips to 8 bits. (v + 128) // 257 is v / 257, rounded.
        values = np.asarray(image).astype(np.int64)
        grey = (np.clip(values, 0, 65535) + 128) // 257
        if isinstance(clear, int):
            grey[values == clear] = 255
        return image_module.fromarray(grey.astype(np.uint8))
    if not image.has_transparency_data:
        return image.convert("L" if image.mode in ("1", "L") else "RGB")
    # Pillow scales grey of 2 and 4 bits to 8, and takes the upper 8 bits of 16, but
    # leaves the colour that is transparent as the file has it.
    if kind in _GREY_STEPS and isinstance(clear, int):
        image.info["transparency"] = min(clear * _GREY_STEPS[kind], 255)
    elif kind == "RGB;16B" and isinstance(clear, tuple):
        image.info["transparency"] = tuple(value >> 8 for value in clear)
    picture = image.convert("RGBA")
    white = image_module.new("RGBA", picture.size, "white")
    return image_module.alpha_composite(white, picture).convert("RGB")
