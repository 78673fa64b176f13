"""The command `status`: the contents of a run folder."""

from dataclasses import dataclass
from pathlib import Path

from jaxdiff.report import status as run_status


@dataclass(frozen=True, kw_only=True)
class StatusOptions:
    """Options of the command `status`."""

    workdir: Path
    """Run folder; it is only read, also during training."""


def status(options: StatusOptions) -> None:
    """Prints the contents of a run folder."""
    print(run_status.status(options.workdir))
