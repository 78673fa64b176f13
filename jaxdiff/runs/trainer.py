"""An experiment with its data, ready to take any of its steps."""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import jax
import numpy as np

from jaxdiff import data
from jaxdiff.runs.fine_tune import start_of
from jaxdiff.losses.loss import check_batch
from jaxdiff.networks import UNet
from jaxdiff.parallel import Placed
from jaxdiff.runs.load import load_data
from jaxdiff.storage.checkpoints import Checkpoints
from jaxdiff.training.experiment import DataInfo, Experiment
from jaxdiff.training.initialize import build_network, init_state, placed
from jaxdiff.training.state import TrainState
from jaxdiff.training.step import scan_steps, train_step
from jaxdiff.typing import AnySchedule, Array, Batch


@dataclass(frozen=True)
class Trainer:
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
    def of(cls, experiment: Experiment, dataset: data.Dataset | None = None) -> "Trainer":
        """Loads the data and builds the rest; writes nothing.

        Args:
            experiment: its configuration.
            dataset: what it is trained on; the experiment's own data by default.

        Raises:
            InputError: options do not fit each other, the data or the devices.
        """
        training, parallel = experiment.training, experiment.parallel
        parallel.check_batch_size(training.batch_size, training.accumulate)
        schedule = experiment.schedule.build()
        experiment.check(schedule)
        dataset = dataset or load_data(experiment, "train")
        info = data_info(experiment, dataset)
        experiment.check_guidance(info.num_classes)
        network = build_network(experiment, info)
        trainer = cls(experiment, dataset, info, network, schedule)
        check_batch(trainer.batch(0), info.num_classes)
        return trainer

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
        step = scan_steps(partial(train_step, **self.step_options))
        return self.experiment.parallel.step(step)

    def feed(self, step: int, until: int) -> Iterator[tuple[int, Placed]]:
        """The batches of each dispatch, read ahead and on the devices already.

        Where a dispatch ends is a function of the step: a run that goes on takes the
        same ones as a run that was never stopped, and so gets the same bits.

        Args:
            step: how many steps are done.
            until: where to stop at the latest.

        Yields:
            How many steps are done after a dispatch, and what `advance` takes for it.
        """
        batches, ready = data.read_ahead(self.batch, step, until), deque[Any]()
        while step < until or ready:
            while step < until and len(ready) < 2:
                count = self._count(step, until)
                parts = [next(batches) for _ in range(count)]
                rows = jax.tree.map(lambda *leaves: np.stack(leaves, axis=1), *parts)
                step += count
                ready.append((step, self.experiment.parallel.place(rows)))
            yield ready.popleft()

    def advance(
        self, state: TrainState, batches: Placed
    ) -> tuple[TrainState, dict[str, Array]]:
        """The steps of one dispatch.

        Args:
            state: before them, as `Parallel.localize` gave it; it is donated.
            batches: from `feed`.

        Returns:
            The state after them, and their metrics, [steps].
        """
        return self._step_fn(state, batches)

    def _count(self, step: int, until: int) -> int:
        """How many steps are dispatched at once."""
        training, upkeep = self.experiment.training, self.experiment.upkeep
        marks = (
            training.steps_per_dispatch, upkeep.log_every, upkeep.checkpoint_every,
            upkeep.sample_every or training.num_steps,
            self.experiment.snapshot_every or training.num_steps,
        )  # fmt: skip
        return min(until - step, *(mark - step % mark for mark in marks))

    def initial_state(self, checkpoints: Checkpoints, step: int | None) -> TrainState:
        """A checkpoint's state on the devices; that of step 0 where `step` is None.

        Raises:
            InputError: there is no such checkpoint, or what `init` names does not fit.
        """
        init = partial(init_state, self.experiment, self.info)
        shapes = jax.eval_shape(init)
        shardings = self.experiment.parallel.shardings(shapes)
        if step is not None:
            return checkpoints.restore(placed(shapes, shardings), step)
        start = start_of(self.experiment, shapes.params)
        return jax.jit(init, out_shardings=shardings)(start)

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
