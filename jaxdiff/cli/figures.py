"""Figures of an evaluation: as text, as JSON, and on the page of the run."""

import contextlib
import json
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxdiff.errors import printable
from jaxdiff.report import page
from jaxdiff.storage.files import write_json_atomic

RECORD = "evaluation.json"
"""File of the figures in a run folder."""


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
        return f"  {self.name:<45} {shown}"


def tell(heading: str, figures: Sequence[Figure]) -> None:
    """Prints figures below a heading."""
    print(textwrap.fill(heading, 88))
    for figure in figures:
        print(figure)


def publish(
    workdir: Path,
    shown: Mapping[str, Sequence[Figure]],
    settings: Mapping[str, Any],
    as_json: bool,
    pictures: Sequence[str] = (),
    **more: Any,
) -> None:
    """Writes figures to evaluation.json and to the page of the run, and prints them.

    Args:
        workdir: run folder.
        shown: figures by their headings.
        settings: options of the evaluation.
        as_json: if True, prints the contents of evaluation.json alone.
        pictures: names of the pictures in the run folder.
        **more: further entries of evaluation.json.
    """
    figures = [figure._asdict() for those in shown.values() for figure in those]
    record = {"figures": figures, "settings": settings, **more}
    write_json_atomic(workdir / RECORD, record)
    with contextlib.redirect_stdout(sys.stderr if as_json else sys.stdout):
        page.refresh(workdir)
    if as_json:
        print(json.dumps(record))
        return
    for heading, those in shown.items():
        tell(heading, those)
    *names, last = RECORD, *pictures
    are = f"{', '.join(names)} and {last} are" if names else f"{last} is"
    print(printable(f"{are} in {workdir}"))
