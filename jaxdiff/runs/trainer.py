"""An experiment with its data, ready to take any of its steps."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import numpy as np

from jaxdiff import data
from jaxdiff.losses.loss import check_batch
from jaxdiff.parallel import Placed
from jaxdiff.runs.fine_tune import start_of
from jaxdiff.runs.load import load_data
from jaxdiff.storage.checkpoints import Checkpoints
from jaxdiff.training.experiment import DataInfo, Experiment
from jaxdiff.training.initialize import build_model, placed, recipe_of, with_network
from jaxdiff.training.model import Model
from jaxdiff.training.recipe import (
    Recipe,
    compiled_init,
    compiled_steps,
    state_shapes,
)
from jaxdiff.training.state import TrainState
from jaxdiff.typing import Array, Batch, Network


@dataclass(frozen=True)
class Trainer:
    """The parts of a training run.

    Attributes:
        experiment: its configuration.
        dataset: what it is trained on.
        info: what the model must know of that.
        model: network, schedule and prediction.
    """

    experiment: Experiment
    dataset: data.Dataset
    info: DataInfo
    model: Model

    @classmethod
    def of(
        cls,
        experiment: Experiment,
        dataset: data.Dataset | None = None,
        network: Network | None = None,
    ) -> "Trainer":
        """Loads the data and builds the rest; writes nothing.

        Args:
            experiment: its configuration.
            dataset: what it is trained on; the experiment's own data by default.
            network: a network of one's own, instead of the experiment's.

        Raises:
            InputError: options do not fit each other, the data or the devices.
        """
        training, parallel = experiment.training, experiment.parallel
        parallel.check_batch_size(training.batch_size, training.accumulate)
        schedule = experiment.schedule.build()
        experiment.check(schedule)
        dataset = dataset or load_data(experiment, "train")
        info = with_network(data_info(experiment, dataset), network)
        experiment.check_guidance(info)
        model = build_model(experiment, info, network, schedule)
        trainer = cls(experiment, dataset, info, model)
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
    def recipe(self) -> Recipe:
        """The model and how it is trained."""
        return recipe_of(self.experiment, self.model)

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
        return compiled_steps(self.recipe, self.experiment.parallel)(state, batches)

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
        parallel = self.experiment.parallel
        shapes = state_shapes(self.recipe)
        if step is not None:
            wanted = placed(shapes, parallel.shardings(shapes))
            return checkpoints.restore(wanted, step)
        start = start_of(self.experiment, shapes.params)
        return compiled_init(self.recipe, parallel)(start)

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
