"""Reader of data that TFDS has prepared, without TensorFlow."""

import hashlib
import os
import struct
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np

from jaxdiff.data.buckets import Buckets, Images
from jaxdiff.data.captions import as_bytes, from_bytes
from jaxdiff.data.dataset import (
    Dataset,
    checked_labels,
    fingerprint_of,
    from_arrays,
)
from jaxdiff.data.streaming import Records, Source, checked, examples_at, too_large
from jaxdiff.errors import InputError, require
from jaxdiff.storage.cache import load_arrays, save_arrays

_BIG = 5000  # number of examples from which the progress is shown
_MOST = 16
_SMALL: dict[str, Dataset] = {}
"""At most `_MOST` splits of fewer than `_BIG` examples that this process has read, by
the key of their files and features: TFDS takes 0.1 ms per example."""


def read(
    builder: Any,
    split: str,
    *,
    image_key: str,
    label_key: str | None,
    caption_key: str | None = None,
    stream: bool = False,
    in_buckets: bool = False,
) -> Dataset:
    """Reads one split of a prepared TFDS builder.

    Args:
        builder: TFDS builder with its data on disk.
        split: Split in the syntax of TFDS, such as "train" or "train[:90%]".
        image_key: Name of the uint8 image feature.
        label_key: Name of the integer class feature, or None to leave it out.
        caption_key: Name of the feature of an image's text, or of a sequence of texts,
            or None to leave it out.
        stream: If True, the images stay on disk and are read on demand. Images larger
            than half of the memory always stay on disk.
        in_buckets: If True, images of several sizes are `Buckets`.

    Raises:
        InputError: If the split or a feature does not exist, the images have several
            sizes although `in_buckets` is False, or they cannot be read.
    """
    tfds = require("tensorflow_datasets")
    require("tqdm")  # for a first read
    name = builder.info.name
    _check_split(builder, split)
    keys = [key for key in (image_key, label_key, caption_key) if key is not None]
    for key in keys:
        if key not in builder.info.features:
            raise InputError(
                f"{name} has no feature {key!r}. "
                f"Choose from {', '.join(builder.info.features)}."
            )
    features = tfds.features.FeaturesDict({k: builder.info.features[k] for k in keys})
    _check_image(name, image_key, features[image_key])
    if label_key is not None:
        _check_label(name, label_key, features[label_key])
    if caption_key is not None:
        _check_caption(name, caption_key, features[caption_key])

    size = builder.info.splits[split].num_examples
    if size == 0:
        raise InputError(
            f"{name} has no examples in split {split!r}. Choose another split."
        )
    shape = next(_examples(builder, split, features))[image_key].shape
    if stream or too_large(size, shape):
        keys_of = (image_key, label_key, caption_key)
        return _on_disk(
            builder, split, features, keys_of, None if in_buckets else shape
        )
    place = f"{_key_of(builder, split, keys)} {features}"
    if place in _SMALL:
        return _copied(_SMALL[place])
    try:
        rows: Any = [None] * size if in_buckets else np.empty((size, *shape), np.uint8)
    except (MemoryError, ValueError) as error:
        raise InputError(
            f"{size} images of shape {shape} do not fit into memory. Leave them on "
            "disk (stream), or choose a smaller size or fewer images."
        ) from error
    labels = None if label_key is None else np.zeros(size, np.int64)
    texts: list[tuple[str, ...]] | None = None if caption_key is None else []
    for i, example in enumerate(_shown(builder, split, features)):
        image = example[image_key]
        rows[i] = image if in_buckets else checked(image, shape, i)
        if labels is not None and label_key is not None:
            labels[i] = example[label_key]
        if texts is not None and caption_key is not None:
            texts.append(_texts(example[caption_key]))
    images: np.ndarray | Buckets = rows
    if in_buckets:
        groups = _by_size(np.array([row.shape[:2] for row in rows]))
        images = Buckets([np.stack([rows[i] for i in part]) for _, part in groups])
        order = np.concatenate([part for _, part in groups])
        labels = None if labels is None else labels[order]
        texts = None if texts is None else [texts[i] for i in order]
    found = from_arrays(images, labels, _class_names(features, label_key), texts)
    if size < _BIG:
        if len(_SMALL) >= _MOST:
            _SMALL.clear()
        _SMALL[place] = _copied(found)
    return found


