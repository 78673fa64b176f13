"""Grids of a diffusion model during its training, always from the same noise."""

import warnings
from dataclasses import replace
from io import BytesIO

import numpy as np

from jaxdiff import plots
from jaxdiff.data import Dataset
from jaxdiff.errors import NonFiniteSamples
from jaxdiff.losses.few_steps import own_sampler
from jaxdiff.parallel.processes import is_first
from jaxdiff.runs.data_of_run import held_out_data
from jaxdiff.runs.generate import check_request, generate
from jaxdiff.runs.trainer import Trainer
from jaxdiff.samplers import DPMSolver, Trailing
from jaxdiff.training.experiment import Experiment, Sampling
from jaxdiff.training.state import TrainState
from jaxdiff.typing import Condition, Params


class ModelGrids:
    """Grids of a training run, drawn with the averaged parameters.

    Image i always starts from the noise of seed 0 and index i. DPM-Solver++ adds no
    noise on the way (Lu et al. 2022b). Two grids thus differ only in what the network
    has learned between them. A model of few steps is drawn by its own sampler.

    Args:
        trainer: the trainer of the run.
        condition: condition of the images.
        num: number of images.
        base: condition of guidance's other side; None for the usual one.

    Raises:
        InputError: a package for pictures is missing, or the sampler does not fit the
            schedule.
    """

    def __init__(
        self,
        trainer: Trainer,
        condition: Condition,
        num: int,
        base: Condition | None = None,
    ):
        plots.check_installed()
        self._trainer, self._sampling = trainer, grid_sampling(trainer)
        self._condition, self._num, self._base = condition, num, base
        check_request(trainer.model, self._sampling, condition, num, 0)

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

        All processes take part and get the same PNG. Numbers that are not finite become
        0, or large.

        Warns:
            UserWarning: some samples are not finite.
        """
        trainer, png = self._trainer, BytesIO()
        try:
            found = generate(
                trainer.model, params, self._sampling, self._condition, 0,
                num=self._num, base=self._base, parallel=trainer.experiment.parallel,
            )  # fmt: skip
        except NonFiniteSamples as error:
            if is_first():
                warnings.warn(f"the sample grid is damaged: {error}", stacklevel=2)
            found = np.nan_to_num(error.images)
        self._save(png, found)
        return png.getvalue()

    def _save(self, png: BytesIO, samples: np.ndarray) -> None:
        """Writes the grid of these samples, [num, ...], as a PNG."""
        raise NotImplementedError


def grid_sampling(trainer: Trainer) -> Sampling:
    """Returns the sampling of the grids; see `ModelGrids`."""
    experiment = trainer.experiment
    assert isinstance(experiment, Experiment), "a diffusion model"
    if own_sampler(experiment.objective) is not None:
        return experiment.sampling
    steps = experiment.upkeep.sample_steps
    steps = min(steps, trainer.model.schedule.num_steps)
    sampler = DPMSolver(spacing=Trailing(num_steps=steps))
    return replace(experiment.sampling, sampler=sampler)


def shown_data(trainer: Trainer) -> Dataset:
    """Returns the images of grids: held-out ones, or training images if none are."""
    dataset = trainer.dataset.of_shape(trainer.info.image_shape)
    if trainer.has_own_data:
        return dataset
    held_out = held_out_data(trainer.experiment, dataset)
    held_out = held_out.of_shape(trainer.info.image_shape)
    return held_out if len(held_out) else dataset
