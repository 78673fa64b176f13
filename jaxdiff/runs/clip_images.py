"""Preparation of pictures for CLIP's image encoder."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.errors import InputError, shown
from jaxdiff.typing import Array, ArrayLike

MEAN = (0.48145466, 0.4578275, 0.40821073)
DEVIATION = (0.26862954, 0.26130258, 0.27577711)
"""Mean and deviation of the colours in CLIP's training (Radford et al. 2021)."""
_ON = ("do_resize", "do_center_crop", "do_rescale", "do_normalize")


@dataclass(frozen=True)
class ImageProcessor:
    """Resizes the shorter side, crops the centre, and scales the colours.

    Attributes:
        size: side of the result, in pixels.
        mean: mean of each colour, in [0, 1].
        deviation: deviation of each colour, in [0, 1].
    """

    size: int
    mean: tuple[float, ...] = MEAN
    deviation: tuple[float, ...] = DEVIATION

    @classmethod
    def of(cls, record: Mapping[str, Any], size: int, where: str) -> Self:
        """Returns the preparation of a preprocessor_config.json.

        Args:
            record: contents of the file.
            size: side of the encoder's images, in pixels.
            where: name of the file, for messages.

        Raises:
            InputError: an entry is not supported.
        """
        known: dict[str, Any] = {
            "size": (size, {"shortest_edge": size}, {"height": size, "width": size}),
            "crop_size": (size, {"height": size, "width": size}),
            "resample": (3,), "rescale_factor": (1 / 255,),
            **dict.fromkeys(_ON, (True,)),
        }  # fmt: skip
        for name, values in known.items():
            value = record.get(name, values[0])
            if value not in values:
                raise InputError(
                    f"'{where}': {name} must be {shown(values[0])} for this image "
                    f"encoder, got {shown(value)}"
                )
        colours = {}
        for name, usual in (("image_mean", MEAN), ("image_std", DEVIATION)):
            value = record.get(name, usual)
            if not isinstance(value, list | tuple) or len(value) != 3:
                raise InputError(f"'{where}': {name} must be 3 numbers, got {value}")
            colours[name] = tuple(map(float, value))
        return cls(size, colours["image_mean"], colours["image_std"])

    def __call__(self, image: ArrayLike) -> Array:
        """Returns a prepared picture [size, size, 3].

        Args:
            image: picture [height, width, 3] in [-1, 1].

        Raises:
            InputError: the picture has another shape.
        """
        if np.ndim(image) != 3 or np.shape(image)[-1] != 3:
            raise InputError(
                f"a picture must be [height, width, 3], got shape {np.shape(image)}"
            )
        height, width, _ = np.shape(image)
        short = min(height, width)
        sides = tuple(
            self.size if side == short else int(self.size * side / short)
            for side in (height, width)
        )
        pixels = _levels(jnp.asarray(image, jnp.float32) * 127.5 + 127.5)
        if sides != (height, width):
            pixels = _levels(jax.image.resize(pixels, (*sides, 3), "cubic"))
        top, left = ((side - self.size) // 2 for side in sides)
        pixels = pixels[top : top + self.size, left : left + self.size] / 255
        mean, deviation = (
            jnp.array(colours)[None, None] for colours in (self.mean, self.deviation)
        )
        return (pixels - mean) / deviation


def _levels(pixels: Array) -> Array:
    """Returns whole numbers in 0..255, as an image file has them."""
    return jnp.clip(jnp.round(pixels), 0, 255)
