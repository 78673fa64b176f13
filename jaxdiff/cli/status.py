"""The command `status`: what a run folder holds."""

from dataclasses import dataclass
from pathlib import Path

from jaxdiff.report import status as run_status


@dataclass(frozen=True, kw_only=True)
class StatusOptions:
    """Which run to look at."""

    workdir: Path
    """The run folder; it is only read, also while a process trains in it."""


def status(options: StatusOptions) -> None:
    """Prints what a run folder holds."""
    print(run_status.status(options.workdir))
