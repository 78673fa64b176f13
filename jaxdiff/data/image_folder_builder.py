"""TFDS builder of an image folder; import it lazily, because it imports TFDS."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from jaxdiff.data.prefetch import read_ahead
from jaxdiff.errors import InputError, require

_BIG = 1000  # number of files from which the progress is shown
IMAGE, LABEL = "image", "label"


class Files(NamedTuple):
    """Files of one split to prepare, and their reader.

    Attributes:
        title: Title of the progress bar.
        split: Name of the split, "train" or "test".
        names: Paths of the files, in order.
        labels: Class of each file, or None.
        class_names: Name of each class, or None.
        shape: Height, width and channels of every image.
        read: Function that returns a file's image, or the reason why it is unreadable.
    """

    title: str
    split: str
    names: list[Path]
    labels: list[int] | None
    class_names: list[str] | None
    shape: tuple[int, int, int]
    read: Callable[[Path], np.ndarray | str]


class JaxdiffFolder(tfds.core.GeneratorBasedBuilder):
    """Builder of one split of a folder: resized images, in the order of their names.

    Its metadata name the files that were left out, with the reasons.
    """

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, files: Files, **options: Any):
        self._files = files
        super().__init__(**options)

    def _info(self) -> Any:
        files = self._files
        features = {
            IMAGE: tfds.features.Tensor(
                shape=files.shape,
                dtype=np.uint8,
                encoding=tfds.features.Encoding.BYTES,
            )
        }
        if files.class_names is not None:
            features[LABEL] = tfds.features.ClassLabel(names=files.class_names)
        return tfds.core.DatasetInfo(
            builder=self,
            description="The images of a folder.",
            features=tfds.features.FeaturesDict(features),
            metadata=tfds.core.MetadataDict(left_out=[]),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {self._files.split: self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        files = self._files
        progress = require("tqdm").tqdm(
            read_ahead(lambda i: files.read(files.names[i]), 0, len(files.names)),
            desc=files.title,
            total=len(files.names),
            unit="image",
            disable=None if len(files.names) >= _BIG else True,  # None: in a terminal
        )
        reasons = []
        for i, result in enumerate(progress):
            if isinstance(result, str):
                reasons.append(result)
                continue
            example: dict[str, Any] = {IMAGE: result}
            if files.labels is not None:
                example[LABEL] = files.labels[i]
            yield i, example
        if len(reasons) == len(files.names):
            raise InputError(
                f"none of the {len(reasons)} images of the {files.split} split can be "
                f"read: {reasons[0]}. Check the files."
            )
        self.info.metadata["left_out"] = reasons
