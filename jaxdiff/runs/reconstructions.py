"""Grids of reconstructions during training, always of the same images."""

from collections.abc import Mapping
from functools import partial
from io import BytesIO

import numpy as np

from jaxdiff import plots
from jaxdiff.data import to_float, to_uint8
from jaxdiff.runs.autoencoder import CHUNK, reconstructed
from jaxdiff.runs.data_of_run import held_out_data
from jaxdiff.runs.trainer import Trainer
from jaxdiff.training.autoencoder import Autoencoding
from jaxdiff.training.state import TrainState

ROWS, COLUMNS = 4, 8
"""Rows of pairs, and images per row."""


class Reconstructions:
    """Grids of held-out images, each above its reconstruction by averaged parameters.

    Args:
        trainer: the trainer of the run. Without held-out images, the grids show
            training images.

    Raises:
        InputError: a package for pictures is missing.
    """

    def __init__(self, trainer: Trainer):
        plots.check_installed()
        task, dataset = trainer.task, trainer.dataset
        assert isinstance(task, Autoencoding), "an autoencoder"
        if not trainer.has_own_data:
            held_out = held_out_data(trainer.experiment, dataset)
            dataset = held_out if len(held_out) else dataset
        self._trainer, self._task = trainer, task
        self._images = np.asarray(dataset.images[: ROWS * COLUMNS])

    def due(self, step: int) -> bool:
        """Returns True if a grid is due after this step; depends on the step alone."""
        return self._trainer.picture_due(step)

    def picture(self, state: TrainState) -> bytes:
        """Draws the grid of a state, as a PNG; all processes take part."""
        params = self._trainer.sampling_params(state)
        fn = partial(reconstructed, self._task.network)
        parallel = self._trainer.experiment.parallel
        found = parallel.map_chunks(fn, params, to_float(self._images), CHUNK)
        png = BytesIO()
        save_pairs(png, self._images, to_uint8(found))
        return png.getvalue()


def save_pairs(path: plots.PathLike, images: np.ndarray, found: np.ndarray) -> None:
    """Writes a grid of images, each above its reconstruction, uint8 [num, ...]."""
    save_forms(path, {"image": images, "reconstruction": found})


def save_forms(path: plots.PathLike, forms: Mapping[str, np.ndarray]) -> None:
    """Writes a grid of images in several forms, one form below the other.

    Args:
        path: path of the PNG, or an open binary file.
        forms: images of each form, uint8 [num, height, width, channels], by its label.
    """
    first, *_ = forms.values()
    columns = min(COLUMNS, len(first))
    num = len(first) // columns * columns
    rows = [a[:num].reshape(-1, columns, *a.shape[1:]) for a in forms.values()]
    grid = np.stack(rows, axis=1)
    labels = list(forms) * len(grid)
    plots.save_grid(path, grid.reshape(-1, *first.shape[1:]), row_labels=labels)
