"""Grids of variations during the training of unCLIP's decoder, of the same images."""

from io import BytesIO

import numpy as np

from jaxdiff.data import to_uint8
from jaxdiff.runs.model_grids import ModelGrids, shown_data
from jaxdiff.runs.reconstructions import COLUMNS, save_forms
from jaxdiff.runs.trainer import Trainer
from jaxdiff.runs.vectors import read_towers, vectors_of
from jaxdiff.typing import Condition

ROWS = 2
"""Rows of triples: image, and two variations."""


class VariationGrids(ModelGrids):
    """Grids of images, each with two variations by averaged parameters.

    The images are held-out ones, or training images if none are held out.

    Args:
        trainer: the trainer of the run.

    Raises:
        InputError: a package for pictures is missing, or the sampler does not fit the
            schedule.
    """

    def __init__(self, trainer: Trainer):
        self._images = np.asarray(shown_data(trainer).images[: ROWS * COLUMNS])
        towers = read_towers(trainer.experiment, trainer.info.base)
        vectors = vectors_of(towers, self._images, quiet=True)
        condition = Condition(vector=np.tile(vectors, (2, 1)))
        super().__init__(trainer, condition, 2 * len(self._images))

    def _save(self, png: BytesIO, samples: np.ndarray) -> None:
        num, found = len(self._images), to_uint8(samples)
        forms = {
            "image": self._images, "variation": found[:num], "another": found[num:],
        }  # fmt: skip
        save_forms(png, forms)
