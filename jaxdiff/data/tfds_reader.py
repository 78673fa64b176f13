"""Read data that TFDS has prepared, without TensorFlow."""

import hashlib
import os
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxdiff.data.dataset import (
    Dataset,
    checked_labels,
    fingerprint_of,
    from_arrays,
)
from jaxdiff.data.streaming import Records, Source, checked, examples_at, too_large
from jaxdiff.errors import InputError, require
from jaxdiff.storage.cache import load_arrays, save_arrays

_BIG = 5000  # a split of so many examples shows its progress


def read(
    builder: Any,
    split: str,
    *,
    image_key: str,
    label_key: str | None,
    stream: bool = False,
) -> Dataset:
    """One split of a prepared TFDS builder.

    Args:
        builder: a TFDS builder with its data on disk.
        split: a split as TFDS spells it, such as "train" or "train[:90%]".
        image_key: the feature with the uint8 image.
        label_key: the feature with the integer class, or None to leave it out.
        stream: leave the images on disk and read them as they are needed; those that
            would fill more than half of the memory always stay there.

    Raises:
        InputError: there are no such split and features, the images are of several
            sizes, or they cannot be read.
    """
    tfds = require("tensorflow_datasets")
    name = builder.info.name
    _check_split(builder, split)
    keys = [image_key] if label_key is None else [image_key, label_key]
    for key in keys:
        if key not in builder.info.features:
            raise InputError(
                f"{name} has no feature {key!r}; "
                f"choose from {', '.join(builder.info.features)}"
            )
    features = tfds.features.FeaturesDict({k: builder.info.features[k] for k in keys})
    _check_image(name, image_key, features[image_key])
    if label_key is not None:
        _check_label(name, label_key, features[label_key])

    size = builder.info.splits[split].num_examples
    if size == 0:
        raise InputError(f"{name} has no examples in split {split!r}; choose another")
    shape = next(_examples(builder, split, features))[image_key].shape
    if stream or too_large(size, shape):
        return _on_disk(builder, split, features, (image_key, label_key), shape)
    try:
        images = np.empty((size, *shape), np.uint8)
    except (MemoryError, ValueError) as error:
        raise InputError(
            f"{size} images of shape {shape} do not fit into memory: leave them on "
            "disk (stream), or take a smaller size or fewer images"
        ) from error
    labels = None if label_key is None else np.zeros(size, np.int64)
    for i, example in enumerate(_shown(builder, split, features)):
        images[i] = checked(example[image_key], shape, i)
        if labels is not None and label_key is not None:
            labels[i] = example[label_key]
    return from_arrays(images, labels, _class_names(features, label_key))


def _on_disk(
    builder: Any,
    split: str,
    features: Any,
    keys: tuple[str, str | None],
    shape: tuple[int, int, int],
) -> Dataset:
    """A split whose images stay where they are.

    Its labels and its fingerprint are found by reading it once, and kept.
    """
    image_key, label_key = keys
    names = _class_names(features, label_key)
    source = _source(builder, split)
    name = f"streams/{_key_of(builder, split, keys)}"
    found = load_arrays(name)
    if found is None:
        size = len(source)
        labels = np.zeros(size, np.int64)

        def parts() -> Iterator[np.ndarray]:
            for i, example in enumerate(_shown(builder, split, features)):
                labels[i] = 0 if label_key is None else example[label_key]
                yield checked(example[image_key], shape, i)
            if label_key is not None:
                yield checked_labels(labels, size, names)

        fingerprint = fingerprint_of((size, *shape), names, parts())
        found = {"fingerprint": np.array(fingerprint)}
        if label_key is not None:
            found["labels"] = labels.astype(np.int32)
        save_arrays(name, found)
    only_image = features.__class__({image_key: features[image_key]})
    return Dataset(
        Records(source, only_image, image_key, shape),
        found.get("labels"),
        names,
        str(found["fingerprint"]),
    )


def _key_of(builder: Any, split: str, keys: tuple[str, str | None]) -> str:
    """Of a split's files as they are now, and what is read of them."""
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
    """The examples of a split, with a progress bar where they are many."""
    size = builder.info.splits[split].num_examples
    return require("tqdm").tqdm(
        _examples(builder, split, features),
        desc=f"{builder.info.name} {split}",
        total=size,
        disable=None if size >= _BIG else True,  # None: only on a terminal
    )


def _check_split(builder: Any, split: str) -> None:
    try:
        builder.info.splits[split]
    except Exception as error:  # TFDS raises several kinds for a name or a slice
        raise InputError(
            f"{builder.info.name} has no split {split!r}; "
            f"choose from {', '.join(sorted(builder.info.splits))}, or a slice of one"
        ) from error


def _check_image(name: str, key: str, feature: Any) -> None:
    shape = feature.shape  # a dict for nested features
    if not isinstance(shape, tuple) or len(shape) != 3 or feature.np_dtype != np.uint8:
        raise InputError(
            f"feature {key!r} of {name} is {feature!r}; "
            "give the key of a uint8 image [height, width, channels]"
        )


def _check_label(name: str, key: str, feature: Any) -> None:
    if feature.shape != () or not np.issubdtype(feature.np_dtype, np.integer):
        raise InputError(
            f"feature {key!r} of {name} is {feature!r}; "
            "give the key of an integer class, or None for no classes"
        )


def _examples(builder: Any, split: str, features: Any) -> Iterator[dict[str, Any]]:
    """The examples of a split, in order."""
    if builder.info.file_format.value == "tfrecord":
        for part in builder.info.splits[split].file_instructions:
            for record in _tfrecords(part.filename, part.skip, part.take):
                yield features.deserialize_example_np(record)
    else:
        source = _source(builder, split)
        yield from examples_at(source, features, np.arange(len(source)))


def _source(builder: Any, split: str) -> Source:
    """The serialized examples of a split, by their place."""
    form = builder.info.file_format.value
    if form != "array_record":
        raise InputError(
            f"{builder.info.name} is prepared as {form}; prepare it as array_record"
        )
    require("array_record")
    source: Source = builder.as_data_source(split).data_source
    return source


def _tfrecords(path: str, skip: int, take: int) -> Iterator[bytes]:
    """Records of one TFRecord file: length, its checksum, data, its checksum."""
    with open(os.fspath(path), "rb") as file:
        for i in range(skip + take):
            (length,) = struct.unpack("<Q", file.read(8))
            file.seek(4, os.SEEK_CUR)
            if i < skip:
                file.seek(length, os.SEEK_CUR)
            else:
                yield file.read(length)
            file.seek(4, os.SEEK_CUR)
