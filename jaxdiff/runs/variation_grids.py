"""Grids of variations during the training of unCLIP's decoder, of the same images."""

from io import BytesIO

import numpy as np

from jaxdiff import plots
from jaxdiff.data import to_uint8
from jaxdiff.runs.data_of_run import held_out_data
from jaxdiff.runs.generate import check_request
from jaxdiff.runs.reconstructions import COLUMNS, save_forms
from jaxdiff.runs.sample_grids import drawn_or_damaged, grid_sampling
from jaxdiff.runs.trainer import Trainer
from jaxdiff.runs.vectors import read_towers, vectors_of
from jaxdiff.training.state import TrainState
from jaxdiff.typing import Condition, Params

ROWS = 2
"""Rows of triples: image, and two variations."""


class VariationGrids:
    """Grids of images, each with two variations by averaged parameters.

    The images are held-out ones, or training images if none are held out.

    Args:
        trainer: the trainer of the run.

    Raises:
        InputError: a package for pictures is missing, or the sampler does not fit the
            schedule.
    """

    def __init__(self, trainer: Trainer):
        plots.check_installed()
        dataset = trainer.dataset
        if not trainer.has_own_data:
            held_out = held_out_data(trainer.experiment, dataset)
            dataset = held_out if len(held_out) else dataset
        num = min(ROWS * COLUMNS, len(dataset))
        self._images = np.asarray(dataset.images[:num])
        self._trainer, self._sampling = trainer, grid_sampling(trainer)
        towers = read_towers(trainer.experiment, trainer.info.base)
        vectors = vectors_of(towers, self._images, quiet=True)
        self._condition = Condition(vector=np.tile(vectors, (2, 1)))
        check_request(trainer.model, self._sampling, self._condition, 2 * num, 0)

    def due(self, step: int) -> bool:
        """Returns True if a grid is due after this step; depends on the step alone."""
        return self._trainer.picture_due(step)

    def picture(self, state: TrainState) -> bytes:
        """Draws the grid of a state, as a PNG; all processes take part."""
        return self.drawn(self._trainer.sampling_params(state))

    def drawn(self, params: Params) -> bytes:
        """Draws the grid of a network's parameters, as a PNG.

        Warns:
            UserWarning: some samples are not finite.
        """
        num = len(self._images)
        found = to_uint8(
            drawn_or_damaged(
                self._trainer, params, self._sampling, self._condition, 2 * num
            )
        )
        png = BytesIO()
        forms = {
            "image": self._images, "variation": found[:num], "another": found[num:],
        }  # fmt: skip
        save_forms(png, forms)
        return png.getvalue()
