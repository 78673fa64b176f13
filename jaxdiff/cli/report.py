"""The command `report`: a page of a run."""

from dataclasses import dataclass
from pathlib import Path

from jaxdiff.report import page


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """Which run to put on a page."""

    workdir: Path
    """The run folder; report.html is written there."""


def report(options: ReportOptions) -> None:
    """Writes the page of a run, and prints where it is."""
    page.tell(options.workdir)
