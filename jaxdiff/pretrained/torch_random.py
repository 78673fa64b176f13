"""Normal numbers of PyTorch's CPU generator, without PyTorch.

Published pictures are named by a seed of that generator. With its numbers as the start
of the sampling loop, the same seed gives the same picture here.

The generator is the Mersenne Twister of 32 bits, seeded with the seed's low 32 bits.
From uniform numbers u in [0, 1), the Box-Muller method makes pairs of normal numbers:

    (1)  r = sqrt(-2 log(1 - u)),   n = r cos(2 pi u'),   n' = r sin(2 pi u')

PyTorch has two ways (ATen/native/cpu/DistributionTemplates.h). At least 16 numbers are
drawn in groups of 16: eight u, eight u'; eight n, eight n'. If 16 does not divide their
number, the last 16 are drawn again; types of 16 bits skip the first draw of the rest.
Fewer numbers are drawn one by one, in float64. The second of a pair is kept for the
next such draw.
"""

import math
from typing import Annotated, Any

import ml_dtypes
import numpy as np
from annotated_types import Interval

from jaxdiff.checks import check_value
from jaxdiff.errors import InputError

GROUP = 16
"""Numbers per group."""
KINDS = tuple(
    map(np.dtype, (np.float32, np.float64, np.float16, ml_dtypes.bfloat16))
)  # fmt: skip


class TorchGenerator:
    """Generator whose draws continue as those of a `torch.Generator` of the CPU.

    Args:
        seed: seed, an integer in 0..2^64 - 1.

    Raises:
        InputError: the seed is out of range.
    """

    def __init__(self, seed: int) -> None:
        check_value("seed", seed, Annotated[int, Interval(ge=0, lt=2**64)])
        self._twister = np.random.RandomState(seed & 0xFFFFFFFF)
        self._kept: float | None = None

    def normal(self, shape: tuple[int, ...], dtype: Any = np.float32) -> np.ndarray:
        """Draws the numbers of `torch.randn(shape, generator=..., dtype=...)`.

        Numbers of 32 bits can differ in their last bits, because PyTorch's logarithm,
        sine and cosine differ between processors.

        Args:
            shape: shape in PyTorch's order, such as (batch, channels, height, width).
            dtype: float32, float64, float16 or bfloat16.

        Raises:
            InputError: dtype is another type, or a size is negative.
        """
        kind = np.dtype(dtype)
        if kind not in KINDS:
            raise InputError(
                f"dtype must be float32, float64, float16 or bfloat16, got {kind}"
            )
        if any(size < 0 for size in shape):
            raise InputError(f"shape must have sizes of at least 0, got {shape}")
        count = math.prod(shape)
        if count < GROUP:
            singles = [self._single() for _ in range(count)]
            return np.asarray(singles, np.float64).astype(kind).reshape(shape)
        whole = count - count % GROUP
        if kind.itemsize == 2:  # drawn as float32, group by group
            numbers = _box_muller(self._uniform(whole, np.dtype(np.float32)))
            numbers = np.append(numbers, np.zeros(count - whole, np.float32))
        else:
            numbers = self._uniform(count, kind)
            numbers[:whole] = _box_muller(numbers[:whole])
        if whole < count:
            numbers[-GROUP:] = _box_muller(self._uniform(GROUP, numbers.dtype))
        return numbers.astype(kind).reshape(shape)

    def images(
        self, num: int, height: int, width: int, channels: int, dtype: Any = np.float32
    ) -> np.ndarray:
        """Draws noise [num, height, width, channels] as diffusers does for a call.

        diffusers draws [num, channels, height, width]; the axes are moved.
        """
        return self.normal((num, channels, height, width), dtype).transpose(0, 2, 3, 1)

    def _uniform(self, count: int, kind: np.dtype) -> np.ndarray:
        """Draws uniform numbers [count] in [0, 1), float32 or float64."""
        if kind == np.float32:
            kept = self._bits(count) & np.uint32(2**24 - 1)
            return kept.astype(np.float32) / np.float32(2**24)
        raw = self._bits(2 * count).astype(np.uint64).reshape(-1, 2)
        bits = (raw[:, 0] << np.uint64(32)) | raw[:, 1]
        return (bits & np.uint64(2**53 - 1)).astype(np.float64) / 2**53

    def _bits(self, count: int) -> np.ndarray:
        """Draws integers of 32 random bits [count]."""
        return self._twister.randint(0, 2**32, count, np.uint32)

    def _single(self) -> float:
        """Draws one number in float64, or takes the one that was kept."""
        if self._kept is not None:
            number, self._kept = self._kept, None
            return number
        angle, u = (float(a) for a in self._uniform(2, np.dtype(np.float64)))
        radius = math.sqrt(-2 * math.log1p(-u))
        theta = 2 * math.pi * angle
        self._kept = radius * math.sin(theta)
        return radius * math.cos(theta)


def _box_muller(uniform: np.ndarray) -> np.ndarray:
    """Returns the normal numbers of groups of uniform ones, equation (1)."""
    pairs = uniform.reshape(-1, 2, GROUP // 2)
    first, second = pairs[:, 0], pairs[:, 1]
    radius = np.sqrt(-2 * np.log(1 - first))
    theta = uniform.dtype.type(2 * np.pi) * second
    both = [radius * np.cos(theta), radius * np.sin(theta)]
    return np.concatenate(both, axis=1).reshape(-1)
