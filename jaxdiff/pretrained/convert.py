"""Imported models as run folders."""

import os
import shutil
from pathlib import Path

from jaxdiff.errors import InputError
from jaxdiff.runs.folder import CHECKPOINTS, training_part, write_record
from jaxdiff.runs.load import Run
from jaxdiff.storage.checkpoints import Checkpoints
from jaxdiff.storage.files import cannot_write
from jaxdiff.training.initialize import recipe_of


def write_run(run: Run, workdir: Path) -> None:
    """Writes a model as a run folder, of which no step is trained yet.

    The folder gets its name when all of it is written.

    Raises:
        InputError: there is something already, or it cannot be written.
    """
    if workdir.exists() and (not workdir.is_dir() or any(workdir.iterdir())):
        raise InputError(f"'{workdir}' is there already: name another folder")
    experiment, info = run.experiment, run.info
    state = recipe_of(experiment, run.model).state_of(run.params)
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
