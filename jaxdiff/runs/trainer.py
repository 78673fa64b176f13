"""An experiment with its data, ready to run any of its steps."""

from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import jax
import numpy as np

from jaxdiff import data
from jaxdiff.checks import any_last_signal, check_object
from jaxdiff.conditioning import Tokenizer
from jaxdiff.conditioning.own_tokenizer import tokenizer_digest
from jaxdiff.errors import InputError
from jaxdiff.parallel import Placed
from jaxdiff.runs.bucketed import check_sizes, check_squares, for_buckets
from jaxdiff.runs.data_of_run import load_data
from jaxdiff.runs.fine_tune import base_of, check_start, start_of
from jaxdiff.runs.own_text import with_tokens
from jaxdiff.runs.parts import Parts, read_parts
from jaxdiff.runs.vectors import with_vectors
from jaxdiff.storage.checkpoints import Checkpoints
from jaxdiff.storage.files import expanded
from jaxdiff.storage.read_state import by_name, digest, with_names
from jaxdiff.training.experiment import AnyExperiment, DataInfo, Experiment
from jaxdiff.training.initialize import (
    build_model,
    build_task,
    diffusion_of,
    placed,
    recipe_of,
    with_network,
)
from jaxdiff.training.model import Model
from jaxdiff.training.recipe import (
    Recipe,
    compiled_init,
    compiled_steps,
    state_shapes,
)
from jaxdiff.training.state import TrainState
from jaxdiff.training.task import Diffusion, Task
from jaxdiff.typing import PIXELS, Array, Batch, Network, Params


