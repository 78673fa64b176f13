"""Uploaded pictures and painted masks as arrays, and sheets of results."""

from typing import Any

import jax
import numpy as np

from jaxdiff.data.image_files import read_image
from jaxdiff.errors import InputError
from jaxdiff.runs.run import Run

SIDE = 256
"""Smallest height of a picture on the page, in pixels; smaller ones are enlarged."""
GAP = 2
"""Space between two pictures of a sheet, in pixels of the model."""
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""Shares of red, green and blue in grey (ITU-R 601)."""


def image_of(run: Run, path: str | None) -> np.ndarray:
    """Returns an uploaded picture at the size of the model's.

    Its largest central part with the model's proportions is kept.

    Args:
        run: trained model.
        path: path of the uploaded file; None if there is none.

    Returns:
        Float32 [height, width, channels] in [-1, 1].

    Raises:
        InputError: there is no file, or it is no picture.
    """
    if path is None:
        raise InputError("the picture must be given, got none. Upload one.")
    pixels = read_image(path, run.image_size, _channels(run))
    return _centred(pixels)


def mask_of(run: Run, value: Any) -> tuple[np.ndarray, np.ndarray]:
    """Returns a picture and the painted part of it.

    Args:
        run: trained model.
        value: what `gradio.ImageEditor` gives: background and layers, uint8 [h, w, 4].

    Returns:
        The picture, float32 [height, width, channels] in [-1, 1], and the mask, bool
        [height, width], True where it is painted.

    Raises:
        InputError: there is no picture, or nothing is painted.
    """
    background = (value or {}).get("background")
    if background is None:
        raise InputError("the picture must be given, got none. Upload one.")
    layers = [layer[..., 3] > 0 for layer in value["layers"] if layer is not None]
    painted = np.any(layers, axis=0) if layers else np.zeros(background.shape[:2], bool)
    if not painted.any():
        raise InputError("the picture must be painted over, got no stroke. Paint.")
    alpha = background[..., 3:].astype(np.float32) / 255
    colours = background[..., :3] * alpha + 255 * (1 - alpha)  # on white
    if _channels(run) == 1:
        colours = (colours @ LUMA)[..., None]
    pixels = np.clip(np.rint(_fitted(colours, run.image_size)), 0, 255)
    mask = _fitted(painted[..., None].astype(np.float32), run.image_size)[..., 0]
    return _centred(pixels), mask > 0.05


def sheet(images: np.ndarray, columns: int | None = None) -> np.ndarray:
    """Returns pictures in rows, enlarged without smoothing.

    Args:
        images: uint8 [num, height, width, channels].
        columns: number of pictures per row; None makes a square.

    Returns:
        Uint8 [height, width, 3].
    """
    num, *_, channels = images.shape
    columns = columns or int(np.ceil(np.sqrt(num)))
    rows = -(-num // columns)
    pad = ((0, rows * columns - num), (GAP, GAP), (GAP, GAP), (0, 0))
    if num == 1:
        pad = ((0, 0),) * 4
    tiles = np.pad(images, pad, constant_values=255)
    tiles = tiles.reshape(rows, columns, *tiles.shape[1:]).swapaxes(1, 2)
    whole = tiles.reshape(rows * tiles.shape[1], -1, channels)
    scale = max(1, -(-SIDE // whole.shape[0]))
    whole = whole.repeat(scale, 0).repeat(scale, 1)
    return np.repeat(whole, 3, 2) if channels == 1 else whole


def _channels(run: Run) -> int:
    """Returns the number of channels of the model's pictures."""
    return 3 if run.parts is not None else run.model.image_shape[-1]


def _centred(pixels: np.ndarray) -> np.ndarray:
    """Returns pixels 0..255 as numbers in [-1, 1]."""
    return pixels.astype(np.float32) / np.float32(127.5) - 1


def _fitted(array: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Returns the largest central part with the proportions of `size`, resized."""
    height, width = array.shape[:2]
    share = min(height / size[0], width / size[1])
    tall, wide = (max(1, round(share * side)) for side in size)
    top, left = (height - tall) // 2, (width - wide) // 2
    part = array[top : top + tall, left : left + wide]
    shape = (*size, array.shape[-1])
    return np.asarray(jax.image.resize(part, shape, "linear", antialias=True))
