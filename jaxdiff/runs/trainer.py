"""An experiment with its data, ready to run any of its steps."""

from collections import deque
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import jax
import numpy as np

from jaxdiff import data
from jaxdiff.checks import any_last_signal, check_object
from jaxdiff.denoisers.network import taken
from jaxdiff.errors import InputError
from jaxdiff.losses.loss import check_batch
from jaxdiff.parallel import Placed
from jaxdiff.runs.data_of_run import load_data
from jaxdiff.runs.fine_tune import base_of, check_start, start_of
from jaxdiff.runs.parts import Parts, read_parts
from jaxdiff.storage.checkpoints import Checkpoints
from jaxdiff.storage.files import expanded
from jaxdiff.storage.read_state import with_names
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
from jaxdiff.typing import PIXELS, Array, Batch, Condition, Network, Params


@dataclass(frozen=True)
class Trainer:
    """Parts of a training run.

    Attributes:
        experiment: the run's configuration; its data is `Arrays` if the dataset was
            passed.
        dataset: the training data.
        info: shape, classes and fingerprint of the training data.
        model: network, schedule and prediction.
        parts: autoencoder and text encoders that made the latents, or None.
    """

    experiment: Experiment
    dataset: data.Dataset
    info: DataInfo
    model: Model
    parts: Parts | None = None

    @classmethod
    def of(
        cls,
        experiment: Experiment,
        dataset: data.Dataset | None = None,
        network: Network | None = None,
    ) -> "Trainer":
        """Loads the data and builds the model; writes nothing to the run folder.

        Args:
            experiment: the run's configuration.
            dataset: training data; the experiment's data by default.
            network: a Flax module of your own instead of the experiment's network.

        Raises:
            InputError: options do not fit each other, the data or the devices.
        """
        check_object("experiment", experiment, "training", "schedule")
        if not isinstance(dataset, data.Dataset | None):
            raise InputError(
                f"dataset must be a Dataset, got {type(dataset).__name__}. Make one "
                "with jaxdiff.data.from_arrays."
            )
        training, parallel = experiment.training, experiment.parallel
        parallel.check_batch_size(training.batch_size, training.accumulate)
        kept = isinstance(experiment.data, data.Latents)  # which name their parts
        if dataset is not None and not (kept and dataset.moments is not None):
            arrays = data.Arrays(flip=experiment.data.flip)
            experiment = replace(experiment, data=arrays)
        # The signal of the last level of a published model is not the user's choice.
        with any_last_signal() if experiment.init else nullcontext():
            schedule = experiment.schedule.build()
        experiment.check(schedule)
        if dataset is None:
            dataset = load_data(experiment, "train")
        info = with_network(data_info(experiment, dataset), network)
        experiment.check_guidance(info)
        model = build_model(experiment, info, network, schedule)
        parts = None
        if isinstance(experiment.data, data.Latents):
            parts = read_parts(expanded(experiment.data.path))
        check_start(experiment, parts, dataset.image_shape)
        trainer = cls(experiment, dataset, info, model, parts)
        check_batch(trainer.batch(0), model.network, model.data_range)
        return trainer

    def batch(self, step: int, rows: np.ndarray | None = None) -> Batch:
        """Returns the batch of a step, with the condition that the network takes.

        Args:
            step: number of steps done before, from 0.
            rows: integers [rows], the examples of the batch to read; this process's by
                default.
        """
        size = self.experiment.training.batch_size
        rows = self._rows if rows is None else rows
        batch = data.batch(
            self.dataset, self.experiment.seed, step, size,
            flip=self.experiment.data.flip,
            drop=self.experiment.caption_dropout, rows=rows,
        )  # fmt: skip
        condition = taken(Condition.of(batch.condition), self.model.network)
        return batch._replace(condition=condition)

    @cached_property
    def recipe(self) -> Recipe:
        """Model together with its training options; compiled once."""
        return recipe_of(self.experiment, self.model)

    def feed(self, step: int, until: int) -> Iterator[tuple[int, Placed]]:
        """Yields the batches of each dispatch, prefetched and placed on the devices.

        The end of a dispatch is a function of the step. A resumed run thus dispatches
        like a run that never stopped, and computes the same bits.

        Args:
            step: number of steps done.
            until: last step.

        Yields:
            The number of steps done after a dispatch, and its batches for `advance`.
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
        """Runs the steps of one dispatch.

        Args:
            state: the state before the dispatch, as `Parallel.localize` returns it. Its
                buffers are donated.
            batches: batches from `feed`.

        Returns:
            The state after the dispatch, and the metrics of its steps [steps, ...].
        """
        return compiled_steps(self.recipe, self.experiment.parallel)(state, batches)

    def _count(self, step: int, until: int) -> int:
        """Returns the number of steps in the next dispatch."""
        training, upkeep = self.experiment.training, self.experiment.upkeep
        marks = (
            training.steps_per_dispatch, upkeep.log_every, upkeep.checkpoint_every,
            upkeep.sample_every or training.num_steps,
            self.experiment.snapshot_every or training.num_steps,
        )  # fmt: skip
        return min(until - step, *(mark - step % mark for mark in marks))

    def start(self, step: int | None) -> dict[str, Array]:
        """Returns the parameters of `init` by name, if a state of this step needs them.

        Args:
            step: step of a checkpoint; None for a state at the beginning.

        Raises:
            InputError: the run of `init` does not fit.
        """
        adapts = self.recipe.adapter is not None
        if step is not None and not adapts:
            return {}
        shapes = state_shapes(self.recipe)
        return start_of(self.experiment, shapes.frozen if adapts else shapes.params)

    def initial_state(
        self,
        checkpoints: Checkpoints,
        step: int | None,
        start: dict[str, Array] | None = None,
    ) -> TrainState:
        """Returns a checkpoint's state; the initial state if `step` is None.

        Args:
            checkpoints: checkpoints of the run.
            step: step of the checkpoint, or None.
            start: result of the method `start` for this step, or None to call it.

        Raises:
            InputError: there is no such checkpoint, or the run of `init` does not fit.
        """
        parallel = self.experiment.parallel
        start = self.start(step) if start is None else start
        if step is None:
            return compiled_init(self.recipe, parallel)(start)
        shapes = state_shapes(self.recipe)
        frozen = with_names(shapes.frozen, start)
        shapes = shapes._replace(frozen=())
        found = checkpoints.restore(placed(shapes, parallel.shardings(shapes)), step)
        return found._replace(frozen=frozen)

    def sampling_params(self, state: TrainState) -> Params:
        """Returns the network's averaged parameters, with those of an adapter."""
        adapter = self.recipe.adapter
        if adapter is None:
            return state.ema
        return jax.jit(adapter.applied)(state.frozen, state.ema)

    @cached_property
    def _rows(self) -> np.ndarray:
        return self.experiment.parallel.rows(self.experiment.training.batch_size)


def data_info(experiment: Experiment, dataset: data.Dataset) -> DataInfo:
    """Returns shape, classes and fingerprint of the data for the model."""
    conditional = experiment.conditional and dataset.num_classes is not None
    return DataInfo(
        dataset.image_shape,
        dataset.num_classes if conditional else None,
        dataset.class_names if conditional else None,
        dataset.fingerprint(),
        data_range=PIXELS if dataset.moments is None else None,
        base=base_of(experiment),
    )