def read_texts(builder: Any, split: str, keys: Sequence[str]) -> list[tuple[str, ...]]:
    """Returns the text features of each example of a prepared split.

    Args:
        builder: TFDS builder with its data on disk.
        split: Split in the syntax of TFDS.
        keys: Names of the features, each of one text.
    """
    tfds = require("tensorflow_datasets")
    features = tfds.features.FeaturesDict({k: builder.info.features[k] for k in keys})
    rows = _examples(builder, split, features)
    return [tuple(row[key].decode() for key in keys) for row in rows]


def _copied(dataset: Dataset) -> Dataset:
    """Returns a dataset with arrays of its own."""
    images, labels = dataset.images, dataset.labels
    if isinstance(images, Buckets):
        images = Buckets([np.array(part) for part in images.parts])
    else:
        images = np.array(images)
    return replace(
        dataset, images=images, labels=None if labels is None else labels.copy()
    )


def _by_size(sides: np.ndarray) -> list[tuple[tuple[int, int], np.ndarray]]:
    """Returns each height and width that occurs, with the places of its images.

    Args:
        sides: Height and width of each image (integers [size, 2]).
    """
    sizes, numbers = np.unique(sides, axis=0, return_inverse=True)
    numbers = numbers.reshape(-1)
    return [
        ((height, width), np.flatnonzero(numbers == i))
        for i, (height, width) in enumerate(sizes.tolist())
    ]


def _on_disk(
    builder: Any,
    split: str,
    features: Any,
    keys: tuple[str, str | None, str | None],
    shape: tuple[int, int, int] | None,
) -> Dataset:
    """Returns a split whose images stay on disk.

    One pass over the split computes its labels, captions and fingerprint, which are
    then cached. Images of several sizes, without a shape, take two passes: the
    fingerprint is that of the images bucket after bucket.
    """
    image_key, label_key, caption_key = keys
    names = _class_names(features, label_key)
    source = _source(builder, split)
    only_image = features.__class__({image_key: features[image_key]})

    def decode(example: bytes) -> np.ndarray:
        image: np.ndarray = only_image.deserialize_example_np(example)[image_key]
        return image

    def images_of(sides: np.ndarray | None) -> Images:
        if shape is not None or sides is None:
            return Records(source, decode, shape or ())
        channels = features[image_key].shape[-1]
        return Buckets(
            [
                Records(source, decode, (*size, channels), places=places)
                for size, places in _by_size(sides)
            ]
        )

    # Names of cached arrays without captions are as in earlier versions.
    known = keys[:2] if caption_key is None else keys
    name = f"streams/{_key_of(builder, split, known)}"
    found = load_arrays(name)
    if found is None:
        size = len(source)
        labels, sides = np.zeros(size, np.int64), np.zeros((size, 2), np.int64)
        texts: list[tuple[str, ...]] = []

        def read_all() -> Iterator[np.ndarray]:
            for i, example in enumerate(_shown(builder, split, features)):
                image = example[image_key]
                labels[i] = 0 if label_key is None else example[label_key]
                sides[i] = image.shape[:2]
                if caption_key is not None:
                    texts.append(_texts(example[caption_key]))
                yield image if shape is None else checked(image, shape, i)

        def rest() -> Iterator[np.ndarray]:
            if label_key is not None:
                yield checked_labels(labels, size, names)
            if caption_key is not None:
                yield as_bytes(tuple(texts))

        shapes: Any = (size, *(shape or ()))
        pixels = read_all()
        if shape is None:
            deque(pixels, maxlen=0)
            order = np.concatenate([places for _, places in _by_size(sides)])
            labels, texts = labels[order], [texts[i] for i in order if texts]
            buckets = images_of(sides)
            assert isinstance(buckets, Buckets), "there is no shape"
            shapes = [part.shape for part in buckets.parts]
            pixels = examples_at(source, decode, order)
        fingerprint = fingerprint_of(shapes, names, chain(pixels, rest()))
        found = {"fingerprint": np.array(fingerprint)}
        if label_key is not None:
            found["labels"] = labels.astype(np.int32)
        if caption_key is not None:
            found["captions"] = as_bytes(tuple(texts))
        if shape is None:
            found["sides"] = sides
        save_arrays(name, found)
    return Dataset(
        images_of(found.get("sides")),
        found.get("labels"),
        names,
        str(found["fingerprint"]),
        None if caption_key is None else from_bytes(found["captions"]),
    )


