"""When a run is saved: checkpoints of its state, snapshots of its averages."""

import time
from typing import Any

from jaxdiff.parallel.processes import broadcast_int
from jaxdiff.runs.folder import training_part
from jaxdiff.storage.checkpoints import Checkpoints
from jaxdiff.training.experiment import DataInfo, Experiment
from jaxdiff.training.state import TrainState


class Saver:
    """Saves a run as `Upkeep` says.

    Args:
        experiment: the run.
        info: the shape and classes of its data.
        checkpoints: for the train states.
        snapshots: for the averages of `ema_lengths`.
        last_snapshot: the step of the newest one; 0 where there is none.
        end: the step with which training ends for now.
    """

    def __init__(
        self,
        experiment: Experiment,
        info: DataInfo,
        checkpoints: Checkpoints,
        snapshots: Checkpoints,
        last_snapshot: int,
        end: int,
    ):
        self._experiment, self._end = experiment, end
        self._checkpoints, self._snapshots = checkpoints, snapshots
        self._last_snapshot = last_snapshot
        self._configuration = training_part(experiment, info)
        self._checkpoint_due = self._snapshot_due = False
        self._saved_at = time.monotonic()

    def due(self, step: int, stop: bool) -> bool:
        """Whether there is something to save after this step.

        All processes agree; each must ask at every step.

        Args:
            step: the step.
            stop: whether the run stops after it.
        """
        every = self._experiment.upkeep.checkpoint_every
        self._checkpoint_due = (
            stop or step == self._end or step % every == 0 or self._late(step)
        )
        newer = step > self._last_snapshot
        self._snapshot_due = newer and self._experiment.snapshot_due(step)
        return self._checkpoint_due or self._snapshot_due

    def save(self, step: int, state: TrainState, record: dict[str, Any]) -> None:
        """Saves what `due` found.

        Args:
            step: the step.
            state: after it, as `Parallel.globalize` gave it.
            record: kept with a checkpoint.
        """
        if self._snapshot_due:
            self._snapshots.save(step, state.tracks)
            self._snapshots.wait()  # a checkpoint has all snapshots before it
        if self._checkpoint_due:
            record = {**record, "configuration": self._configuration}
            self._checkpoints.save(step, state, record)
            self._saved_at = time.monotonic()

    def _late(self, step: int) -> bool:
        upkeep = self._experiment.upkeep
        if not upkeep.checkpoint_minutes or step % upkeep.log_every:
            return False
        minutes = (time.monotonic() - self._saved_at) / 60
        # The clocks of several processes differ: that of process 0 counts.
        return bool(broadcast_int(minutes >= upkeep.checkpoint_minutes))
