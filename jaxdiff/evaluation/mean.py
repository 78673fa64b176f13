"""A mean with its standard error."""

from typing import NamedTuple

import numpy as np


class Mean(NamedTuple):
    """Mean over images, and its standard error."""

    value: float
    standard_error: float

    @classmethod
    def of(cls, values: np.ndarray) -> "Mean":
        """Returns the mean of values [num]; the error of a single value is nan."""
        values = np.asarray(values, np.float64)
        spread = values.std(ddof=1) if len(values) > 1 else np.nan
        return cls(float(values.mean()), float(spread / len(values) ** 0.5))

    def __str__(self) -> str:
        return f"{self.value:.4f} ± {self.standard_error:.4f}"
