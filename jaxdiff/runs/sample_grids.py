"""Grids of samples while a run trains, always from the same noise."""

from dataclasses import replace
from io import BytesIO

import numpy as np

from jaxdiff import plots
from jaxdiff.data import to_uint8
from jaxdiff.runs.generate import check_request, generate
from jaxdiff.runs.trainer import Trainer
from jaxdiff.samplers import DPMSolver, Trailing
from jaxdiff.training.state import TrainState

CLASSES, COLUMNS = 10, 8
"""So many classes at most, and images of each; without classes, rows and columns."""


class SampleGrids:
    """Draws the grids of a training run, by the average of the parameters.

    Image i always starts from the noise of seed 0 and index i, and DPM-Solver++ leads
    it to a sample without any noise on the way (Lu et al. 2022b): what differs between
    two grids is what the network has learnt.

    Args:
        trainer: the run.

    Raises:
        InputError: a package for pictures is missing, or the sampler does not fit.
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
        """Whether there is a grid of this step: a function of the step alone."""
        experiment = self._trainer.experiment
        every, last = experiment.upkeep.sample_every, experiment.training.num_steps
        return every is not None and (step % every == 0 or step == last)

    def picture(self, state: TrainState) -> bytes:
        """The grid of a state that is on the devices, as a PNG.

        All processes take part, and get the same.
        """
        trainer = self._trainer
        images = generate(
            trainer.model, state.ema, self._sampling, self._labels, 0, num=self._num,
            parallel=trainer.experiment.parallel,
        )  # fmt: skip
        png = BytesIO()
        names = trainer.info.class_names
        plots.save_samples(png, to_uint8(images), self._labels, names, COLUMNS)
        return png.getvalue()
