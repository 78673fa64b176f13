"""Decoder of a single image file, whatever its format."""

import os
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Annotated, Any, Literal, TypeAlias

import numpy as np
from annotated_types import Interval

from jaxdiff.checks import check_value
from jaxdiff.errors import InputError, first_line, require
from jaxdiff.storage.files import open_regular

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
"""Pillow's decoders to try. Some of the others run external programs (EPS), or are
old and rarely used."""
MAX_PIXELS = 2**30 // 12
"""Largest number of pixels of a file, and of all files that are decoded at a time. The
header of a larger file is enough to reject it. Pillow warns above the same number."""
MAX_BYTES = 2**30
"""Largest size of a file, in bytes."""
Size = Annotated[int, Interval(ge=1, le=4096)]
"""Height and width of a resized image, in pixels."""
Channels = Literal[1, 3]
"""Number of channels: 1 for grey, 3 for colour."""
Wanted: TypeAlias = tuple[int, int] | Callable[[int, int], tuple[int, int]] | None
"""Height and width of the result, or a function of those of the file; None for
these."""
_GREY_STEPS = {"L;2": 85, "L;4": 17}  # from grey values of 2 and 4 bits to 8 bits


def read_image(
    path: str | os.PathLike[str],
    size: int | Wanted,
    channels: int,
) -> np.ndarray:
    """Returns the pixels of a PNG, JPEG, WebP, BMP or GIF file of any extension.

    The image is rotated as its EXIF data says, if these can be read. Only the first
    frame of an animation is read. Transparent pixels become white. 16 bits become 8:
    grey values are divided by 257. CMYK becomes RGB by formula, and colour profiles are
    ignored. Grey is the luma of ITU-R 601. The largest central part with the result's
    proportions is then resized by Pillow's Lanczos filter, which averages when it
    reduces.

    Any number of threads may read at the same time. They wait for each other before
    they decode more than 2^30 / 12 pixels together. The first call hides Pillow's own
    warnings in this process.

    Args:
        path: Path of the file.
        size: Height and width of the result, 1 to 4096, or one number for both; None
            for those of the file. Or a function of these, after the rotation.
        channels: Number of channels: 1 for grey, 3 for red, green and blue.

    Returns:
        Pixels (uint8 [height, width, channels]).

    Raises:
        InputError: If the file cannot be read, is damaged or truncated, has another
            format, has more than 2^30 bytes, or has more than 2^30 / 12 pixels
            according to its header.
    """
    wanted = (size, size) if isinstance(size, int) else size
    for side in wanted if isinstance(wanted, tuple) else ():
        check_value("size", side, Size)
    check_value("channels", channels, Channels)
    image_module = require("PIL.Image")
    _hide_warnings()
    try:
        with open_regular(path, MAX_BYTES) as file:
            return _pixels(image_module, file, wanted, channels)
    except Exception as error:  # Pillow raises many types for damaged files
        reason = _reason(image_module, error, path)
        raise InputError(f"cannot read the image {str(path)!r}: {reason}") from error


def is_momentary(error: InputError) -> bool:
    """Returns True if `read_image` may succeed later for the same bytes.

    The system has no permission, no memory, too many open files, or a failing disk.
    """
    cause = error.__cause__
    # Pillow raises an OSError without a number for a damaged file.
    return isinstance(cause, MemoryError) or getattr(cause, "errno", None) is not None


def _hide_warnings() -> None:
    """Hides Pillow's warnings for good: a temporary filter would affect all threads."""
    hidden = {"action": "ignore", "module": r"PIL\."}
    there = any(
        action == "ignore" and module is not None and module.pattern == hidden["module"]
        for action, _, _, module, _ in warnings.filters
    )
    if not there:
        warnings.filterwarnings(**hidden)  # type: ignore[arg-type]


def _reason(image_module: Any, error: Exception, path: str | os.PathLike[str]) -> str:
    """Returns the reason why a file cannot be read, in one line."""
    if isinstance(error, image_module.DecompressionBombError):
        return _too_large("far more")
    if isinstance(error, IsADirectoryError):
        return "it is not a regular file"
    if isinstance(error, MemoryError):
        return "it does not fit into memory"
    if isinstance(error, require("PIL").UnidentifiedImageError):
        empty = Path(path).stat().st_size == 0
        return "it is empty" if empty else f"it is not an image ({', '.join(FORMATS)})"
    return getattr(error, "strerror", None) or first_line(error)


