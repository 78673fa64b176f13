"""Grids of samples during training, always from the same noise."""

import warnings
from dataclasses import replace
from io import BytesIO

import numpy as np

from jaxdiff import plots
from jaxdiff.data import to_uint8
from jaxdiff.errors import NonFiniteSamples
from jaxdiff.parallel.processes import is_first
from jaxdiff.runs.generate import check_request, generate
from jaxdiff.runs.trainer import Trainer
from jaxdiff.samplers import DPMSolver, Trailing
from jaxdiff.training.state import TrainState

CLASSES, COLUMNS = 10, 8
"""Largest number of classes, and images of each; rows and columns without classes."""


class SampleGrids:
    """Sample grids of a training run, drawn with the averaged parameters.

    Image i always starts from the noise of seed 0 and index i. DPM-Solver++ adds no
    noise on the way (Lu et al. 2022b). Two grids thus differ only in what the network
    has learned between them.

    Args:
        trainer: the trainer of the run.

    Raises:
        InputError: a package for pictures is missing, or the sampler does not fit the
            schedule.
    """

    def __init__(self, trainer: Trainer):
        plots.check_installed()
        experiment, upkeep = trainer.experiment, trainer.experiment.upkeep
        steps = min(upkeep.sample_steps, trainer.model.schedule.num_steps)
        sampler = DPMSolver(spacing=Trailing(num_steps=steps))
        self._sampling = replace(experiment.sampling, sampler=sampler)
        classes = trainer.info.num_classes
        rows = CLASSES if classes is None else min(classes, CLASSES)
        self._num = rows * COLUMNS
        self._labels = None if classes is None else np.arange(self._num) % rows
        self._trainer = trainer
        check_request(trainer.model, self._sampling, self._labels, self._num, 0)

    def due(self, step: int) -> bool:
        """Returns True if a grid is due after this step; depends on the step alone."""
        experiment = self._trainer.experiment
        every, last = experiment.upkeep.sample_every, experiment.training.num_steps
        return every is not None and (step % every == 0 or step == last)

    def picture(self, state: TrainState) -> bytes:
        """Draws the grid of a state, as a PNG.

        All processes take part and get the same PNG.

        Args:
            state: train state on the devices, as `Parallel.globalize` returns it.

        Warns:
            UserWarning: some samples are not finite.
        """
        trainer = self._trainer
        try:
            images = generate(
                trainer.model, state.ema, self._sampling, self._labels, 0,
                num=self._num, parallel=trainer.experiment.parallel,
            )  # fmt: skip
        except NonFiniteSamples as error:
            if is_first():
                warnings.warn(f"the sample grid is damaged: {error}", stacklevel=2)
            images = np.nan_to_num(error.images)
        png = BytesIO()
        names = trainer.info.class_names
        plots.save_samples(png, to_uint8(images), self._labels, names, COLUMNS)
        return png.getvalue()
