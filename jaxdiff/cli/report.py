"""The command `report`: an HTML page on a run."""

from dataclasses import dataclass
from pathlib import Path

from jaxdiff.report import page


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """Options of the command `report`."""

    workdir: Path
    """Run folder; report.html is written to it."""


def report(options: ReportOptions) -> None:
    """Writes the page of a run and prints its path."""
    page.print_place(options.workdir)
