"""Dataset of your own images: the files of a folder, resized to one size."""

import contextlib
import hashlib
import os
import re
import warnings
from collections import Counter
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
"""Extensions of image files, in lower or upper case."""
SPLITS = {"train", "training", "test", "testing", "val", "valid", "validation", "dev"}
"""Names of sub-folders that are splits in other programs."""
_VERSION = 1  # of the preparation; a new version prepares all images again
_NAMED = 3  # number of unreadable files that a warning names


@dataclass(frozen=True, kw_only=True)
class ImageFolder(Checked):
    """Images in a folder and its sub-folders, resized to one size.

    The first use prepares the images, as uint8 in an ArrayRecord file, in
    $JAXDIFF_CACHE, by default $XDG_CACHE_HOME/jaxdiff or ~/.cache/jaxdiff. Later uses
    read the prepared images, as long as the files and the options are the same.

    Image files have the extension .png, .jpg, .jpeg, .webp, .bmp or .gif; hidden files
    and links are skipped. If every image lies in a sub-folder and there are at least
    two sub-folders, these are the classes. `read_image` describes the conversion of an
    image.
    """

    FLAG: ClassVar[str] = "folder"

    path: str = ""
    """Path of the folder."""

    size: Size = 32
    """Height and width to which the central square of each image is resized, in
    pixels."""

    channels: Channels = 3
    """Number of channels: 1 for grey, 3 for colour."""

    bad_files: Literal["skip", "stop"] = "skip"
    """Reaction to an unreadable file: skip the file, or stop the run."""

    held_out: Share = 0.1
    """Share of the images in the test split. The file name decides, so new files
    move no others."""

    flip: bool = True
    """If True, mirror training images left to right at random."""

    stream: bool = False
    """If True, read prepared images from disk during training. Images larger than
    half of the memory always stay on disk."""

    def load(self, split: str = "train") -> Dataset:
        """Returns the "train" split, or the "test" split (a share of about `held_out`).

        Raises:
            InputError: If the folder does not exist, or has no image, none in this
                split or none that can be read. Also if one cannot be read and
                `bad_files` is "stop".

        Warns:
            UserWarning: If unreadable files are left out, or if the classes of the
                training images have the names of splits, such as train and test.
        """
        check_split(split)
        root = self._root()
        files = image_files(root)
        if not files:
            raise InputError(
                f"there is no image in {str(root)!r}. Give a folder of files with the "
                f"extensions {' '.join(ENDINGS)} (links and hidden files are skipped)."
            )
        classes = class_names(files)
        if classes and split == "train" and SPLITS.issuperset(map(str.lower, classes)):
            warnings.warn(
                f"took the sub-folders {', '.join(classes)} of {str(root)!r} as "
                f"classes. Name one as the path, such as {str(root / classes[-1])!r}, "
                "to use its images alone.",
                stacklevel=2,
            )
        chosen = [
            name for name in files
            if is_held_out(name, self.held_out) == (split == "test")
        ]  # fmt: skip
        if not chosen:
            raise InputError(
                f"none of the {len(files)} images in {str(root)!r} falls into the "
                f"{split} split. Change held_out ({self.held_out:g}), or add images."
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

    def skipped_files(self) -> dict[str, int]:
        """Returns the number of files that are not read, by extension, largest first.

        Links count as "link", and files without extension as "other". Hidden files do
        not count.
        """
        found = Counter(
            _kind(entry) for _, entry in _walk(self._root()) if not _is_image(entry)
        )
        return dict(found.most_common())

    def _root(self) -> Path:
        if not self.path:
            raise InputError("path must name a folder, got ''. Set --data.path.")
        root = Path(self.path).expanduser()
        try:
            if root.is_dir():
                return root
        except (OSError, ValueError):  # a name that is too long, or has a NUL
            pass
        raise InputError(f"there is no folder {self.path!r}. Check --data.path.")

    def _prepared(
        self, root: Path, names: list[Path], split: str, classes: list[str] | None
    ) -> Any:
        """Returns the TFDS builder of these files; prepares the data if necessary."""
        require("tensorflow_datasets")
        from jaxdiff.data.image_folder_builder import Files, JaxdiffFolder

        def read(name: Path) -> np.ndarray | str:
            try:
                return read_image(root / name, self.size, self.channels)
            except InputError as error:
                if self.bad_files == "stop":
                    raise InputError(
                        f"{error}. Set bad_files to skip to leave it out."
                    ) from None
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
                    lambda: JaxdiffFolder(files, data_dir=folder), verbose=False
                )
        except OSError as error:
            raise InputError(
                f"cannot prepare the images in the cache folder {folder}: "
                f"{first_line(error)}. Set JAXDIFF_CACHE to a writable folder."
            ) from error

    def _key(self, root: Path, names: list[Path], classes: list[str] | None) -> str:
        """Returns a hash of the current files and of the options of the preparation."""
        rules = _VERSION, self.size, self.channels, self.bad_files, classes
        digest = hashlib.sha256(repr((os.fspath(root.resolve()), rules)).encode())
        for name in names:
            with contextlib.suppress(OSError):  # an unreadable file is left out
                found = os.stat(root / name)
                known = os.fspath(name), found.st_size, found.st_mtime_ns
                digest.update(repr(known).encode())
        return digest.hexdigest()[:24]


def _warn(reasons: list[str], count: int, root: Path, split: str) -> None:
    """Warns about the files that were left out, if any."""
    if reasons:
        more = len(reasons) - _NAMED
        warnings.warn(
            f"skipped {len(reasons)} of {count} images of the {split} split in "
            f"{str(root)!r}: {'; '.join(reasons[:_NAMED])}"
            + (f"; and {more} more" if more > 0 else ""),
            stacklevel=3,
        )


def image_files(root: Path) -> list[Path]:
    """Returns the image files below a folder, as sorted relative paths.

    Raises:
        InputError: If a folder cannot be listed.
    """
    found = (path for path, entry in _walk(root) if _is_image(entry))
    return sorted(found, key=lambda path: path.parts)


def _walk(root: Path) -> Iterator[tuple[Path, os.DirEntry[str]]]:
    """Yields the relative path and the entry of each file or link below a folder."""
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
            else:
                yield folder / entry.name, entry


def _is_image(entry: os.DirEntry[str]) -> bool:
    return entry.name.lower().endswith(ENDINGS) and entry.is_file(follow_symlinks=False)


def _kind(entry: os.DirEntry[str]) -> str:
    """Returns the extension of a file, "link" or "other"."""
    ending = Path(entry.name).suffix.lower()
    # A longer extension, or one of other characters, is part of a name.
    plain = re.fullmatch(r"\.\w{1,8}", ending, re.ASCII)
    return "link" if entry.is_symlink() else ending if plain else "other"


def class_names(files: list[Path]) -> list[str] | None:
    """Returns the sub-folders as class names, or None.

    The sub-folders are classes if every file lies in one and there are at least two.
    """
    if any(len(file.parts) < 2 for file in files):
        return None
    names = sorted({file.parts[0] for file in files})
    return names if len(names) >= 2 else None


def is_held_out(file: Path, share: float) -> bool:
    """Returns True if a file belongs to the test split; its name alone decides."""
    digest = hashlib.sha256(os.fsencode(file.as_posix())).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64
