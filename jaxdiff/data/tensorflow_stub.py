"""A stand-in for what TFDS asks of TensorFlow while it prepares image data.

Reading prepared data needs no TensorFlow, but unpacking a download and encoding an
image call a few of its functions, through one lazily imported module. Without
TensorFlow installed, these few take its place: plain files and Pillow.
"""

import glob
import io
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from types import SimpleNamespace
from typing import IO, Any

import numpy as np

from jaxdiff.errors import require


@contextmanager
def without_tensorflow() -> Iterator[None]:
    """Let TFDS work with the stand-in, unless TensorFlow is installed."""
    if find_spec("tensorflow") is not None:
        yield
        return
    utils = require("tensorflow_datasets.core.utils.lazy_imports_utils")
    # The lazy module keeps what it imported under this name of its own instance.
    lazy = vars(utils.tensorflow)
    lazy["_module"] = _stand_in()
    try:
        yield
    finally:
        del lazy["_module"]


def _stand_in() -> SimpleNamespace:
    gfile = SimpleNamespace(
        GFile=_open,
        copy=shutil.copyfile,
        exists=os.path.exists,
        glob=glob.glob,
        isdir=os.path.isdir,
        listdir=os.listdir,
        makedirs=lambda path: os.makedirs(path, exist_ok=True),
        remove=os.remove,
        walk=os.walk,
    )
    return SimpleNamespace(
        compat=SimpleNamespace(as_text=str),
        errors=SimpleNamespace(UnimplementedError=NotImplementedError),
        executing_eagerly=lambda: True,
        image=SimpleNamespace(
            encode_png=lambda pixels: _encode(pixels, "PNG"),
            encode_jpeg=lambda pixels: _encode(pixels, "JPEG"),
        ),
        io=SimpleNamespace(gfile=gfile),
    )


def _open(path: str | os.PathLike[str], mode: str = "r") -> IO[Any]:
    return open(path, mode)


def _encode(pixels: np.ndarray, encoding: str) -> SimpleNamespace:
    if pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    buffer = io.BytesIO()
    picture = require("PIL.Image").fromarray(pixels)
    picture.save(buffer, encoding, quality=95)  # PNG has no quality
    return SimpleNamespace(numpy=buffer.getvalue)  # as an eager tensor would give it
