"""Checkpoints of a run of any task, and their averaged parameters."""

from functools import partial
from pathlib import Path
from typing import Any

from jaxdiff.runs.folder import CHECKPOINTS, check_record
from jaxdiff.runs.identity import newest_step
from jaxdiff.runs.non_finite import check_params
from jaxdiff.storage.checkpoints import Checkpoints
from jaxdiff.training.experiment import AnyExperiment, DataInfo
from jaxdiff.training.initialize import init_shapes
from jaxdiff.typing import Params


def read_averaged(
    workdir: Path, experiment: AnyExperiment, info: DataInfo, step: int | None = None
) -> tuple[int, Params]:
    """Returns the step of a checkpoint, and its averaged parameters.

    Args:
        workdir: the folder of the run.
        experiment: the run's configuration.
        info: the description of its data.
        step: step of the checkpoint; the newest by default.

    Raises:
        InputError: there is no such checkpoint, or the parameters are not finite.
    """
    wanted = {"ema": init_shapes(experiment, info).ema}
    step, found = read_checkpoint(workdir, experiment, info, wanted, step)
    check_params(found["ema"])
    return step, found["ema"]


def read_checkpoint(
    workdir: Path,
    experiment: AnyExperiment,
    info: DataInfo,
    wanted: Any,
    step: int | None = None,
) -> tuple[int, Any]:
    """Returns the step of a checkpoint, and a part of it; the newest may go meanwhile.

    Args:
        workdir: the folder of the run.
        experiment: the run's configuration.
        info: the description of its data.
        wanted: shapes of the part.
        step: step of the checkpoint; the newest by default.

    Raises:
        InputError: there is no such checkpoint, or it is of another run.
    """
    with Checkpoints(workdir / CHECKPOINTS) as checkpoints:

        def read(step: int | None) -> tuple[int | None, Any]:
            if step is not None:
                check_record(checkpoints.record(step), workdir, experiment, info)
            return step, checkpoints.restore(wanted, step, partial=True)

        newest = partial(newest_step, checkpoints)
        given = step is not None
        step, found = read(step) if given else checkpoints.read_newest(read, newest)
    assert step is not None, "there is a checkpoint"
    return step, found
