"""Figures of an evaluation, as text."""

import textwrap
from collections.abc import Sequence
from typing import NamedTuple

from jaxdiff.evaluation.fidelity import Fidelity


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


def fidelity_figures(found: Fidelity, note: str, baseline: str) -> list[Figure]:
    """Returns the figures of drawn images, next to those of a baseline.

    Args:
        found: metrics of the images.
        note: conditions under which the values may be compared.
        baseline: images of the baseline, in words.
    """
    figures = []
    if found.agreement is not None:
        figures.append(Figure("label agreement", found.agreement, unit="share"))
    for of, d in (("", found.samples), (f", {baseline} (baseline)", found.floor)):
        figures += [
            Figure(f"Frechet distance{of}", d.frechet),
            Figure(f"kernel distance{of}", d.kernel.value, d.kernel.standard_error),
            Figure(f"precision{of}", d.manifold.precision, unit="share"),
            Figure(f"recall{of}", d.manifold.recall, unit="share"),
        ]
    near = found.copying
    figures += [
        Figure("distance to the nearest training image", near.generated),
        Figure("distance of held-out images (baseline)", near.held_out),
        Figure(
            "nearer than held-out images (baseline: 50%)", near.nearer, unit="share"
        ),
    ]
    return [figure._replace(note=note) for figure in figures]
