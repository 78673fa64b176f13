"""Your own images: the files of a folder, resized to one size."""

import hashlib
import os
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from jaxdiff.data.dataset import Dataset, check_split, from_arrays
from jaxdiff.data.images import check_size, read_image
from jaxdiff.errors import InputError, require

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")
"""The endings of image files, in small or capital letters."""
_BIG = 1000  # so many files show their progress
_THREADS = 4  # Pillow decodes and resizes beside Python; each needs its own memory
_NAMED = 3  # so many files that cannot be read are named


@dataclass(frozen=True, kw_only=True)
class Folder:
    """The images in a folder and its sub-folders, held in memory as uint8.

    Files count by their ending (.png, .jpg, .jpeg, .webp, .bmp, .gif); hidden ones and
    links are passed over. Where every image lies in a sub-folder, and there are two
    sub-folders or more, these are the classes. See `read_image` for what becomes of an
    image.
    """

    path: str = ""
    """The folder."""

    size: int = 32
    """Height and width to which the central square of each image is resized."""

    channels: Literal[1, 3] = 3
    """1 for grey images, 3 for colour."""

    bad_files: Literal["skip", "stop"] = "skip"
    """What a file that cannot be read does: it is left out, or stops the run."""

    held_out: float = 0.1
    """The share of the images that is the test split, in [0, 1); a file's name decides,
    so that more files move no other."""

    flip: bool = True
    """Mirror training images left to right at random."""

    def __post_init__(self) -> None:
        """Refuses options out of range."""
        check_size(self.size, self.channels)
        if self.bad_files not in ("skip", "stop"):
            raise InputError(
                f"bad_files must be 'skip' or 'stop'; got {self.bad_files!r}"
            )
        if not 0 <= self.held_out < 1:
            raise InputError(f"held_out must lie in [0, 1); got {self.held_out:g}")

    def load(self, split: str = "train") -> Dataset:
        """The "train" split, or the "test" split of about `held_out` of the images.

        Raises:
            InputError: there is no such folder, no image in it, none in this split or
                none that can be read; or one cannot be read, and `bad_files` is "stop".

        Warns:
            UserWarning: files cannot be read and are left out.
        """
        check_split(split)
        root = self._root()
        files = image_files(root)
        if not files:
            raise InputError(
                f"there is no image in {str(root)!r}: give a folder with files of the "
                f"endings {' '.join(ENDINGS)} (links and hidden ones do not count)"
            )
        classes = class_names(files)
        chosen = [
            name for name in files
            if is_held_out(name, self.held_out) == (split == "test")
        ]  # fmt: skip
        if not chosen:
            raise InputError(
                f"none of the {len(files)} images in {str(root)!r} falls into the "
                f"{split} split: change held_out ({self.held_out:g}), or add images"
            )
        images, read = self._read(root, chosen, split)
        if classes is None:
            return from_arrays(images)
        numbers = {name: number for number, name in enumerate(classes)}
        labels = np.array([numbers[name.parts[0]] for name in read])
        return from_arrays(images, labels, classes)

    def _root(self) -> Path:
        if not self.path:
            raise InputError("no folder of images is given: name it with --data.path")
        root = Path(self.path).expanduser()
        try:
            if root.is_dir():
                return root
        except (OSError, ValueError):  # a name that is too long, or has a NUL
            pass
        raise InputError(f"there is no folder {self.path!r}: check --data.path")

    def _read(
        self, root: Path, names: list[Path], split: str
    ) -> tuple[np.ndarray, list[Path]]:
        """The images that can be read, uint8 [size, ...], and their names."""
        shape = (len(names), self.size, self.size, self.channels)
        try:
            images = np.empty(shape, np.uint8)
        except (MemoryError, ValueError) as error:
            raise InputError(
                f"{len(names)} images of size {self.size} need "
                f"{np.prod(shape, dtype=float) / 2**30:.3g} GiB of memory: take a "
                "smaller size or fewer images"
            ) from error

        def read(name: Path) -> np.ndarray | str:
            try:
                return read_image(root / name, self.size, self.channels)
            except InputError as error:
                if self.bad_files == "stop":
                    raise InputError(f"{error}; bad_files skip leaves it out") from None
                return str(error)

        done: list[Path] = []
        reasons: list[str] = []
        with ThreadPoolExecutor(_THREADS) as pool:
            results = require("tqdm").tqdm(
                pool.map(read, names),
                desc=f"{root.name} {split}",
                total=len(names),
                disable=None if len(names) >= _BIG else True,  # None: on a terminal
            )
            for name, result in zip(names, results, strict=True):
                if isinstance(result, str):
                    reasons.append(result)
                else:
                    images[len(done)] = result
                    done.append(name)
        if not done:
            raise InputError(
                f"none of the {len(names)} images of the {split} split in "
                f"{str(root)!r} can be read: {reasons[0]}"
            )
        if reasons:
            more = len(reasons) - _NAMED
            warnings.warn(
                f"{len(reasons)} of {len(names)} images of the {split} split in "
                f"{str(root)!r} are left out: {'; '.join(reasons[:_NAMED])}"
                + (f"; and {more} more" if more > 0 else ""),
                stacklevel=3,
            )
        return images[: len(done)], done


def image_files(root: Path) -> list[Path]:
    """The image files below a folder, as paths in it, in order.

    Raises:
        InputError: a folder cannot be listed.
    """
    return sorted(_walk(root), key=lambda path: path.parts)


def _walk(root: Path) -> Iterator[Path]:
    folders = [Path()]
    while folders:
        folder = folders.pop()
        try:
            entries = list(os.scandir(root / folder))
        except OSError as error:
            place = str(root / folder)
            raise InputError(
                f"cannot list the folder {place!r}: {error.strerror}"
            ) from error
        for entry in entries:
            if entry.name.startswith("."):
                continue
            # A link might lead out of the folder, or back to where we are.
            if entry.is_dir(follow_symlinks=False):
                folders.append(folder / entry.name)
            elif entry.name.lower().endswith(ENDINGS) and entry.is_file(
                follow_symlinks=False
            ):
                yield folder / entry.name


def class_names(files: list[Path]) -> list[str] | None:
    """The sub-folders, where each file lies in one and there are two; else None."""
    if any(len(file.parts) < 2 for file in files):
        return None
    names = sorted({file.parts[0] for file in files})
    return names if len(names) >= 2 else None


def is_held_out(file: Path, share: float) -> bool:
    """Whether a file is of the test split: by its name alone."""
    digest = hashlib.sha256(os.fsencode(file.as_posix())).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64
