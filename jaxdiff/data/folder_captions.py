"""Captions of the images in a folder: text files, metadata files or class names.

A text file has the name of its image: `a.txt` or `a.caption` beside `a.png`, with one
caption per line. A metadata file, `metadata.jsonl` or `metadata.csv`, has the fields
`file_name` (relative to its own folder) and `text`, as in the library `datasets`.
"""

import os
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

from jaxdiff.data.caption_files import (
    NO_TEXT,
    cleaned,
    read_captions,
    read_metadata,
)
from jaxdiff.data.folder_files import files_of
from jaxdiff.errors import InputError, printable, shown

Source: TypeAlias = Literal["none", "auto", "metadata", "files", "classes"]
"""Source of captions; "auto" is the first of the others that the folder has."""
_TEXTS = (".txt", ".caption")  # the first that exists is read
_METADATA = ("metadata.jsonl", "metadata.csv")
_REMEDIES = {
    "metadata": "Add metadata.jsonl or metadata.csv with file_name and text.",
    "files": "Add a.txt beside a.png.",
    "classes": "Sort the images into one sub-folder per class.",
}
_REMEDIES["auto"] = " Or: ".join(_REMEDIES.values())


class FolderCaptions(Protocol):
    """Captions of the images in a folder."""

    def __contains__(self, image: Path) -> bool:
        """Returns True if the image has captions, which may be empty."""
        ...

    def of(self, image: Path) -> tuple[str, ...]:
        """Returns the captions of an image, at least one.

        Raises:
            InputError: If the captions cannot be read.
        """
        ...

    def state(self, image: Path) -> Any:
        """Returns a value that changes with the captions of an image."""
        ...


def find_captions(
    root: Path, images: list[Path], source: Source, classes: list[str] | None
) -> tuple[FolderCaptions | None, list[str]]:
    """Returns the captions in a folder, and warnings of one line each.

    The warnings name images without captions, and captions without an image.

    Args:
        root: Folder of the images.
        images: Paths of all images, relative to the folder.
        source: Source of the captions; "none" returns None.
        classes: Sub-folders that are classes, or None.

    Raises:
        InputError: If there are no captions, or a metadata file is wrong.
    """
    if source == "none":
        return None, []
    found, notes = _found(root, images, source, classes)
    missing = [image for image in images if image not in found]
    if missing:
        notes.append(
            f"used an empty caption for {len(missing)} of {len(images)} images in "
            f"{str(root)!r}, which have none; the first is {str(missing[0])!r}"
        )
    return found, notes


def _found(
    root: Path, images: list[Path], source: Source, classes: list[str] | None
) -> tuple[FolderCaptions, list[str]]:
    files = files_of(root, _TEXTS + _METADATA)
    tables = [file for file in files if file.name.lower() in _METADATA]
    if tables and source in ("auto", "metadata"):
        texts, unknown = _metadata(root, tables, images)
        return _Table(texts), unknown
    beside = _text_files(files, images)
    if beside and source in ("auto", "files"):
        return _TextFiles(root, beside), []
    if classes and source in ("auto", "classes"):
        names = {name: (_class_caption(name),) for name in classes}
        return _Table({image: names[image.parts[0]] for image in images}), []
    raise InputError(
        f"captions must be in {str(root)!r}, got none (captions is {source!r}). "
        + _REMEDIES[source]
    )


@dataclass(frozen=True)
class _Table:
    """Captions in memory, by image."""

    texts: Mapping[Path, tuple[str, ...]]

    def __contains__(self, image: Path) -> bool:
        return image in self.texts

    def of(self, image: Path) -> tuple[str, ...]:
        return self.texts.get(image, NO_TEXT)

    def state(self, image: Path) -> Any:
        return self.of(image)


@dataclass(frozen=True)
class _TextFiles:
    """Captions in text files, by image."""

    root: Path
    files: Mapping[Path, Path]

    def __contains__(self, image: Path) -> bool:
        return image in self.files

    def of(self, image: Path) -> tuple[str, ...]:
        file = self.files.get(image)
        return NO_TEXT if file is None else read_captions(self.root / file)

    def state(self, image: Path) -> Any:
        if (file := self.files.get(image)) is None:
            return None
        try:
            found = os.stat(self.root / file)
        except OSError:  # `of` raises the reason
            return file.name
        return file.name, found.st_size, found.st_mtime_ns


def _text_files(files: list[Path], images: list[Path]) -> dict[Path, Path]:
    """Returns the text file of each image that has one."""
    by_ending: dict[str, dict[Path, Path]] = {ending: {} for ending in _TEXTS}
    for file in files:
        if (ending := file.suffix.lower()) in by_ending:
            by_ending[ending][file.with_suffix("")] = file
    known = {**by_ending[".caption"], **by_ending[".txt"]}
    stems = ((image, image.with_suffix("")) for image in images)
    return {image: known[stem] for image, stem in stems if stem in known}


def _class_caption(name: str) -> str:
    """Returns the caption of a class: its name, with spaces for underscores."""
    return cleaned(printable(name).replace("_", " "))


def _metadata(
    root: Path, tables: list[Path], images: list[Path]
) -> tuple[dict[Path, tuple[str, ...]], list[str]]:
    """Returns the captions in metadata files by image, and warnings."""
    known = {unicodedata.normalize("NFC", str(image)): image for image in images}
    texts: dict[Path, tuple[str, ...]] = {}
    lines: dict[str, str] = {}  # place of each name
    unknown: list[str] = []
    for table in tables:
        path = root / table
        for number, name, captions in read_metadata(path):
            place = f"line {number} of '{path}'"
            key = unicodedata.normalize("NFC", str(table.parent / name))
            if key in lines:
                raise InputError(
                    f"file_name must occur once, got {shown(name)} in {place} and in "
                    f"{lines[key]}. Give several captions as a list (metadata.jsonl)."
                )
            lines[key] = place
            if key in known:
                texts[known[key]] = captions
            else:
                unknown.append(f"{shown(name)} in {place}")
    if not texts:
        raise InputError(
            f"file_name must be the path of an image from the folder of "
            f"'{root / tables[0]}', got {unknown[0] if unknown else 'no entry'}. "
            "Correct the file, or set --data.captions."
        )
    if not unknown:
        return texts, []
    count = f"{len(unknown)} captions whose file_name is no image"
    return texts, [f"skipped {count}; the first is {unknown[0]}"]
