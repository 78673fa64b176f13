"""Imported models as run folders."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from jaxdiff.errors import InputError
from jaxdiff.runs.folder import CHECKPOINTS, training_part, write_record
from jaxdiff.runs.load import Run
from jaxdiff.storage.checkpoints import Checkpoints
from jaxdiff.storage.files import cannot_write
from jaxdiff.training.state import TrainState


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """What to import, and where to."""

    path: Path | None = None
    """The model's folder, in the layout of Hugging Face's diffusers; also the first
    word after the command."""
    workdir: Path
    """The run folder to make; also the second word."""
    steps: int | None = None
    """Steps of the sampler; by default all times with DDPM, 50 with DDIM, 20 with
    DPM-Solver++ and UniPC."""
    variant: str | None = None
    """Of the weights' files, such as fp16; by default the plain ones, or the only."""
    null_class: bool = False
    """The last of the class embeddings stands for no class: guidance needs it."""
    bin: bool = False
    """Read a .bin file where there is no safetensors file; nothing in it is run."""


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What to export, and where to."""

    workdir: Path
    """The run folder; also the first word after the command."""
    path: Path | None = None
    """The folder to make, in the layout of Hugging Face's diffusers; also the second
    word."""
    sampler: str | None = None
    """Another sampler than the run's, such as ddim or dpm-solver:order=2."""
    steps: int | None = None
    """How many steps it takes."""
    ema: float | None = None
    """Take the parameters' average of this relative length, as `sample` does."""


def write_run(run: Run, workdir: Path) -> None:
    """Writes a model as a run folder, of which no step is trained yet.

    The folder gets its name when all of it is written.

    Raises:
        InputError: there is something already, or it cannot be written.
    """
    if workdir.exists() and (not workdir.is_dir() or any(workdir.iterdir())):
        raise InputError(f"'{workdir}' is there already: name another folder")
    experiment, info = run.experiment, run.info
    state = TrainState.create(
        run.params,
        experiment.optimizer.build(experiment.training.num_steps),
        experiment.objective.times.init(),
        len(experiment.training.ema_lengths),
    )
    writing = workdir.with_name(f".{workdir.name}.{os.getpid()}.writing")
    try:
        record = {"configuration": training_part(experiment, info)}
        with Checkpoints(writing / CHECKPOINTS) as checkpoints:
            checkpoints.save(0, state, record)
        write_record(writing, experiment, info)
        writing.replace(workdir)
    except OSError as error:
        raise cannot_write(workdir, error) from error
    finally:
        shutil.rmtree(writing, ignore_errors=True)
