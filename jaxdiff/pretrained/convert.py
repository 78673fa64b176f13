"""Imported models as run folders."""

from pathlib import Path

from jaxdiff.errors import InputError
from jaxdiff.runs.folder import CHECKPOINTS, training_part, write_record
from jaxdiff.runs.non_finite import check_params
from jaxdiff.runs.parts import write_parts
from jaxdiff.runs.parts_info import PARTS
from jaxdiff.runs.run import Run
from jaxdiff.storage.checkpoints import Checkpoints
from jaxdiff.storage.files import check_new_folder, new_folder
from jaxdiff.training.initialize import diffusion_of, recipe_of


def write_run(run: Run, workdir: Path, *, link: bool = False) -> None:
    """Writes a model as a run folder at step 0.

    The folder gets its final name after everything is written. A model of text and
    latents keeps its published files, in place of a checkpoint.

    Args:
        run: the model.
        workdir: folder to write.
        link: if True, the folder refers to published files by path and checksum; if
            False, it holds copies. A model of pixels is always written.

    Raises:
        InputError: the folder is not empty, or cannot be written; or a parameter is
            not finite.
    """
    check_new_folder(workdir)
    check_params(run.params)
    experiment, info = run.experiment, run.info
    if run.parts is not None:
        with new_folder(workdir) as writing:
            writing.mkdir(parents=True)
            write_parts(run.parts, writing / PARTS, link)
            write_record(writing, experiment, info)
        return
    if link:
        raise InputError(
            "link must be False for a model of pixels, got True. Leave --link out."
        )
    task = diffusion_of(experiment, run.model)
    state = recipe_of(experiment, task).state_of(run.params)
    with new_folder(workdir) as writing:
        record = {"configuration": training_part(experiment, info)}
        with Checkpoints(writing / CHECKPOINTS) as checkpoints:
            checkpoints.save(0, state, record)
        write_record(writing, experiment, info)
