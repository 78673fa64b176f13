"""Any image data set of TensorFlow Datasets, without TensorFlow.

A name in a configuration, or in the files of prepared data, is data and never code. To
TFDS, "namespace:name" is code to download and run, and a feature's class is a module to
import: both are refused before it is asked.
"""

import contextlib
import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxdiff.data.dataset import Dataset, check_split
from jaxdiff.data.tfds_prepare import prepared, quiet
from jaxdiff.data.tfds_reader import read
from jaxdiff.errors import InputError, first_line, require

_NAME = re.compile(
    r"[a-zA-Z]\w*"  # the data set
    r"(/\w[\w+.-]*)?"  # its config
    r"(:(\d+|\*)(\.(\d+|\*)){2})?",  # its version, "*" for any
    re.ASCII,
)


@dataclass(frozen=True, kw_only=True)
class TFDS:
    """A data set by its name in TensorFlow Datasets.

    Data that lies prepared in the data folder is read as it is, also if a builder of
    your own made it. Other data is downloaded and prepared on first use.
    """

    name: str = "cifar10"
    """Its name, and if wanted a config or a version: "name/config:1.0.0"."""

    train_split: str = "train"
    """The split to train on, as TFDS spells it: also "train[:90%]"."""

    test_split: str = "test"
    """The split to compare samples with."""

    image_key: str = "image"
    """The feature with the image."""

    label_key: str | None = "label"
    """The feature with the class, or None to train without classes."""

    data_dir: str | None = None
    """Where data is prepared: $TFDS_DATA_DIR or ~/tensorflow_datasets if None."""

    flip: bool = True
    """Mirror training images left to right at random."""

    stream: bool = False
    """Leave the prepared images on disk, and read them as training needs them; those
    that would fill more than half of the memory always stay there."""

    def load(self, split: str = "train") -> Dataset:
        """What `train_split` ("train") or `test_split` ("test") names."""
        splits = {"train": self.train_split, "test": self.test_split}
        check_split(split)
        if not _NAME.fullmatch(self.name):
            raise InputError(
                f"TensorFlow Datasets has no name {self.name!r}; give a name, "
                "name/config, name:1.2.3 or name/config:1.2.3, without a namespace"
            )
        tfds = require("tensorflow_datasets")
        folder = Path(self.data_dir or tfds.core.constants.DATA_DIR).expanduser()
        if folder.is_file():
            raise InputError(
                f"cannot prepare data set {self.name!r} in {folder}: it is a file; "
                "name a folder with data_dir"
            )

        def make_builder() -> Any:
            return _builder(tfds, self.name, folder)

        with quiet():
            try:
                builder = prepared(make_builder)
            except InputError:
                raise
            except Exception as error:  # whatever the network or the builder raises
                raise InputError(
                    f"cannot prepare data set {self.name!r} in {folder}: "
                    f"{first_line(error)}; check the network and the folder, or "
                    f"prepare it elsewhere (tfds build {self.name} "
                    "--file_format=array_record) and copy it to data_dir"
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
            f"TensorFlow Datasets cannot make {name!r}: {first_line(error)}; "
            "give a name, name/config or name:version"
        ) from error


@contextlib.contextmanager
def _known_features_only(tfds: Any) -> Iterator[None]:
    """Refuses features whose module TFDS would import to read prepared data.

    Features of its own are all right, and so are those of a builder that was imported.
    """
    connector = tfds.features.FeatureConnector
    given = vars(connector)["cls_from_name"]

    def checked(cls: Any, name: str) -> Any:
        ours = name.startswith("tensorflow_datasets.core.features.")
        if not ours and name not in cls._registered_features:
            raise InputError(
                f"the prepared data has a feature of the class {name!r}, which would "
                "be imported: import it yourself if you trust it"
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
        f"TensorFlow Datasets knows no data set {name!r}; "
        f"close to it: {', '.join(close) or 'none'}; "
        f"prepared in {folder}: {', '.join(sorted(here)) or 'none'}"
    )
