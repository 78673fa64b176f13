"""Dataset of your own images: the files of a folder, resized to one size."""

import contextlib
import hashlib
import math
import os
import warnings
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge

from jaxdiff.checks import Checked, DiskPath, Share
from jaxdiff.data.buckets import bucket_sizes, nearest_size
from jaxdiff.data.cached import check_complete, load_cached
from jaxdiff.data.dataset import Dataset, EmptySplit, check_split
from jaxdiff.data.folder_captions import FolderCaptions, Source, find_captions
from jaxdiff.data.folder_files import ENDINGS, image_files
from jaxdiff.data.image_files import Channels, Size, is_momentary, read_image
from jaxdiff.data.tfds_reader import read
from jaxdiff.errors import InputError, printable, require
from jaxdiff.storage.cache import FOLDERS, cache_folder
from jaxdiff.storage.files import expanded

_SPLITS = {
    "dev", "eval", "test", "testing", "train", "training", "val", "valid", "validation"
}  # fmt: skip
"""Names of sub-folders that look like the splits of a dataset, not like classes."""
_VERSION = 2  # of the preparation; a new version prepares all images again
_NAMED = 3  # number of unreadable files that a warning names


@dataclass(frozen=True, kw_only=True)
class ImageFolder(Checked):
    """Images in a folder and its sub-folders, resized to one size.

    The first use prepares the images, as uint8 in an ArrayRecord file, in
    $JAXDIFF_CACHE, by default $XDG_CACHE_HOME/jaxdiff or ~/.cache/jaxdiff. Later uses
    read the prepared images, as long as the files and the options are the same.

    Image files have the extension .png, .jpg, .jpeg, .jpe, .jfif, .webp, .bmp or .gif;
    hidden files and links are skipped. A warning counts image files of other
    extensions. If every image lies in a sub-folder and there are at least two
    sub-folders, these are the classes. `read_image` describes the conversion of an
    image.
    """

    FLAG: ClassVar[str] = "folder"

    path: DiskPath = ""
    """Path of the folder."""

    size: Size = 32
    """Height and width to which the central square of each image is resized, in
    pixels."""

    buckets: Annotated[int, Ge(0)] = 0
    """Step of aspect-ratio buckets; 0 for squares. Height and width of a bucket are
    multiples of the step with at most the pixels of the square and a ratio of at most
    2. Each image is cropped and resized to the bucket nearest to its own ratio, and a
    batch has images of one bucket."""

    channels: Channels = 3
    """Number of channels: 1 for grey, 3 for colour."""

    bad_files: Literal["skip", "stop"] = "skip"
    """Reaction to an unreadable file: skip the image, or stop the run."""

    captions: Source = "none"
    """Source of the captions: "metadata" for metadata.jsonl or metadata.csv, "files"
    for a.txt beside a.png, "classes" for the sub-folders, "auto" for the first of these
    that there is."""

    held_out: Share = 0.1
    """Share of the images in the test split. The file name decides, so new files
    move no others."""

    flip: bool = True
    """If True, mirror training images left to right at random."""

    stream: bool = False
    """If True, read prepared images from disk during training. Images larger than
    half of the memory always stay on disk."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.buckets and self.size % self.buckets:
            raise InputError(
                f"buckets must divide size ({self.size}), got {self.buckets}. Use "
                f"{math.gcd(self.size, self.buckets)}, or change size."
            )

    def load(self, split: str = "train") -> Dataset:
        """Returns the "train" split, or the "test" split (a share of about `held_out`).

        Raises:
            EmptySplit: If no image falls into this split.
            InputError: If the folder does not exist, has no image, or none of the split
                that can be read. Also if one cannot be read and `bad_files` is "stop",
                or if there are no captions, or a metadata file is wrong.

        Warns:
            UserWarning: If unreadable files or image files of other extensions are left
                out, if images lack captions, or if the classes have the names of
                splits, such as train and test.
        """
        check_split(split)
        root = self._root()
        files, others = image_files(root)
        skipped = f" ({_counted(others)} are skipped)" if others else ""
        if not files:
            raise InputError(
                f"there is no image in {str(root)!r}{skipped}. Give a folder of files "
                f"with the extensions {' '.join(ENDINGS)} (links and hidden files are "
                "skipped)."
            )
        classes = class_names(files)
        captions, notes = find_captions(root, files, self.captions, classes)
        if split == "train":
            _warn_contents(root, others, classes or [])
            for note in notes:
                warnings.warn(note, stacklevel=2)
        chosen = [
            name for name in files
            if is_held_out(name, self.held_out) == (split == "test")
        ]  # fmt: skip
        if not chosen:
            raise EmptySplit(
                f"none of the {len(files)} images in {str(root)!r} falls into the "
                f"{split} split. Change held_out ({self.held_out:g}), or add images."
            )
        return self._prepared(root, chosen, split, classes, captions)

    def _root(self) -> Path:
        if not self.path:
            raise InputError("path must name a folder, got ''. Set --data.path.")
        root = expanded(self.path)
        try:
            if root.is_dir():
                return root
        except (OSError, ValueError):  # a name that is too long, or has a NUL
            pass
        what = " (it is a file)" * os.path.isfile(root)
        raise InputError(f"there is no folder {self.path!r}{what}. Check --data.path.")

    def _prepared(
        self,
        root: Path,
        names: list[Path],
        split: str,
        classes: list[str] | None,
        captions: FolderCaptions | None,
    ) -> Dataset:
        """Returns the images of these files; prepares them if necessary."""
        require("tensorflow_datasets")
        from jaxdiff.data.image_folder_builder import (
            CAPTIONS,
            IMAGE,
            LABEL,
            Files,
            JaxdiffFolder,
        )

        momentary: list[int] = []
        numbers = {name: number for number, name in enumerate(classes or ())}
        size: Any = self.size
        shape: tuple[int | None, ...] = (self.size, self.size, self.channels)
        if self.buckets:
            size = partial(nearest_size, sizes=bucket_sizes(self.size, self.buckets))
            shape = (None, None, self.channels)

        def decode(i: int) -> dict[str, Any] | str:
            example: dict[str, Any] = {}
            if classes:
                example[LABEL] = numbers[names[i].parts[0]]
            try:
                example[IMAGE] = read_image(root / names[i], size, self.channels)
                if captions is not None:
                    example[CAPTIONS] = captions.of(names[i])
                return example
            except InputError as error:
                if self.bad_files == "stop":
                    raise InputError(
                        f"{error}. Set bad_files to skip to leave it out."
                    ) from None
                if is_momentary(error):
                    momentary.append(i)
                return str(error)

        files = Files(
            title=printable(f"{root.name} {split}"),
            split=split,
            num=len(names),
            class_names=_shown(classes),
            captioned=captions is not None,
            shape=shape,
            decode=decode,
            momentary=momentary,
        )
        folder = self._place(root, split)
        state = self._state(root, names, classes, captions)

        def is_current(builder: Any) -> bool:
            """Returns False if a file that could not be read now can be read."""
            before = builder.info.metadata["momentary"]
            return all(isinstance(decode(i), str) for i in before)

        left_out: list[str] = []

        def read_split(builder: Any) -> Dataset:
            left_out[:] = builder.info.metadata["left_out"]
            check_complete(builder, split, len(names) - len(left_out))
            return read(
                builder,
                split,
                image_key=IMAGE,
                label_key=None if classes is None else LABEL,
                caption_key=None if captions is None else CAPTIONS,
                stream=self.stream,
                in_buckets=self.buckets > 0,
            )

        dataset = load_cached(
            folder,
            lambda: JaxdiffFolder(files, data_dir=folder / state),
            read_split,
            about=f"{split} split of {str(root.resolve())!r}, size {self.size}, "
            + f"buckets {self.buckets}, " * (self.buckets > 0)
            + f"channels {self.channels}",
            is_current=is_current,
        )
        _warn(left_out, len(names), root, split)
        return dataset

    def _place(self, root: Path, split: str) -> Path:
        """Returns the folder in the cache for the current state of the images."""
        options: tuple[Any, ...] = (
            self.size, self.channels, self.bad_files, self.held_out
        )  # fmt: skip
        # Names without captions and buckets are as in earlier versions.
        if self.captions != "none":
            options = *options, self.captions
        if self.buckets:
            options = *options, self.buckets
        known = repr((os.fspath(root.resolve()), split, _VERSION, options))
        name = hashlib.sha256(known.encode(errors="surrogateescape")).hexdigest()[:16]
        return cache_folder() / FOLDERS / name

    def _state(
        self,
        root: Path,
        names: list[Path],
        classes: list[str] | None,
        captions: FolderCaptions | None,
    ) -> str:
        """Returns a hash of the current files and captions."""
        digest = hashlib.sha256(repr(classes).encode(errors="surrogateescape"))
        for name in names:
            with contextlib.suppress(OSError):  # an unreadable file is left out
                found = os.stat(root / name)
                known = os.fspath(name), found.st_size, found.st_mtime_ns
                digest.update(repr(known).encode(errors="surrogateescape"))
            if captions is not None:
                state = repr(captions.state(name))
                digest.update(state.encode(errors="surrogateescape"))
        return digest.hexdigest()[:16]


def _shown(classes: list[str] | None) -> list[str] | None:
    """Returns class names that TFDS can store in lines of UTF-8.

    Raises:
        InputError: If two of them are equal.
    """
    names = classes and [printable(name) for name in classes]
    if names and len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(
            f"names of classes must differ, got two folders that are shown as {twice}. "
            "Rename one."
        )
    return names


def _warn_contents(root: Path, others: list[Path], classes: list[str]) -> None:
    """Warns about image files of other extensions, and about splits as classes."""
    if others:
        warnings.warn(
            f"skipped {_counted(others)} in {str(root)!r}. Convert them to PNG or JPEG "
            "to use them.",
            stacklevel=3,
        )
    if classes and _SPLITS.issuperset(map(str.lower, classes)):
        likely = max(classes, key=lambda name: name.lower().startswith("train"))
        warnings.warn(
            f"used the sub-folders {', '.join(classes)} of {str(root)!r} as classes, "
            "although they look like splits. To train on one of them, set --data.path "
            f"to {str(root / likely)!r}.",
            stacklevel=3,
        )


def _counted(files: list[Path]) -> str:
    """Returns the number of files by extension: "2 ... (1 .jfif, 1 .tiff)"."""
    counts = Counter(file.suffix.lower() for file in files)
    parts = ", ".join(f"{counts[ending]} {ending}" for ending in sorted(counts))
    return f"{len(files)} image files of other extensions ({parts})"


def _warn(reasons: list[str], count: int, root: Path, split: str) -> None:
    """Warns about the files that were left out, if any."""
    if reasons:
        more = len(reasons) - _NAMED
        warnings.warn(
            f"skipped {len(reasons)} of {count} images of the {split} split in "
            f"{str(root)!r}: {'; '.join(reasons[:_NAMED])}"
            + (f"; and {more} more" if more > 0 else ""),
            stacklevel=4,
        )


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
