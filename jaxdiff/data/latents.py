"""Latents of images, which an autoencoder made before training (`runs.encode`).

latents.json                          what the files hold, and their checksums
captions.json                         every caption once; the first is no caption
texts-00000-of-00001.array_record     the condition of each caption
train/examples.json                   classes, and numbers of captions
train/latents-00000-of-00002...       mean and deviation, float16
train/mirrored-00000-of-00002...      the same of mirrored images
train/latents-8x12-00000-of-00001...  those of a bucket, of height 8 and width 12
test/...                              the held-out images
parts/                                autoencoder and text encoders, see runs.parts
"""

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from jaxdiff import serialization
from jaxdiff.checks import Checked, DiskPath
from jaxdiff.data.buckets import Buckets, Images
from jaxdiff.data.dataset import (
    Dataset,
    EmptySplit,
    Moments,
    Texts,
    check_split,
    checked_labels,
)
from jaxdiff.data.streaming import Records, Unreadable, too_large
from jaxdiff.errors import InputError, first_line, require
from jaxdiff.storage.files import expanded, read_json
from jaxdiff.storage.manifest import checksum
from jaxdiff.typing import Condition

RECORD = "latents.json"
CAPTIONS = "captions.json"
EXAMPLES = "examples.json"
SHARD = 256
"""Number of records per file."""
STORED = np.dtype(np.float16)
"""Type of the latents, and of the features of texts."""


@dataclass(frozen=True, kw_only=True)
class LatentsBucket:
    """Latents of one size."""

    height: int
    """Height of the latents."""
    width: int
    """Width of the latents."""
    num: int
    """Number of images."""
    numbers: tuple[float, ...] = ()
    """Numbers of the condition that depend on the size of the image, if the model has
    some."""


