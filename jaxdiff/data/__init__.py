"""Data sets and the batches of each training step."""

from typing import TypeAlias

from jaxdiff.data.dataset import (
    Dataset,
    batch,
    examples,
    from_arrays,
    order,
    to_float,
    to_uint8,
)
from jaxdiff.data.digits import Digits
from jaxdiff.data.fashion_mnist import FashionMnist
from jaxdiff.data.image_folder import Folder
from jaxdiff.data.prefetch import read_ahead
from jaxdiff.data.streaming import Images
from jaxdiff.data.tfds import Tfds

Data: TypeAlias = Digits | FashionMnist | Folder | Tfds
"""The data sets that the command line offers."""

__all__ = [
    "Data",
    "Dataset",
    "Digits",
    "FashionMnist",
    "Folder",
    "Images",
    "Tfds",
    "batch",
    "examples",
    "from_arrays",
    "order",
    "read_ahead",
    "to_float",
    "to_uint8",
]
