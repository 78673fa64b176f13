"""Files below a folder, by the endings of their names."""

import os
from collections.abc import Iterator
from pathlib import Path

from jaxdiff.errors import InputError

ENDINGS = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".gif")
"""Extensions of image files, in lower or upper case."""
_OTHERS = (
    ".apng", ".arw", ".avif", ".avifs", ".cr2", ".cr3", ".dds", ".dib", ".dng", ".exr",
    ".hdr", ".heic", ".heics", ".heif", ".hif", ".ico", ".j2k", ".jp2", ".jpf", ".jpx",
    ".jxl", ".nef", ".orf", ".pbm", ".pcx", ".pfm", ".pgm", ".pnm", ".ppm", ".psd",
    ".qoi", ".raf", ".raw", ".rw2", ".svg", ".tga", ".tif", ".tiff", ".xcf",
)  # fmt: skip
"""Extensions of other image files, which are counted in a warning."""


def image_files(root: Path) -> tuple[list[Path], list[Path]]:
    """Returns the image files below a folder, and those of other extensions.

    The paths are relative to the folder, and sorted.

    Raises:
        InputError: If a folder cannot be listed.
    """
    images, others = list[Path](), list[Path]()
    for path in files_of(root, ENDINGS + _OTHERS):
        known = path.name.lower().endswith(ENDINGS)
        (images if known else others).append(path)
    return images, others


def files_of(root: Path, endings: tuple[str, ...]) -> list[Path]:
    """Returns the files below a folder whose names have one of these endings.

    Hidden files and links are left out. The paths are relative to the folder, and
    sorted.

    Raises:
        InputError: If a folder cannot be listed.
    """
    return sorted(_walk(root, endings), key=lambda path: path.parts)


def _walk(root: Path, endings: tuple[str, ...]) -> Iterator[Path]:
    folders = [Path()]
    while folders:
        folder = folders.pop()
        try:
            entries = list(os.scandir(root / folder))
        except OSError as error:
            place = str(root / folder)
            raise InputError(
                f"cannot list the folder {place!r}: {error.strerror}. Make it readable."
            ) from error
        for entry in entries:
            if entry.name.startswith("."):
                continue
            # A link might lead out of the folder, or back into it without end.
            if entry.is_dir(follow_symlinks=False):
                folders.append(folder / entry.name)
            elif entry.name.lower().endswith(endings) and entry.is_file(
                follow_symlinks=False
            ):
                yield folder / entry.name
