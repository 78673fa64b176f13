"""Stand-in for the TensorFlow functions that TFDS calls to prepare image data.

Reading prepared data needs no TensorFlow. Unpacking a download and encoding an image
call a few TensorFlow functions through one lazily imported module. If TensorFlow is not
installed, plain files and Pillow replace these functions.
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
    """Makes TFDS use the stand-in, unless TensorFlow is installed.

    Only one thread at a time may use it.
    """
    if find_spec("tensorflow") is not None:
        yield
        return
    utils = require("tensorflow_datasets.core.utils.lazy_imports_utils")
    # The lazy module stores its import in this attribute.
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
    picture.save(buffer, encoding, quality=95)  # PNG ignores the quality
    return SimpleNamespace(numpy=buffer.getvalue)  # like an eager tensor
