"""Any image dataset of TensorFlow Datasets, without TensorFlow.

A name in a configuration, or in the files of prepared data, is data and never code.
TFDS would download and run the code of "namespace:name", and import the module of a
feature's class. Both are rejected before TFDS is called.
"""

import contextlib
import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxdiff.checks import Checked, DiskPath
from jaxdiff.data.dataset import Dataset, check_split
from jaxdiff.data.tfds_prepare import prepared, quiet
from jaxdiff.data.tfds_reader import read
from jaxdiff.errors import InputError, first_line, require
from jaxdiff.storage.files import expanded

_NAME = re.compile(
    r"[a-zA-Z]\w*"  # the dataset
    r"(/\w[\w+.-]*)?"  # its config
    r"(:(\d+|\*)(\.(\d+|\*)){2})?",  # its version, "*" for any
    re.ASCII,
)


@dataclass(frozen=True, kw_only=True)
class TFDS(Checked):
    """Dataset of TensorFlow Datasets, by its name.

    Prepared data in the data folder is read as it is, even if your own builder made it.
    Other data is downloaded and prepared on first use.
    """

    name: str = "cifar10"
    """Name of the dataset, with a config or a version if needed:
    "name/config:1.0.0"."""

    train_split: str = "train"
    """Split to train on, in the syntax of TFDS, such as "train[:90%]"."""

    test_split: str = "test"
    """Split to compare samples with, in the syntax of TFDS."""

    image_key: str = "image"
    """Name of the image feature."""

    label_key: str | None = "label"
    """Name of the class feature; None trains without classes."""

    data_dir: DiskPath | None = None
    """Folder of prepared data; None means $TFDS_DATA_DIR or ~/tensorflow_datasets."""

    flip: bool = True
    """If True, mirror training images left to right at random."""

    stream: bool = False
    """If True, read prepared images from disk during training. Images larger than
    half of the memory always stay on disk."""

    def load(self, split: str = "train") -> Dataset:
        """Returns `train_split` (for "train") or `test_split` (for "test")."""
        splits = {"train": self.train_split, "test": self.test_split}
        check_split(split)
        if not _NAME.fullmatch(self.name):
            raise InputError(
                f"name must be a name of TensorFlow Datasets, got {self.name!r}. Give "
                "name, name/config, name:1.2.3 or name/config:1.2.3, no namespace."
            )
        tfds = require("tensorflow_datasets")
        folder = expanded(
            self.data_dir or tfds.core.constants.DATA_DIR, "set data_dir to a folder"
        )
        if folder.is_file():
            raise InputError(
                f"cannot prepare dataset {self.name!r} in {folder}, which is a file. "
                "Set data_dir to a folder."
            )

        def make_builder() -> Any:
            return _builder(tfds, self.name, folder)

        with quiet():
            try:
                builder = prepared(make_builder)
            except InputError:
                raise
            except Exception as error:  # the network and the builder may raise anything
                raise InputError(
                    f"cannot prepare dataset {self.name!r} in {folder}: "
                    f"{first_line(error)}. Check the network and the folder, or "
                    f"prepare the dataset elsewhere (tfds build {self.name} "
                    "--file_format=array_record) and copy it to data_dir."
                ) from error
            return read(
                builder,
                splits[split],
                image_key=self.image_key,
                label_key=self.label_key,
                stream=self.stream,
            )


def _builder(tfds: Any, name: str, folder: Path) -> Any:
    try:
        with _known_features_only(tfds):
            return tfds.builder(name, data_dir=folder)
    except InputError:
        raise
    except tfds.core.DatasetNotFoundError as error:
        raise InputError(_not_found(tfds, name, folder)) from error
    except Exception as error:  # a wrong config, version or spelling
        raise InputError(
            f"TensorFlow Datasets cannot build {name!r}: {first_line(error)}. "
            "Give name, name/config or name:version."
        ) from error


@contextlib.contextmanager
def _known_features_only(tfds: Any) -> Iterator[None]:
    """Rejects features whose module TFDS would import to read prepared data.

    Features of TFDS itself and of imported builders are accepted.
    """
    connector = tfds.features.FeatureConnector
    given = vars(connector)["cls_from_name"]

    def checked(cls: Any, name: str) -> Any:
        ours = name.startswith("tensorflow_datasets.core.features.")
        if not ours and name not in cls._registered_features:
            raise InputError(
                f"the prepared data has a feature of the class {name!r}, which TFDS "
                "would import. Import the class yourself if you trust it."
            )
        return given.__get__(None, cls)(name)

    connector.cls_from_name = classmethod(checked)
    try:
        yield
    finally:
        connector.cls_from_name = given


def _not_found(tfds: Any, name: str, folder: Path) -> str:
    patterns = ("*/*/features.json", "*/*/*/features.json")  # with or without a config
    here = {
        path.relative_to(folder).parts[0]
        for pattern in patterns
        for path in folder.glob(pattern)
    }
    known = here.union(tfds.list_builders(with_community_datasets=False))
    close = difflib.get_close_matches(name.split("/")[0].split(":")[0], sorted(known))
    return (
        f"TensorFlow Datasets has no dataset {name!r}. "
        f"Similar names: {', '.join(close) or 'none'}. "
        f"Prepared in {folder}: {', '.join(sorted(here)) or 'none'}."
    )
