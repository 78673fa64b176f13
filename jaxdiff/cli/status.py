"""The command `status`: the contents of a run folder."""

import json
from dataclasses import dataclass
from pathlib import Path

from jaxdiff.report import status as run_status


@dataclass(frozen=True, kw_only=True)
class StatusOptions:
    """Options of the command `status`."""

    workdir: Path
    """Run folder; it is only read, also during training."""
    json: bool = False
    """If True, prints the contents as JSON, and no text."""


def status(options: StatusOptions) -> None:
    """Prints the contents of a run folder."""
    if options.json:
        print(json.dumps(run_status.facts(options.workdir)))
    else:
        print(run_status.status(options.workdir))
