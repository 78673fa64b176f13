"""TFDS builder of an image folder; import it lazily, because it imports TFDS."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from jaxdiff.data.prefetch import read_ahead
from jaxdiff.errors import InputError, require

_BIG = 1000  # number of files from which the progress is shown
IMAGE, LABEL, CAPTIONS = "image", "label", "captions"


class Files(NamedTuple):
    """Files of one split to prepare, and their reader.

    Attributes:
        title: Title of the progress bar.
        split: Name of the split, "train" or "test".
        num: Number of files.
        class_names: Name of each class, or None.
        captioned: If True, images have captions.
        shape: Height, width and channels of every image; None where they vary.
        decode: Function of a file's index that returns its image, class and captions,
            by their features, or the reason why they cannot be read.
        momentary: Indices of the files that may be readable later; `decode` adds them.
    """

    title: str
    split: str
    num: int
    class_names: list[str] | None
    captioned: bool
    shape: tuple[int | None, ...]
    decode: Callable[[int], dict[str, Any] | str]
    momentary: list[int]


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
        if files.captioned:
            features[CAPTIONS] = tfds.features.Sequence(tfds.features.Text())
        return tfds.core.DatasetInfo(
            builder=self,
            description="The images of a folder.",
            features=tfds.features.FeaturesDict(features),
            metadata=tfds.core.MetadataDict(left_out=[], momentary=[]),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {self._files.split: self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        files = self._files
        progress = require("tqdm").tqdm(
            read_ahead(files.decode, 0, files.num),
            desc=files.title,
            total=files.num,
            unit="image",
            disable=None if files.num >= _BIG else True,  # None: in a terminal
        )
        reasons = []
        for i, result in enumerate(progress):
            if isinstance(result, str):
                reasons.append(result)
            else:
                yield i, result
        if len(reasons) == files.num:
            raise InputError(
                f"none of the {len(reasons)} images of the {files.split} split can be "
                f"read: {reasons[0]}. Check the files."
            )
        self.info.metadata["left_out"] = reasons
        self.info.metadata["momentary"] = sorted(set(files.momentary))