def _too_large(pixels: str) -> str:
    return f"it is too large: {pixels} pixels, of which at most {MAX_PIXELS:,} are read"


def _pixels(
    image_module: Any,
    file: IO[bytes],
    size: Wanted,
    channels: int,
) -> np.ndarray:
    webp = _webp_size(file.read(30))  # Pillow allocates a WebP when it opens the file
    file.seek(0)
    with ExitStack() as stack:
        if webp is not None:
            stack.enter_context(_budget.taken(*webp))
        image = stack.enter_context(image_module.open(file, formats=FORMATS))
        if webp is None:
            stack.enter_context(_budget.taken(*image.size))
        return _decoded(image_module, image, size, channels)


class _Budget:
    """Number of pixels that all threads together may decode at a time."""

    def __init__(self) -> None:
        self._left = MAX_PIXELS
        self._changed = threading.Condition()

    @contextmanager
    def taken(self, width: int, height: int) -> Iterator[None]:
        """Waits until the pixels of a picture are free, and takes them for a while."""
        pixels = width * height
        if pixels > MAX_PIXELS:
            raise InputError(_too_large(f"{width} x {height}"))
        with self._changed:
            self._changed.wait_for(lambda: pixels <= self._left)
            self._left -= pixels
        try:
            yield
        finally:
            with self._changed:
                self._left += pixels
                self._changed.notify_all()


_budget = _Budget()


def _webp_size(head: bytes) -> tuple[int, int] | None:
    """Returns width and height of a WebP file by its first 30 bytes (RFC 9649)."""
    if head[:4] != b"RIFF" or head[8:12] != b"WEBP" or len(head) < 30:
        return None
    if head[12:16] == b"VP8X":
        width, height = (int.from_bytes(head[i : i + 3], "little") for i in (24, 27))
        return width + 1, height + 1
    if head[12:16] == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    width, height = (int.from_bytes(head[i : i + 2], "little") for i in (26, 28))
    return width & 0x3FFF, height & 0x3FFF


def _decoded(
    image_module: Any,
    image: Any,
    wanted: Wanted,
    channels: int,
) -> np.ndarray:
    kind = image.tile[0][3] if image.tile else None  # pixel format of the file
    image.load()
    try:
        require("PIL.ImageOps").exif_transpose(image, in_place=True)
    except MemoryError:
        raise
    except Exception:
        pass  # many photographs have damaged EXIF data
    own = image.height, image.width
    size = wanted(*own) if callable(wanted) else wanted or own
    # Crop first: a narrow image, resized whole, might not fit into memory.
    (width, height), scale = (
        image.size,
        min(whole / part for whole, part in zip(own, size, strict=True)),
    )
    across, down = (max(1, round(scale * part)) for part in size[::-1])
    left, top = (width - across) // 2, (height - down) // 2
    part = image.crop((left, top, left + across, top + down))
    plain = _without_alpha(image_module, part, kind)
    plain = plain.convert("L" if channels == 1 else "RGB")
    if plain.size != size[::-1]:
        plain = plain.resize(size[::-1], image_module.Resampling.LANCZOS)
    return np.array(plain, np.uint8).reshape(*size, channels)


def _without_alpha(image_module: Any, image: Any, kind: Any) -> Any:
    """Returns an image of 8 bits, "L" or "RGB", with white for transparent pixels."""
    clear = image.info.get("transparency")  # a colour, or the palette's alpha values
    if image.mode.startswith("I"):
        # Pillow would clip to 8 bits. (v + 128) // 257 is v / 257, rounded.
        values = np.asarray(image).astype(np.int64)
        grey = (np.clip(values, 0, 65535) + 128) // 257
        if isinstance(clear, int):
            grey[values == clear] = 255
        return image_module.fromarray(grey.astype(np.uint8))
    if not image.has_transparency_data:
        return image.convert("L" if image.mode in ("1", "L") else "RGB")
    # Pillow scales grey values of 2 and 4 bits to 8 bits, and takes the upper 8 of 16
    # bits. It leaves the transparent colour as the file stores it.
    if kind in _GREY_STEPS and isinstance(clear, int):
        image.info["transparency"] = min(clear * _GREY_STEPS[kind], 255)
    elif kind == "RGB;16B" and isinstance(clear, tuple):
        image.info["transparency"] = tuple(value >> 8 for value in clear)
    picture = image.convert("RGBA")
    white = image_module.new("RGBA", picture.size, "white")
    return image_module.alpha_composite(white, picture).convert("RGB")
