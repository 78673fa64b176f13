"""Condition that training makes of each image: none, a small image, or a vector.

The vector of an image x_0 is that of an image tower f, of length 1 with d features. The
decoder of unCLIP draws images from it (Ramesh et al. 2022, section 2.1):

    (1)  c = sqrt(d) f(x_0)

Its numbers have about unit variance. No vector, which guidance needs, is 0.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

from jaxdiff.checks import Checked, DiskPath
from jaxdiff.conditioning.low_resolution import LowResolution
from jaxdiff.errors import InputError


@dataclass(frozen=True, kw_only=True)
class NoImage:
    """Networks get no image."""

    FLAG: ClassVar[str] = "none"


@dataclass(frozen=True, kw_only=True)
class ImageVector(Checked):
    """Networks get the vector of the image by trained towers: the decoder of unCLIP."""

    FLAG: ClassVar[str] = "image-vector"

    towers: DiskPath = ""
    """Run folder of the towers, which train-towers wrote for images of this size."""


ImageCondition: TypeAlias = NoImage | LowResolution | ImageVector
"""Condition that training makes of each image."""


def vector_condition(vectors: Any) -> Any:
    """Returns the vectors of a condition, equation (1).

    Args:
        vectors: vectors of length 1, float [..., features].
    """
    return vectors * math.sqrt(vectors.shape[-1])


def check_vectors(network: Any, taken: tuple[str, ...]) -> None:
    """Raises `InputError` for a network that is given no vector of an image.

    Args:
        network: the network.
        taken: parts of a condition that it takes.
    """
    if "vector" in taken and not {"text", "tokens"} & {*taken}:
        return
    raise InputError(
        f"the network {type(network).__name__} must take a vector and no text for the "
        f"condition image-vector, got {' and '.join(taken) or 'none'}. Use the recipe "
        "unclip."
    )