class Group(NamedTuple):
    """Files of one shape: all latents of a split, or a bucket.

    Attributes:
        ending: ending of the files' name.
        first: number of images in the buckets before.
        num: number of images.
        shape: shape of a record.
    """

    ending: str
    first: int
    num: int
    shape: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class LatentsInfo:
    """Description of a folder of latents: the contents of latents.json."""

    image_shape: tuple[int, ...]
    """Height, width and channels of the images; with buckets, of the bucket with the
    most images."""
    latent_shape: tuple[int, ...]
    """Height, width and channels of the latents of such images."""
    deviation: bool
    """If True, each record has the deviation after the mean."""
    mirrored: bool
    """If True, there are latents of the mirrored images too."""
    class_names: tuple[str, ...] | None = None
    """Name of each class, or None."""
    text: dict[str, tuple[int, ...]] | None = None
    """Shape of each part of a caption's condition, in order; None for captions that no
    text encoder encoded."""
    captions: int = 0
    """Number of different captions, and one; 0 without captions."""
    sizes: dict[str, int]
    """Number of images of each split."""
    buckets: dict[str, tuple[LatentsBucket, ...]] | None = None
    """Buckets of each split, in the order of the images; None for one size."""
    source: dict[str, str]
    """Fingerprint of each split's images."""
    parts: str
    """Checksum of the autoencoder and the text encoders."""
    batch: int
    """Number of images that a device encoded at once."""
    mean: tuple[float, ...] = ()
    """Mean of each channel over the training images."""
    std: tuple[float, ...] = ()
    """Standard deviation of each channel over the training images."""
    checksums: dict[str, str] = field(default_factory=dict)
    """SHA-256 of each file, by its path in the folder."""

    def groups(self, split: str) -> Iterator[Group]:
        """Yields the groups of files of a split, in the order of the images."""
        height, width, channels = self.latent_shape
        channels *= 1 + self.deviation
        if self.buckets is None:
            yield Group("", 0, self.sizes[split], (height, width, channels))
            return
        first = 0
        for one in self.buckets[split]:
            shape = one.height, one.width, channels
            yield Group(f"-{one.height}x{one.width}", first, one.num, shape)
            first += one.num

    def fingerprint(self, split: str) -> str:
        """Returns a hash of a split: of its files, and of what all splits share."""
        shared = (self.latent_shape, self.deviation, self.class_names, self.text)
        files = [
            (name, digest)
            for name, digest in sorted(self.checksums.items())
            if "/" not in name or name.startswith(f"{split}/")
        ]
        return hashlib.sha256(repr((shared, files)).encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class Latents(Checked):
    """Latents of images, and the conditions of their captions.

    The command `encode` writes them. A run on latents has the parts that made them: the
    autoencoder, and the text encoders.
    """

    FLAG: ClassVar[str] = "latents"

    path: DiskPath = ""
    """Path of the folder that the command encode wrote."""

    flip: bool = False
    """If True, take the latents of the mirrored image at random, if there are any."""

    stream: bool = False
    """If True, read latents from disk during training. Latents larger than half of the
    memory always stay on disk."""

    def load(self, split: str = "train") -> Dataset:
        """Returns the "train" split, or the "test" split.

        Raises:
            EmptySplit: If no image falls into this split.
            InputError: If there are no such latents, or they are damaged.
        """
        check_split(split)
        if not self.path:
            raise InputError("path must name a folder, got ''. Set --data.path.")
        folder = expanded(self.path)
        info = read_info(folder)
        size = info.sizes.get(split, 0)
        if not size:
            raise EmptySplit(
                f"none of the images of '{folder}' falls into the {split} split"
            )
        if self.flip and not info.mirrored:
            raise InputError(
                f"data.flip must be False, because '{folder}' has no latents of "
                "mirrored images, got True. Encode the images with --flip."
            )
        places, buckets = folder / split, info.buckets

        def read(kind: str) -> Images:
            parts = [
                read_records(
                    places, kind + one.ending, one.num, one.shape, STORED, self.stream
                )
                for one in info.groups(split)
            ]
            return parts[0] if buckets is None else Buckets(parts)

        examples = _checked_json(folder, f"{split}/{EXAMPLES}", info)
        labels = examples.get("labels")
        if labels is not None:
            labels = checked_labels(np.asarray(labels), size, info.class_names)
        captions, texts = None, None
        if info.captions:
            numbers = examples["captions"]
            known = _checked_json(folder, CAPTIONS, info)["captions"]
            captions = tuple(tuple(known[n] for n in one) for one in numbers)
        if info.text is not None:
            texts = Texts(
                _conditions(folder, info, self.stream),
                np.concatenate([np.asarray(one, np.int64) for one in numbers]),
                np.cumsum([0, *map(len, numbers)]),
                None
                if buckets is None
                else np.array([one.numbers for one in buckets[split]], np.float32),
            )
        mirrored = read("mirrored") if info.mirrored else None
        return Dataset(
            read("latents"),
            labels,
            info.class_names,
            info.fingerprint(split),
            captions,
            texts,
            Moments(info.latent_shape[-1], mirrored),
        )


def read_info(folder: Path) -> LatentsInfo:
    """Returns the description of a folder of latents.

    Raises:
        InputError: If the folder holds no finished latents.
    """
    path = folder / RECORD
    if not path.is_file():
        raise InputError(
            f"there are no latents in '{folder}'. Make them with jaxdiff encode, or "
            "repeat that command if it was stopped."
        )
    why = f"'{path}' cannot be read"
    return serialization.from_dict(LatentsInfo, read_json(path), why)


def shard_names(name: str, size: int) -> list[str]:
    """Returns the names of the files of `size` records."""
    count = -(-size // SHARD)
    return [f"{name}-{i:05}-of-{count:05}.array_record" for i in range(count)]


def type_of(part: str) -> np.dtype[Any]:
    """Returns the type in which a part of a condition is stored."""
    return {"mask": np.dtype(bool), "numbers": np.dtype(np.float32)}.get(part, STORED)


def _conditions(
    folder: Path, info: LatentsInfo, stream: bool
) -> Callable[[np.ndarray], Condition]:
    """Returns a function of numbers of captions that returns their condition."""
    layout = {
        name: (tuple(shape), math.prod(shape) * type_of(name).itemsize)
        for name, shape in (info.text or {}).items()
    }
    width = sum(size for _, size in layout.values())
    rows = read_records(
        folder, "texts", info.captions, (width,), np.dtype(np.uint8), stream
    )

    def of(numbers: np.ndarray) -> Condition:
        found, start = rows[numbers], 0
        parts: dict[str, Any] = {}
        for name, (shape, size) in layout.items():
            raw = np.ascontiguousarray(found[:, start : start + size])
            part = raw.view(type_of(name)).reshape(len(numbers), *shape)
            parts[name] = part if name == "mask" else part.astype(np.float32)
            start += size
        return Condition(**parts)

    return of


def read_records(
    folder: Path,
    name: str,
    size: int,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    stream: bool,
) -> np.ndarray | Records:
    """Returns records of one shape, in memory unless they are too large.

    Args:
        folder: Folder of the files.
        name: Beginning of their names.
        size: Number of records.
        shape: Shape of a record.
        dtype: Type of a record.
        stream: If True, the records stay on disk.

    Raises:
        InputError: If a file is missing or damaged.
    """
    paths = [folder / one for one in shard_names(name, size)]
    for path in paths:
        if not path.is_file():
            raise InputError(
                f"'{path}' must be a file of the latents, got none. Encode the images "
                "again."
            )
    module = require("array_record.python.array_record_data_source")

    def decode(record: bytes) -> np.ndarray:
        return np.frombuffer(record, dtype).reshape(shape)

    try:
        source = module.ArrayRecordDataSource([str(path) for path in paths])
    except Exception as error:  # the reader has its own types
        raise Unreadable(
            f"the latents in '{folder}' cannot be read: {first_line(error)}. Encode "
            "the images again."
        ) from error
    if len(source) != size:
        raise Unreadable(
            f"'{folder}' must have {size} records of {name}, got {len(source)}. Encode "
            "the images again."
        )
    records = Records(source, decode, shape, dtype)
    width = math.prod(shape) * dtype.itemsize
    return records if stream or too_large(size, (width,)) else np.asarray(records)


def _checked_json(folder: Path, name: str, info: LatentsInfo) -> dict[str, Any]:
    """Returns a JSON file of the latents, after a look at its checksum."""
    path = folder / name
    if not path.is_file() or checksum(path) != info.checksums.get(name):
        raise InputError(
            f"'{path}' must be the file that encode wrote, got another one or none. "
            "Encode the images again."
        )
    return read_json(path)
