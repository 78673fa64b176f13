"""Imported models as run folders."""

from pathlib import Path

from jaxdiff.errors import InputError
from jaxdiff.runs.folder import CHECKPOINTS, training_part, write_record
from jaxdiff.runs.load import Run
from jaxdiff.runs.non_finite import check_params
from jaxdiff.storage.checkpoints import Checkpoints
from jaxdiff.storage.files import new_folder
from jaxdiff.training.initialize import recipe_of


def write_run(run: Run, workdir: Path) -> None:
    """Writes a model as a run folder at step 0.

    The folder gets its final name after everything is written.

    Raises:
        InputError: the folder is not empty, or cannot be written; or a parameter is
            not finite.
    """
    if workdir.exists() and (not workdir.is_dir() or any(workdir.iterdir())):
        raise InputError(f"'{workdir}' must be a new or empty folder. Name another.")
    check_params(run.params)
    experiment, info = run.experiment, run.info
    state = recipe_of(experiment, run.model).state_of(run.params)
    with new_folder(workdir) as writing:
        record = {"configuration": training_part(experiment, info)}
        with Checkpoints(writing / CHECKPOINTS) as checkpoints:
            checkpoints.save(0, state, record)
        write_record(writing, experiment, info)