def _key_of(builder: Any, split: str, keys: Sequence[str | None]) -> str:
    """Returns a hash of a split's current files and of the features to read."""
    parts = builder.info.splits[split].file_instructions
    files = [
        (part.filename, part.skip, part.take, os.stat(part.filename).st_size,
         os.stat(part.filename).st_mtime_ns)
        for part in parts
    ]  # fmt: skip
    return hashlib.sha256(repr((files, keys)).encode()).hexdigest()[:24]


def _class_names(features: Any, label_key: str | None) -> tuple[str, ...] | None:
    names = None if label_key is None else getattr(features[label_key], "names", None)
    return None if names is None else tuple(names)


def _shown(builder: Any, split: str, features: Any) -> Iterator[dict[str, Any]]:
    """Yields the examples of a split, with a progress bar if there are many."""
    size = builder.info.splits[split].num_examples
    return require("tqdm").tqdm(
        _examples(builder, split, features),
        desc=f"{builder.info.name} {split}",
        total=size,
        disable=None if size >= _BIG else True,  # None: only in a terminal
    )


def _check_split(builder: Any, split: str) -> None:
    try:
        builder.info.splits[split]
    except Exception as error:  # TFDS raises several types for a name or a slice
        raise InputError(
            f"{builder.info.name} has no split {split!r}. Choose from "
            f"{', '.join(sorted(builder.info.splits))}, or a slice of one of them."
        ) from error


def _check_image(name: str, key: str, feature: Any) -> None:
    shape = feature.shape  # a dict for nested features
    if not isinstance(shape, tuple) or len(shape) != 3 or feature.np_dtype != np.uint8:
        raise InputError(
            f"feature {key!r} of {name} must be a uint8 image [height, width, "
            f"channels], got {feature!r}. Choose another image_key."
        )


def _check_label(name: str, key: str, feature: Any) -> None:
    if feature.shape != () or not np.issubdtype(feature.np_dtype, np.integer):
        raise InputError(
            f"feature {key!r} of {name} must be an integer class, got {feature!r}. "
            "Choose another label_key, or None for no classes."
        )


def _check_caption(name: str, key: str, feature: Any) -> None:
    if feature.shape not in ((), (None,)) or feature.np_dtype != np.object_:
        raise InputError(
            f"feature {key!r} of {name} must be a text or a sequence of texts, got "
            f"{feature!r}. Choose another caption_key, or None for no captions."
        )


def _texts(value: bytes | Sequence[bytes]) -> tuple[str, ...]:
    """Returns an example's captions; an empty sequence is one empty caption."""
    texts = [value] if isinstance(value, bytes) else value
    return tuple(text.decode(errors="replace") for text in texts) or ("",)


def _examples(builder: Any, split: str, features: Any) -> Iterator[dict[str, Any]]:
    """Yields the examples of a split, in order."""
    if builder.info.file_format.value == "tfrecord":
        for part in builder.info.splits[split].file_instructions:
            for record in _tfrecords(part.filename, part.skip, part.take):
                yield features.deserialize_example_np(record)
    else:
        source = _source(builder, split)
        decode = features.deserialize_example_np
        yield from examples_at(source, decode, np.arange(len(source)))


def _source(builder: Any, split: str) -> Source:
    """Returns the serialized examples of a split, indexed by position."""
    form = builder.info.file_format.value
    if form != "array_record":
        raise InputError(
            f"{builder.info.name} must be prepared as array_record, got {form}. "
            "Prepare the dataset again."
        )
    require("array_record")
    source: Source = builder.as_data_source(split).data_source
    return source


def _tfrecords(path: str, skip: int, take: int) -> Iterator[bytes]:
    """Yields the data of a TFRecord file: length, its checksum, data, its checksum."""
    with open(os.fspath(path), "rb") as file:
        for i in range(skip + take):
            (length,) = struct.unpack("<Q", file.read(8))
            file.seek(4, os.SEEK_CUR)
            if i < skip:
                file.seek(length, os.SEEK_CUR)
            else:
                yield file.read(length)
            file.seek(4, os.SEEK_CUR)
