"""Handwritten digits of 8x8 pixels, for experiments that take seconds."""

from dataclasses import dataclass
from typing import Any

from jaxdiff.data.cached import check_complete, load_cached
from jaxdiff.data.dataset import Dataset, check_split
from jaxdiff.data.tfds_reader import read
from jaxdiff.errors import require
from jaxdiff.storage.cache import cache_folder

_NUM = {"train": 1500, "test": 297}


@dataclass(frozen=True, kw_only=True)
class Digits:
    """Scikit-learn's 1,797 grey digits of 8x8 pixels in 10 classes; no download.

    The first use prepares the images in $JAXDIFF_CACHE, by default
    $XDG_CACHE_HOME/jaxdiff or ~/.cache/jaxdiff.
    """

    flip: bool = False
    """If True, mirror training images left to right at random. A mirrored digit is
    not a digit."""

    def load(self, split: str = "train") -> Dataset:
        """Returns the "train" split (1,500 examples) or the "test" split (297)."""
        check_split(split)
        require("tensorflow_datasets")
        from jaxdiff.data.digits_builder import JaxdiffDigits

        folder = cache_folder()

        def read_split(builder: Any) -> Dataset:
            check_complete(builder, split, _NUM[split])
            return read(builder, split, image_key="image", label_key="label")

        return load_cached(
            folder / "jaxdiff_digits",
            lambda: JaxdiffDigits(data_dir=folder),
            read_split,
        )
