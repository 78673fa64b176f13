"""Handwritten digits of 8x8 pixels, for trying things out in seconds."""

from dataclasses import dataclass
from typing import Any

from jaxdiff.data.dataset import Dataset, check_split
from jaxdiff.data.tfds_prepare import prepared, quiet
from jaxdiff.data.tfds_reader import read
from jaxdiff.errors import InputError, first_line, require
from jaxdiff.storage.cache import cache_folder


@dataclass(frozen=True, kw_only=True)
class Digits:
    """Scikit-learn's 1,797 grey digits of 8x8 pixels in 10 classes; no download.

    The first use prepares them in $JAXDIFF_CACHE, else $XDG_CACHE_HOME/jaxdiff, else
    ~/.cache/jaxdiff.
    """

    flip: bool = False
    """Mirror training images left to right at random; a mirrored digit is no digit."""

    def load(self, split: str = "train") -> Dataset:
        """The "train" split (1,500 examples) or the "test" split (297)."""
        check_split(split)
        require("tensorflow_datasets")
        from jaxdiff.data.digits_builder import JaxdiffDigits

        folder = cache_folder()

        def make_builder() -> Any:
            return JaxdiffDigits(data_dir=folder)

        try:
            with quiet():
                builder = prepared(make_builder, tell=False)
        except OSError as error:
            raise InputError(
                f"cannot use the cache folder {folder}: {first_line(error)}; "
                "set JAXDIFF_CACHE to a folder you can write"
            ) from error
        return read(builder, split, image_key="image", label_key="label")
