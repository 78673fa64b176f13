"""Schedule of saving: checkpoints of the state, snapshots of the averages."""

import time
from collections.abc import Sequence
from typing import Any

from jaxdiff.parallel.processes import broadcast_int
from jaxdiff.runs.folder import training_part
from jaxdiff.runs.stages import Stage
from jaxdiff.storage.checkpoints import Checkpoints
from jaxdiff.training.experiment import AnyExperiment, DataInfo
from jaxdiff.training.state import TrainState


class Saver:
    """Saves checkpoints and snapshots as `Upkeep` specifies.

    Args:
        experiment: the experiment of the run.
        info: shape and classes of its data.
        checkpoints: store of the train states.
        snapshots: store of the averages of `ema_lengths`.
        last_snapshot: step of the newest snapshot; 0 if there is none.
        end: last step of this call of `train`.
        stages: stages that have ended, to record with each checkpoint.
    """

    def __init__(
        self,
        experiment: AnyExperiment,
        info: DataInfo,
        checkpoints: Checkpoints,
        snapshots: Checkpoints,
        last_snapshot: int,
        end: int,
        stages: Sequence[Stage] = (),
    ):
        self._experiment, self._end = experiment, end
        self._checkpoints, self._snapshots = checkpoints, snapshots
        self._last_snapshot = last_snapshot
        self._record: dict[str, Any] = {
            "configuration": training_part(experiment, info)
        }
        if stages:
            self._record["stages"] = [stage.record() for stage in stages]
        self._checkpoint_due = self._snapshot_due = False
        self._saved_at = time.monotonic()

    def due(self, step: int, stop: bool) -> bool:
        """Returns True if a checkpoint or a snapshot is due after this step.

        All processes get the same answer. Each process must call it at every step.

        Args:
            step: number of steps done.
            stop: True if the run stops after this step.
        """
        every = self._experiment.upkeep.checkpoint_every
        self._checkpoint_due = (
            stop or step == self._end or step % every == 0 or self._late(step)
        )
        newer = step > self._last_snapshot
        self._snapshot_due = newer and self._experiment.snapshot_due(step)
        return self._checkpoint_due or self._snapshot_due

    def save(self, step: int, state: TrainState, record: dict[str, Any]) -> None:
        """Saves the checkpoint and the snapshot that `due` reported.

        Args:
            step: number of steps done.
            state: the state after this step, as `Parallel.globalize` returns it.
            record: JSON data to store with a checkpoint.
        """
        if self._snapshot_due:
            self._snapshots.save(step, state.tracks)
            self._snapshots.wait()  # a checkpoint needs all earlier snapshots
        if self._checkpoint_due:
            state = state._replace(frozen=())
            self._checkpoints.save(step, state, {**record, **self._record})
            self._saved_at = time.monotonic()

    def _late(self, step: int) -> bool:
        upkeep = self._experiment.upkeep
        if not upkeep.checkpoint_minutes or step % upkeep.log_every:
            return False
        minutes = (time.monotonic() - self._saved_at) / 60
        # The clocks of processes differ: the clock of process 0 decides.
        return bool(broadcast_int(minutes >= upkeep.checkpoint_minutes))
