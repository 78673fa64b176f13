"""Image datasets, and their batches as pure functions of the seed and the step."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain, count, pairwise
from typing import NamedTuple

import numpy as np

from jaxdiff.data.buckets import Buckets, Images
from jaxdiff.data.captions import Captions, as_bytes, checked_captions
from jaxdiff.data.sequence import (
    bucket_draw,
    caption_choice,
    drops,
    examples,
    flips,
)
from jaxdiff.errors import InputError, printable
from jaxdiff.typing import ArrayLike, Batch, Condition


class Texts(NamedTuple):
    """Captions of a dataset as conditions of a network.

    Attributes:
        of: Function of numbers of captions, integers [n], that returns their condition
            [n, ...]. The caption of number 0 is no caption.
        numbers: Numbers of all images' captions, image after image (integers [m]).
        first: Position in `numbers` of each image's first caption, and at last m
            (integers [size + 1]).
        of_bucket: Numbers of the condition in each bucket, such as the size of its
            images (float32 [buckets, n]); None or n = 0 for none.
    """

    of: Callable[[np.ndarray], Condition]
    numbers: np.ndarray
    first: np.ndarray
    of_bucket: np.ndarray | None = None

    def part(self, bucket: int, start: int, end: int) -> "Texts":
        """Returns the texts of the images start, ..., end - 1, a bucket's."""
        first = self.first[start : end + 1]
        numbers, added = self.numbers[first[0] : first[-1]], self.of_bucket

        def of(chosen: np.ndarray) -> Condition:
            found = self.of(chosen)
            if added is None or not added.size:
                return found
            return found._replace(numbers=np.tile(added[bucket], (len(chosen), 1)))

        return Texts(of, numbers, first - first[0])


class Moments(NamedTuple):
    """Latents of an autoencoder: each image's mean, and its deviation if there is one.

    Attributes:
        channels: Number of channels of the latents; the images of the dataset hold the
            mean in as many channels, and then the deviation.
        mirrored: The same of the images mirrored left to right, or None.
    """

    channels: int
    mirrored: Images | None = None


@dataclass(frozen=True, eq=False)
class Dataset:
    """Dataset of images with optional classes and captions; see `from_arrays`.

    Attributes:
        images: Images in memory or on disk; images on disk are read when indexed (uint8
            [size, height, width, channels]). `Buckets` have several shapes.
        labels: Class of each image, or None without classes (int32 [size]).
        class_names: Name of each class, or None.
        known_fingerprint: Fingerprint computed earlier, or None.
        captions: Captions of each image, at least one, or None without captions. The
            caption "" is no text.
        texts: Captions in the form that a network takes, or None.
        moments: Latents in place of images, or None.
    """

    images: Images
    labels: np.ndarray | None = None
    class_names: tuple[str, ...] | None = None
    known_fingerprint: str | None = None
    captions: Captions | None = None
    texts: Texts | None = None
    moments: Moments | None = None

    def __len__(self) -> int:
        return len(self.images)

    @property
    def num_classes(self) -> int | None:
        """Number of classes, or None without labels.

        The number is the length of `class_names`, or the largest label + 1 without
        names.
        """
        if self.labels is None:
            return None
        if self.class_names is not None:
            return len(self.class_names)
        return int(self.labels.max()) + 1

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels, of images or latents.

        Of images in buckets, the shape is that of the bucket with the most images.
        """
        height, width, channels = self.images.shape[1:]
        return height, width, self.moments.channels if self.moments else channels

    @cached_property
    def buckets(self) -> tuple["Dataset", ...]:
        """Images of each shape, in their order; the dataset itself if it has one."""
        images = self.images
        if not isinstance(images, Buckets):
            return (self,)
        parts = enumerate(pairwise(images.first.tolist()))
        return tuple(self._bucket(images, i, *ends) for i, ends in parts)

    def _bucket(self, images: Buckets, i: int, start: int, end: int) -> "Dataset":
        """Returns bucket i, the images start, ..., end - 1."""
        moments = self.moments
        if moments is not None and isinstance(moments.mirrored, Buckets):
            moments = moments._replace(mirrored=moments.mirrored.parts[i])
        return replace(
            self,
            images=images.parts[i],
            labels=None if self.labels is None else self.labels[start:end],
            known_fingerprint=None,
            captions=None if self.captions is None else self.captions[start:end],
            texts=None if self.texts is None else self.texts.part(i, start, end),
            moments=moments,
        )

    def of_shape(self, shape: tuple[int, ...]) -> "Dataset":
        """Returns the bucket of a shape (height, width, channels), possibly no images.

        A dataset without buckets is returned as it is.
        """
        if not isinstance(self.images, Buckets):
            return self
        found = (part for part in self.buckets if part.image_shape == shape)
        return next(found, None) or self.emptied(shape)

    def emptied(self, shape: tuple[int, ...]) -> "Dataset":
        """Returns a dataset of no images of this shape, with the same classes."""
        none = np.zeros((0, *shape), np.uint8)
        return Dataset(none, class_names=self.class_names)

    def examples(self, seed: int, step: int, batch_size: int) -> np.ndarray:
        """Returns the indices of a step's examples (integers [batch_size])."""
        part, first, draw = self._draw(seed, step)
        return (first or 0) + examples(len(part), seed, draw, batch_size, first)

    def _draw(self, seed: int, step: int) -> tuple["Dataset", int | None, int]:
        """Returns a step's bucket, its first example and its number of earlier draws.

        Without buckets, they are the dataset, None, and the step.
        """
        images = self.images
        if not isinstance(images, Buckets):
            return self, None, step
        bucket, draw = bucket_draw(images.sizes, seed, step)
        return self.buckets[bucket], int(images.first[bucket]), draw

    def batches(
        self, batch_size: int, *, seed: int = 0, flip: bool = False
    ) -> Iterator[Batch]:
        """Yields the batches of steps 0, 1, ... without end; see `batch`."""
        for step in count():
            yield batch(self, seed, step, batch_size, flip=flip)

    def fingerprint(self) -> str:
        """Returns a hash of images, labels, class names and captions, and the order."""
        if self.known_fingerprint is not None:
            return self.known_fingerprint
        labels = () if self.labels is None else (self.labels,)
        texts = () if self.captions is None else (as_bytes(self.captions),)
        images = [np.asarray(part.images) for part in self.buckets]
        parts = chain(images, labels, texts)
        shapes = [part.shape for part in images]
        shape = shapes[0] if len(shapes) == 1 else shapes
        return fingerprint_of(shape, self.class_names, parts)


