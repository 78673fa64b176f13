"""Grids of samples during training, always from the same noise."""

import warnings
from dataclasses import replace
from io import BytesIO

import jax
import numpy as np

from jaxdiff import plots
from jaxdiff.data import to_uint8
from jaxdiff.denoisers.network import taken
from jaxdiff.errors import NonFiniteSamples
from jaxdiff.losses.few_steps import own_sampler
from jaxdiff.parallel.processes import is_first
from jaxdiff.runs.generate import check_request, generate
from jaxdiff.runs.own_text import condition_of
from jaxdiff.runs.trainer import Trainer
from jaxdiff.samplers import DPMSolver, Trailing
from jaxdiff.training.experiment import Experiment, Sampling
from jaxdiff.training.state import TrainState
from jaxdiff.typing import Condition, Params

CLASSES, COLUMNS = 10, 8
"""Largest number of classes, and images of each; rows and columns without classes."""
TEXTS, PER_TEXT = 8, 4
"""Largest number of captions, and images of each."""


class SampleGrids:
    """Sample grids of a training run, drawn with the averaged parameters.

    Image i always starts from the noise of seed 0 and index i. DPM-Solver++ adds no
    noise on the way (Lu et al. 2022b). Two grids thus differ only in what the network
    has learned between them. A model of few steps is drawn by its own sampler.

    Args:
        trainer: the trainer of the run.

    Raises:
        InputError: a package for pictures is missing, or the sampler does not fit the
            schedule.
    """

    def __init__(self, trainer: Trainer):
        plots.check_installed()
        self._sampling = grid_sampling(trainer)
        self._trainer = trainer
        self._base: Condition | None = None
        self._names: tuple[str, ...] | None = None
        self._texts: list[str] | None = None
        self._has_rows = True
        if trainer.dataset.texts is not None:
            self._texts, self._condition, self._base = _texts(trainer)
            self._rows, self._columns = len(self._texts), PER_TEXT
        else:
            classes, self._names = trainer.info.num_classes, trainer.info.class_names
            self._rows = CLASSES if classes is None else min(classes, CLASSES)
            self._columns = COLUMNS
            self._has_rows = classes is not None
            labels = self._row_of_each if self._has_rows else None
            self._condition = Condition.of(labels)
        num = self._rows * self._columns
        check_request(trainer.model, self._sampling, self._condition, num, 0)

    @property
    def _row_of_each(self) -> np.ndarray:
        """Row of each image in the grid."""
        return np.arange(self._rows * self._columns) % self._rows

    def due(self, step: int) -> bool:
        """Returns True if a grid is due after this step; depends on the step alone."""
        return self._trainer.picture_due(step)

    def picture(self, state: TrainState) -> bytes:
        """Draws the grid of a state, as a PNG; see `drawn`.

        Args:
            state: train state on the devices, as `Parallel.globalize` returns it.
        """
        return self.drawn(self._trainer.sampling_params(state))

    def drawn(self, params: Params) -> bytes:
        """Draws the grid of a network's parameters, as a PNG.

        All processes take part and get the same PNG.

        Warns:
            UserWarning: some samples are not finite.
        """
        trainer = self._trainer
        found = drawn_or_damaged(
            trainer, params, self._sampling, self._condition,
            self._rows * self._columns, self._base,
        )  # fmt: skip
        images = found if trainer.parts is None else trainer.parts.decode(found)
        png = BytesIO()
        if self._texts is not None:
            order = np.argsort(self._row_of_each, kind="stable")
            texts = [self._texts[row] for row in self._row_of_each[order]]
            plots.save_captioned(
                png, to_uint8(images[order]), texts, columns=self._columns
            )
            return png.getvalue()
        labels = self._row_of_each if self._has_rows else None
        plots.save_samples(png, to_uint8(images), labels, self._names, self._columns)
        return png.getvalue()


def grid_sampling(trainer: Trainer) -> Sampling:
    """Returns the sampling of the grids; see `SampleGrids`."""
    experiment = trainer.experiment
    assert isinstance(experiment, Experiment), "a diffusion model"
    if own_sampler(experiment.objective) is not None:
        return experiment.sampling
    steps = experiment.upkeep.sample_steps
    steps = min(steps, trainer.model.schedule.num_steps)
    sampler = DPMSolver(spacing=Trailing(num_steps=steps))
    return replace(experiment.sampling, sampler=sampler)


def drawn_or_damaged(
    trainer: Trainer,
    params: Params,
    sampling: Sampling,
    condition: Condition,
    num: int,
    base: Condition | None = None,
) -> np.ndarray:
    """Draws the images of a grid; numbers that are not finite become 0, or large.

    Warns:
        UserWarning: some samples are not finite.
    """
    try:
        return generate(
            trainer.model, params, sampling, condition, 0, num=num, base=base,
            parallel=trainer.experiment.parallel,
        )  # fmt: skip
    except NonFiniteSamples as error:
        if is_first():
            warnings.warn(f"the sample grid is damaged: {error}", stacklevel=3)
        return np.nan_to_num(error.images)


def _texts(trainer: Trainer) -> tuple[list[str], Condition, Condition]:
    """Returns the texts of a grid, and the conditions with and without them.

    The texts are the prompts of the options, or the first captions of the data.
    """
    dataset, network = trainer.dataset, trainer.model.network
    texts, asked = dataset.texts, trainer.experiment.upkeep.sample_prompts
    assert texts is not None, "the data has captions"
    assert dataset.captions is not None, "the data has captions"
    if asked and trainer.tokenizer is not None:
        rows = condition_of(trainer.tokenizer, asked)
        none, names = condition_of(trainer.tokenizer, [""] * len(asked)), list(asked)
    elif asked and trainer.parts is not None:
        height, width, _ = trainer.model.image_shape
        factor = trainer.parts.autoencoder.factor
        prompts, size = trainer.parts.prompts, (height * factor, width * factor)
        rows = prompts(asked, size)
        none, names = prompts.negative(rows, None, size), list(asked)
    else:
        first = {one[0]: i for i, one in enumerate(dataset.captions) if one[0]}
        names = list(first)[:TEXTS] or [""]
        places = [first.get(name, 0) for name in names]
        rows = texts.of(texts.numbers[texts.first[places]])
        none = texts.of(np.zeros(len(names), int))

    def of_grid(condition: Condition) -> Condition:
        each = np.arange(len(names) * PER_TEXT) % len(names)
        found = taken(condition, network)
        return jax.tree.map(lambda part: np.asarray(part)[each], found)

    return names, of_grid(rows), of_grid(none)
