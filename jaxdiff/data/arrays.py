"""Data of a run on arrays, as its configuration records them."""

from dataclasses import dataclass

from jaxdiff.data.dataset import Dataset
from jaxdiff.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Arrays:
    """Images that a Python program passed to `jaxdiff.train(..., dataset=...)`.

    The configuration of such a run has this entry, because it cannot hold the images.
    It holds their fingerprint.
    """

    flip: bool = False
    """If True, mirror training images left to right at random."""

    def load(self, split: str = "train") -> Dataset:
        """Raises an error, because only the program has the images.

        Raises:
            InputError: always.
        """
        raise InputError(
            "data must name images on disk, got arrays, which a Python program passed "
            "to jaxdiff.train. Pass them again (dataset=...), or name the same images "
            "on disk with --data."
        )
