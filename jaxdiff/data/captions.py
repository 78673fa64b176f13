"""Captions of images: their checks, and their form as bytes."""

import json
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from jaxdiff.errors import InputError, shown

Captions: TypeAlias = tuple[tuple[str, ...], ...]
"""Captions of each image, at least one; "" is no text."""


def checked_captions(captions: Sequence[str | Sequence[str]], size: int) -> Captions:
    """Returns the captions of `size` images; raises an `InputError` if they are wrong.

    A string in place of an image's captions is its only caption.
    """
    if isinstance(captions, str) or len(captions) != size:
        raise InputError(
            f"captions must have one entry per image, {size} in all, got "
            f"{'a text' if isinstance(captions, str) else len(captions)}. "
            "Give each image its caption, or a list of its captions."
        )
    return tuple(_checked(given, i) for i, given in enumerate(captions))


def numbered(captions: Captions) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Returns every caption once, and how the images' captions are numbered.

    Args:
        captions: captions of all images.

    Returns:
        The captions, of which the first is no caption; and `numbers` and `first` of
        `data.dataset.Texts`.
    """
    every = {"": 0} | {text: 0 for texts in captions for text in texts if text}
    number = {text: i for i, text in enumerate(every)}
    numbers = np.array([number[text] for texts in captions for text in texts])
    return list(every), numbers, np.cumsum([0, *map(len, captions)])


def _checked(given: str | Sequence[str], i: int) -> tuple[str, ...]:
    try:
        found = (given,) if isinstance(given, str) else tuple(given)
    except TypeError:
        found = ()
    if not found or not all(isinstance(text, str) for text in found):
        raise InputError(
            f"captions must be texts, at least one per image, got {shown(given)} for "
            f"image {i}. Give '' to an image without a text."
        )
    for text in found:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InputError(
                f"captions must be Unicode text, got {shown(text)} for image {i}. "
                "Decode its bytes with the encoding that they have."
            ) from error
    return found


def as_bytes(captions: Captions) -> np.ndarray:
    """Returns captions as bytes, for a file or a hash (uint8 [n])."""
    return np.frombuffer(json.dumps(captions).encode(), np.uint8)


def from_bytes(data: np.ndarray) -> Captions:
    """Returns the captions that `as_bytes` wrote."""
    return tuple(map(tuple, json.loads(data.tobytes())))
