"""Datasets, and the batches of each training step."""

from typing import TypeAlias

from jaxdiff.data.arrays import Arrays
from jaxdiff.data.buckets import Buckets, Images
from jaxdiff.data.dataset import Dataset, batch, from_arrays, to_float, to_uint8
from jaxdiff.data.digits import Digits
from jaxdiff.data.emoji import Emoji
from jaxdiff.data.fashion_mnist import FashionMNIST
from jaxdiff.data.image_folder import ImageFolder
from jaxdiff.data.latents import Latents
from jaxdiff.data.prefetch import read_ahead
from jaxdiff.data.sequence import examples, order
from jaxdiff.data.tfds import TFDS
from jaxdiff.names import lazy

Data: TypeAlias = Digits | FashionMNIST | ImageFolder | Emoji | TFDS | Latents | Arrays
"""Datasets of an experiment; all except `Arrays` can be loaded from their options."""

__all__ = [
    "TFDS",
    "Arrays",
    "Buckets",
    "Data",
    "Dataset",
    "Digits",
    "Emoji",
    "FashionMNIST",
    "ImageFolder",
    "Images",
    "Latents",
    "batch",
    "examples",
    "from_arrays",
    "order",
    "read_ahead",
    "to_float",
    "to_uint8",
]

__getattr__ = lazy(
    __name__,
    renamed={
        "FashionMnist": "jaxdiff.data.FashionMNIST",
        "Folder": "jaxdiff.data.ImageFolder",
        "Tfds": "jaxdiff.data.TFDS",
    },
)
