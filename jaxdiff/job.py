"""An experiment with its data, ready to take any of its steps."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import jax
import numpy as np

from jaxdiff import data
from jaxdiff.checkpoint import Checkpoints
from jaxdiff.experiment import DataInfo, Experiment
from jaxdiff.loss import check_batch
from jaxdiff.networks import UNet
from jaxdiff.run import build_network, init_state, load_data, placed
from jaxdiff.step import several, train_step
from jaxdiff.train_state import TrainState
from jaxdiff.typing import AnySchedule, Array, Batch


@dataclass(frozen=True)
class Job:
    """The parts of a training run.

    Attributes:
        experiment: its configuration.
        dataset: what it is trained on.
        info: what the model must know of that.
        network: the Flax network.
        schedule: the noise schedule.
    """

    experiment: Experiment
    dataset: data.Dataset
    info: DataInfo
    network: UNet
    schedule: AnySchedule

    @classmethod
    def of(cls, experiment: Experiment) -> "Job":
        """Loads the data and builds the rest; writes nothing.

        Raises:
            InputError: options do not fit each other, the data or the devices.
        """
        training, parallel = experiment.training, experiment.parallel
        parallel.check_batch_size(training.batch_size, training.accumulate)
        schedule = experiment.schedule.build()
        experiment.check(schedule)
        dataset = load_data(experiment, "train")
        info = data_info(experiment, dataset)
        experiment.check_guidance(info.num_classes)
        network = build_network(experiment, info)
        job = cls(experiment, dataset, info, network, schedule)
        check_batch(job.batch(0), info.num_classes)
        return job

    def batch(self, step: int, rows: np.ndarray | None = None) -> Batch:
        """The batch after so many steps; labels None where the model takes none.

        Args:
            step: from 0.
            rows: which of its examples, integers [rows]; by default this process's.
        """
        size = self.experiment.training.batch_size
        rows = self._rows if rows is None else rows
        batch = data.batch(
            self.dataset, self.experiment.seed, step, size,
            flip=self.experiment.data.flip, rows=rows,
        )  # fmt: skip
        conditional = self.info.num_classes is not None
        return batch if conditional else batch._replace(labels=None)

    def batches(self, step: int, count: int) -> Batch:
        """This process's rows of the batches of `count` steps, [rows, count, ...]."""
        batches = [self.batch(s) for s in range(step, step + count)]
        return jax.tree.map(lambda *parts: np.stack(parts, axis=1), *batches)

    @cached_property
    def step_options(self) -> dict[str, Any]:
        """What `train_step` is given beside the state and the batch."""
        experiment = self.experiment
        training = experiment.training
        return {
            "network": self.network,
            "schedule": self.schedule,
            "prediction": experiment.prediction,
            "objective": experiment.objective,
            "optimizer": experiment.optimizer.build(training.num_steps),
            "ema_decay": training.ema_decay,
            "ema_lengths": training.ema_lengths,
            "seed": experiment.seed,
            "accumulate": training.accumulate,
            "guard": training.nonfinite != "go-on",
        }

    @cached_property
    def _step_fn(self) -> Callable[[Any, Any], tuple[Any, dict[str, Array]]]:
        step = several(partial(train_step, **self.step_options))
        return self.experiment.parallel.step(step)

    def advance(
        self, state: TrainState, step: int, until: int
    ) -> tuple[TrainState, int, dict[str, Array]]:
        """The next steps, as many as are dispatched at once.

        Where a dispatch ends is a function of the step: a run that goes on takes the
        same ones as a run that was never stopped, and so gets the same bits.

        Args:
            state: after `step` steps, as `Parallel.enter` gave it; it is donated.
            step: from 0.
            until: where to stop at the latest.

        Returns:
            The state, how many steps it has then, and the metrics of these, [steps].
        """
        training, upkeep = self.experiment.training, self.experiment.upkeep
        marks = (
            training.steps_per_dispatch, upkeep.log_every, upkeep.checkpoint_every,
            upkeep.sample_every or training.num_steps,
        )  # fmt: skip
        count = min(until - step, *(mark - step % mark for mark in marks))
        state, metrics = self._step_fn(state, self.batches(step, count))
        return state, step + count, metrics

    def initial_state(self, checkpoints: Checkpoints, step: int | None) -> TrainState:
        """A checkpoint's state on the devices; that of step 0 where `step` is None."""
        init = partial(init_state, self.experiment, self.info)
        shapes = jax.eval_shape(init)
        shardings = self.experiment.parallel.shardings(shapes)
        if step is None:
            return jax.jit(init, out_shardings=shardings)()
        return checkpoints.restore(placed(shapes, shardings), step)

    @cached_property
    def _rows(self) -> np.ndarray:
        return self.experiment.parallel.rows(self.experiment.training.batch_size)


def data_info(experiment: Experiment, dataset: data.Dataset) -> DataInfo:
    """What the model must know of the data."""
    conditional = experiment.conditional and dataset.num_classes is not None
    return DataInfo(
        dataset.image_shape,
        dataset.num_classes if conditional else None,
        dataset.class_names if conditional else None,
        dataset.fingerprint(),
    )