@dataclass(frozen=True)
class Trainer:
    """Parts of a training run.

    Attributes:
        experiment: the run's configuration; its data is `Arrays` if the dataset was
            passed.
        dataset: the training data.
        info: shape, classes and fingerprint of the training data.
        task: what is trained.
        parts: autoencoder and text encoders that made the latents, or None.
        frozen: parameters that training leaves unchanged, by name, of a task that does
            not read them itself.
        tokenizer: tokenizer of a network with a text encoder, or None.
    """

    experiment: AnyExperiment
    dataset: data.Dataset
    info: DataInfo
    task: Task
    parts: Parts | None = None
    frozen: Mapping[str, Array] = field(default_factory=dict)
    tokenizer: Tokenizer | None = None

    @classmethod
    def of(
        cls,
        experiment: AnyExperiment,
        dataset: data.Dataset | None = None,
        network: Network | None = None,
        frozen: Mapping[str, Array] | None = None,
    ) -> "Trainer":
        """Loads the data and builds the task; writes nothing to the run folder.

        Args:
            experiment: the run's configuration.
            dataset: training data; the experiment's data by default.
            network: a Flax module of your own instead of the experiment's network, for
                a diffusion model.
            frozen: parameters that training leaves unchanged, by name, for a task that
                does not read them itself.

        Raises:
            InputError: options do not fit each other, the data or the devices.
        """
        check_object("experiment", experiment, "training", "upkeep")
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
        if isinstance(experiment, Experiment):
            trainer = cls._of_diffusion(experiment, dataset, network)
        else:
            trainer = cls._of_any(experiment, dataset, frozen or {})
        trainer.task.check(trainer.batch(0))
        return trainer

    @classmethod
    def _of_diffusion(
        cls,
        experiment: Experiment,
        dataset: data.Dataset | None,
        network: Network | None,
    ) -> "Trainer":
        # The signal of the last level of a published model is not the user's choice.
        with any_last_signal() if experiment.init else nullcontext():
            schedule = experiment.schedule.build()
        experiment.check(schedule)
        if dataset is None:
            dataset = load_data(experiment, "train")
        if len(dataset.buckets) > 1:
            experiment = for_buckets(experiment, dataset, network)
        tokenizer = None
        if network is None:
            dataset, tokenizer = with_tokens(experiment, dataset)
        experiment, dataset = with_vectors(experiment, dataset)
        info = with_network(data_info(experiment, dataset, tokenizer), network)
        experiment.check_guidance(info)
        model = build_model(experiment, info, network, schedule)
        parts = None
        if isinstance(experiment.data, data.Latents):
            parts = read_parts(expanded(experiment.data.path))
        check_start(experiment, parts, dataset.image_shape)
        if network is not None:
            check_sizes(model, dataset)
        task = diffusion_of(experiment, model)
        return cls(experiment, dataset, info, task, parts, tokenizer=tokenizer)

    @classmethod
    def _of_any(
        cls,
        experiment: AnyExperiment,
        dataset: data.Dataset | None,
        frozen: Mapping[str, Array],
    ) -> "Trainer":
        if dataset is None:
            dataset = load_data(experiment, "train")
        check_squares(dataset)
        dataset, tokenizer = with_tokens(experiment, dataset)
        experiment, dataset = with_vectors(experiment, dataset)
        info = data_info(experiment, dataset, tokenizer)
        if frozen:
            info = info._replace(base=digest(frozen))
        task = build_task(experiment, info)
        trainer = cls(
            experiment, dataset, info, task, frozen=frozen, tokenizer=tokenizer
        )
        wanted = by_name(state_shapes(trainer.recipe).frozen)
        if wanted.keys() != frozen.keys():
            raise InputError(
                f"frozen must hold the {len(wanted)} arrays of the network that stays "
                f"unchanged, got {len(frozen)}. The command line reads them."
            )
        return trainer

    @property
    def model(self) -> Model:
        """Diffusion model; only the task `Diffusion` has one."""
        assert isinstance(self.task, Diffusion), "a diffusion model"
        return self.task.model

    def batch(self, step: int, rows: np.ndarray | None = None) -> Batch:
        """Returns the batch of a step, with the condition that the task takes.

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
        return self.task.taken(batch)

    @cached_property
    def recipe(self) -> Recipe:
        """Task together with its training options; compiled once."""
        return recipe_of(self.experiment, self.task)

    def feed(self, step: int, until: int) -> Iterator[tuple[int, Placed]]:
        """Yields the batches of each dispatch, prefetched and placed on the devices.

        The end of a dispatch is a function of the step. A resumed run thus dispatches
        like a run that never stopped, and computes the same bits.

        Args:
            step: number of steps done.
            until: last step.

        Yields:
            The number of steps done after a dispatch, and its batches for `advance`.
            They have one shape.
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

    @property
    def has_own_data(self) -> bool:
        """True if the dataset was passed, so that no other split of it is known."""
        return isinstance(self.experiment.data, data.Arrays)

    def picture_due(self, step: int) -> bool:
        """Returns True if a picture is due after this step; by the step alone."""
        every, last = self.experiment.upkeep.sample_every, self.experiment.training
        return every is not None and (step % every == 0 or step == last.num_steps)

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
        """Returns parameters by name that a state of this step does not have itself.

        They are those of `init`, and those that training leaves unchanged.

        Args:
            step: step of a checkpoint; None for a state at the beginning.

        Raises:
            InputError: the run of `init` does not fit.
        """
        freezes = self.task.freezes
        if step is not None and not freezes:
            return {}
        shapes = state_shapes(self.recipe)
        if isinstance(self.experiment, Experiment):
            wanted = shapes.frozen if freezes else shapes.params
            return start_of(self.experiment, wanted)
        frozen = dict(self.frozen)
        return jax.device_put(frozen, self.experiment.parallel.shardings(frozen))

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
        """Returns the trained model's averaged parameters, with those of an adapter."""
        return self.task.sampling(state.ema, state.frozen)

    @cached_property
    def _rows(self) -> np.ndarray:
        return self.experiment.parallel.rows(self.experiment.training.batch_size)


def data_info(
    experiment: AnyExperiment,
    dataset: data.Dataset,
    tokenizer: Tokenizer | None = None,
) -> DataInfo:
    """Returns shape, classes and fingerprint of the data for the model.

    Args:
        experiment: the run's configuration.
        dataset: the training data.
        tokenizer: tokenizer of a text encoder that is trained, or None.
    """
    conditional = experiment.conditional and dataset.num_classes is not None
    return DataInfo(
        dataset.image_shape,
        dataset.num_classes if conditional else None,
        dataset.class_names if conditional else None,
        dataset.fingerprint(),
        data_range=PIXELS if dataset.moments is None else None,
        base=base_of(experiment),
        tokenizer=None if tokenizer is None else tokenizer_digest(tokenizer),
    )
