"""Read data that TFDS has prepared into memory, without TensorFlow."""

import os
import struct
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from jaxdiff.data.dataset import Dataset, from_arrays
from jaxdiff.errors import InputError, require

_BIG = 5000  # a split of so many examples shows its progress


def read(builder: Any, split: str, *, image_key: str, label_key: str | None) -> Dataset:
    """One split of a prepared TFDS builder.

    Args:
        builder: a TFDS builder with its data on disk.
        split: a split as TFDS spells it, such as "train" or "train[:90%]".
        image_key: the feature with the uint8 image.
        label_key: the feature with the integer class, or None to leave it out.
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
    records = require("tqdm").tqdm(
        _records(builder, split),
        desc=f"{name} {split}",
        total=size,
        disable=None if size >= _BIG else True,  # None: only on a terminal
    )
    images = np.empty(0, np.uint8)
    labels = np.zeros(size, np.int64)
    for i, record in enumerate(records):
        example = features.deserialize_example_np(record)
        image = example[image_key]
        if i == 0:
            images = np.empty((size, *image.shape), np.uint8)
        if image.shape != images.shape[1:]:
            raise InputError(
                f"{name} has images of several sizes, {images.shape[1:]} and "
                f"{image.shape}; prepare a data set whose images are resized to one"
            )
        images[i] = image
        if label_key is not None:
            labels[i] = example[label_key]
    if label_key is None:
        return from_arrays(images)
    names = getattr(features[label_key], "names", None)
    return from_arrays(images, labels, names)


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


def _records(builder: Any, split: str) -> Iterator[bytes]:
    """The serialized examples of a split."""
    form = builder.info.file_format.value
    if form == "tfrecord":
        for part in builder.info.splits[split].file_instructions:
            yield from _tfrecords(part.filename, part.skip, part.take)
    elif form == "array_record":
        require("array_record")
        source: Sequence[bytes] = builder.as_data_source(split).data_source
        for i in range(len(source)):
            yield source[i]
    else:
        raise InputError(
            f"{builder.info.name} is prepared as {form}; prepare it as array_record"
        )


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