def fingerprint_of(
    shape: tuple[int, ...] | list[tuple[int, ...]],
    class_names: tuple[str, ...] | None,
    parts: Iterable[np.ndarray],
) -> str:
    """Returns a dataset's fingerprint; see `Dataset.fingerprint`.

    Args:
        shape: Shape of all images together, or of those of each bucket.
        class_names: Name of each class, or None.
        parts: Images in any division, followed by the labels and by the bytes of the
            captions, if there are any.
    """
    digest = hashlib.sha256(repr((shape, class_names)).encode())
    for part in parts:
        digest.update(np.ascontiguousarray(part).data)
    return digest.hexdigest()[:16]


class EmptySplit(InputError):
    """Split of a dataset without any image."""


def check_split(split: str) -> None:
    """Raises an error unless the split is "train" or "test"."""
    if split not in ("train", "test"):
        raise InputError(f"split must be 'train' or 'test', got {split!r}")


def from_arrays(
    images: np.ndarray | Buckets,
    labels: np.ndarray | None = None,
    class_names: Sequence[str] | None = None,
    captions: Sequence[str | Sequence[str]] | None = None,
) -> Dataset:
    """Returns a dataset of your own images.

    Args:
        images: Images with values in 0..255 (uint8 [size, height, width, channels]), or
            `Buckets` of such images.
        labels: Class of each image, from 0, or None (integers [size]).
        class_names: Name of each class, in the order of the labels, or None. Characters
            that cannot be printed are escaped.
        captions: Caption of each image, or a list of its captions, or None. A step
            draws one of them; "" is no text.

    Raises:
        InputError: If the arrays do not fit this description.
    """
    images = images if isinstance(images, Buckets) else np.asarray(images)
    if images.dtype != np.uint8:
        raise InputError(f"images must be uint8 in 0..255, got {images.dtype}")
    if len(images.shape) != 4:
        raise InputError(
            "images must have shape [size, height, width, channels], "
            f"got {images.shape}"
        )
    if 0 in images.shape:
        raise InputError(
            f"images must not be empty, got shape {images.shape}. "
            "Give at least one image."
        )
    names = (
        None
        if class_names is None
        else tuple(printable(str(name)) for name in class_names)
    )
    if labels is not None:
        labels = checked_labels(np.asarray(labels), len(images), names)
    elif names is not None:
        raise InputError(
            f"class_names must come with labels, got {len(names)} names and no labels. "
            "Give labels as well."
        )
    texts = None if captions is None else checked_captions(captions, len(images))
    return Dataset(images, labels, names, captions=texts)


