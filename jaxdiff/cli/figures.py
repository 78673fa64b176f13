"""Figures of an evaluation, as text."""

import textwrap
from collections.abc import Sequence
from typing import NamedTuple


class Figure(NamedTuple):
    """Figure of an evaluation.

    Attributes:
        name: name of the figure.
        value: value of the figure.
        standard_error: standard error of the value; None if it is unknown.
        unit: unit of the value; "" for a number without a unit.
        note: conditions under which the value may be compared with other values.
    """

    name: str
    value: float
    standard_error: float | None = None
    unit: str = ""
    note: str = ""

    def __str__(self) -> str:
        """Returns the name, and the value in a column."""
        value = f"{self.value:.1%}" if self.unit == "share" else f"{self.value:.4f}"
        error = self.standard_error
        shown = value if error is None else f"{value} ± {error:.4f}"
        return f"  {self.name:<46}{shown}"


def tell(heading: str, figures: Sequence[Figure]) -> None:
    """Prints figures below a heading."""
    print(textwrap.fill(heading, 88))
    for figure in figures:
        print(figure)
