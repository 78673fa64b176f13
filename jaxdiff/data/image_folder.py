"""Your own images: the files of a folder, resized to one size."""

import contextlib
import hashlib
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from jaxdiff.checks import Checked, Share
from jaxdiff.data.dataset import Dataset, check_split
from jaxdiff.data.image_files import Channels, Size, read_image
from jaxdiff.data.tfds_prepare import prepared, quiet
from jaxdiff.data.tfds_reader import read
from jaxdiff.errors import InputError, first_line, require
from jaxdiff.storage.cache import cache_folder

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")
"""The endings of image files, in small or capital letters."""
_VERSION = 1  # of how images are prepared; another one prepares them anew
_NAMED = 3  # so many files that cannot be read are named


@dataclass(frozen=True, kw_only=True)
class ImageFolder(Checked):
    """The images in a folder and its sub-folders, resized to one size.

    The first use prepares them, as uint8 in an array_record file, in $JAXDIFF_CACHE,
    else $XDG_CACHE_HOME/jaxdiff, else ~/.cache/jaxdiff; later ones take what is there
    while the files and the options are the same.

    Files count by their ending (.png, .jpg, .jpeg, .webp, .bmp, .gif); hidden ones and
    links are passed over. Where every image lies in a sub-folder, and there are two
    sub-folders or more, these are the classes. See `read_image` for what becomes of an
    image.
    """

    FLAG: ClassVar[str] = "folder"

    path: str = ""
    """The folder."""

    size: Size = 32
    """Height and width to which the central square of each image is resized."""

    channels: Channels = 3
    """1 for grey images, 3 for colour."""

    bad_files: Literal["skip", "stop"] = "skip"
    """What a file that cannot be read does: it is left out, or stops the run."""

    held_out: Share = 0.1
    """The share of the images that is the test split; a file's name decides, so that
    more files move no other."""

    flip: bool = True
    """Mirror training images left to right at random."""

    stream: bool = False
    """Leave the prepared images on disk, and read them as training needs them; those
    that would fill more than half of the memory always stay there."""

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
        builder = self._prepared(root, chosen, split, classes)
        _warn(builder.info.metadata["left_out"], len(chosen), root, split)
        return read(
            builder,
            split,
            image_key="image",
            label_key=None if classes is None else "label",
            stream=self.stream,
        )

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

    def _prepared(
        self, root: Path, names: list[Path], split: str, classes: list[str] | None
    ) -> Any:
        """The TFDS builder of these files: prepared now if they were not."""
        require("tensorflow_datasets")
        from jaxdiff.data.image_folder_builder import Files, JaxdiffFolder

        def read(name: Path) -> np.ndarray | str:
            try:
                return read_image(root / name, self.size, self.channels)
            except InputError as error:
                if self.bad_files == "stop":
                    raise InputError(f"{error}; bad_files skip leaves it out") from None
                return str(error)

        numbers = {name: number for number, name in enumerate(classes or ())}
        files = Files(
            title=f"{root.name} {split}",
            split=split,
            names=names,
            labels=[numbers[name.parts[0]] for name in names] if classes else None,
            class_names=classes,
            shape=(self.size, self.size, self.channels),
            read=read,
        )
        folder = cache_folder() / "folders" / self._key(root, files.names, classes)
        try:
            with quiet():
                return prepared(
                    lambda: JaxdiffFolder(files, data_dir=folder), tell=False
                )
        except OSError as error:
            raise InputError(
                f"cannot prepare the images in the cache folder {folder}: "
                f"{first_line(error)}; set JAXDIFF_CACHE to a folder you can write"
            ) from error

    def _key(self, root: Path, names: list[Path], classes: list[str] | None) -> str:
        """Of the files as they are now, and of what is made of them."""
        rules = _VERSION, self.size, self.channels, self.bad_files, classes
        digest = hashlib.sha256(repr((os.fspath(root.resolve()), rules)).encode())
        for name in names:
            with contextlib.suppress(OSError):  # one that cannot be read is left out
                found = os.stat(root / name)
                known = os.fspath(name), found.st_size, found.st_mtime_ns
                digest.update(repr(known).encode())
        return digest.hexdigest()[:24]


def _warn(reasons: list[str], count: int, root: Path, split: str) -> None:
    """Tells which files were left out, if any were."""
    if reasons:
        more = len(reasons) - _NAMED
        warnings.warn(
            f"{len(reasons)} of {count} images of the {split} split in "
            f"{str(root)!r} are left out: {'; '.join(reasons[:_NAMED])}"
            + (f"; and {more} more" if more > 0 else ""),
            stacklevel=3,
        )


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