def checked_labels(
    labels: np.ndarray, size: int, names: tuple[str, ...] | None
) -> np.ndarray:
    """Returns labels as int32 [size]; raises an `InputError` if they are invalid."""
    if not np.issubdtype(labels.dtype, np.integer):
        raise InputError(f"labels must be integers from 0, got {labels.dtype}")
    if labels.shape != (size,):
        raise InputError(
            f"labels must have shape ({size},), got {labels.shape}. "
            "Give one label per image."
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0:
        raise InputError(
            f"labels must be at least 0, got {low}. Number the classes from 0."
        )
    limit = 2**31 if names is None else len(names)
    if high >= limit:
        raise InputError(
            f"labels must be below {limit}, got {high}. "
            + ("Give int32 labels." if names is None else "Name every class.")
        )
    return labels.astype(np.int32)


def to_float(images: np.ndarray) -> np.ndarray:
    """Converts images from uint8 in 0..255 to float32 in [-1, 1]."""
    return np.asarray(images, np.float32) / np.float32(127.5) - np.float32(1)


def to_uint8(images: ArrayLike) -> np.ndarray:
    """Converts float images in [-1, 1] to uint8 in 0..255, rounded and clipped."""
    pixels = (np.asarray(images, np.float32) + np.float32(1)) * np.float32(127.5)
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def batch(
    dataset: Dataset,
    seed: int,
    step: int,
    batch_size: int,
    *,
    flip: bool = False,
    drop: float = 0.0,
    rows: np.ndarray | None = None,
) -> Batch:
    """Returns the batch of one training step, a pure function of `seed` and `step`.

    Successive steps walk through `order(seed, 0, size)`, then `order(seed, 1, size)`
    and so on. A batch may straddle the end of an epoch, so each epoch visits every
    example exactly once. All images of a batch have one shape; `data.sequence`
    describes the order of images in buckets.

    Args:
        dataset: Source of the examples.
        seed: Seed of the order and the flips, from 0 to 2**64 - 1.
        step: Training step, from 0.
        batch_size: Number of examples; it may exceed the size of the dataset.
        flip: If True, mirrors each example left to right with probability 1/2.
        drop: Probability to replace an example's caption by no caption.
        rows: Positions in the batch of the examples to read; None reads all, and other
            examples are not touched (integers [rows]).
    """
    rows = np.arange(batch_size) if rows is None else rows
    part, before, draw = dataset._draw(seed, step)
    chosen = examples(len(part), seed, draw, batch_size, before)[rows]
    first = step * batch_size
    mirrored = np.zeros(len(rows), bool)
    if flip:
        mirrored = flips(seed, first, batch_size)[rows]
    condition = None if part.labels is None else part.labels[chosen]
    texts = part.texts
    if texts is not None:
        counts = texts.first[chosen + 1] - texts.first[chosen]
        drawn = caption_choice(seed, step, batch_size, counts, rows)
        numbers = texts.numbers[texts.first[chosen] + drawn]
        left_out = drops(seed, first, batch_size, drop)[rows]
        condition = texts.of(np.where(left_out, 0, numbers))._replace(labels=condition)
    indices = rows.astype(np.int32)
    if part.moments is not None:
        mean, deviation = _latents(part, chosen, mirrored)
        return Batch(mean, condition, indices, deviation)
    images = part.images[chosen]
    images = np.where(mirrored[:, None, None, None], images[:, :, ::-1], images)
    return Batch(to_float(images), condition, indices)


def _latents(
    dataset: Dataset, chosen: np.ndarray, mirrored: np.ndarray
) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns mean and deviation of the chosen images, or of their mirror images."""
    assert dataset.moments is not None, "there are latents"
    channels, others = dataset.moments
    found = dataset.images[chosen]
    if mirrored.any():
        if others is None:
            raise InputError(
                "flip must be False for latents without those of mirrored images, got "
                "True. Encode the images with --flip."
            )
        found = np.array(found)
        found[mirrored] = others[chosen[mirrored]]
    found = np.asarray(found, np.float32)
    if found.shape[-1] == channels:
        return found, None
    return found[..., :channels], found[..., channels:]
