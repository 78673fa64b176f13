"""The command `distill`: progressive distillation in a chain of runs."""

from dataclasses import dataclass
from pathlib import Path

from jaxdiff.cli.train import train_devices
from jaxdiff.errors import printable
from jaxdiff.parallel import cpu_devices
from jaxdiff.parallel.processes import is_first
from jaxdiff.report import page
from jaxdiff.runs.distill import distill
from jaxdiff.training.experiment import Experiment


@dataclass(frozen=True, kw_only=True)
class DistillOptions:
    """Options of the command `distill`."""

    workdir: Path
    """Folder of the students' run folders, which are named steps-8, steps-4, ... A
    chain that stopped goes on where it stopped."""
    steps: tuple[int, ...] = (8, 4, 2, 1)
    """Number of sampling steps of each student, half of the one before."""


def distill_chain(options: DistillOptions, experiment: Experiment) -> None:
    """Trains the students, each from the one before, and writes their pages."""
    cpu_devices.use(train_devices(experiment))
    folders = distill(experiment, options.workdir, options.steps)
    for folder in folders if is_first() else []:
        page.refresh(folder)
    print(printable(f"the students are in {', '.join(map(str, folders))}"))
