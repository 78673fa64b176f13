"""Grids of enlargements during training, always of the same images and noise."""

from io import BytesIO

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff import plots
from jaxdiff.conditioning.low_resolution import LowResolution
from jaxdiff.data import to_float, to_uint8
from jaxdiff.denoisers.network import taken
from jaxdiff.runs.data_of_run import held_out_data
from jaxdiff.runs.enlarge import condition_of_rows
from jaxdiff.runs.generate import check_request
from jaxdiff.runs.reconstructions import COLUMNS, save_forms
from jaxdiff.runs.sample_grids import drawn_or_damaged, grid_sampling
from jaxdiff.runs.trainer import Trainer
from jaxdiff.training.state import TrainState
from jaxdiff.training.task import Diffusion
from jaxdiff.typing import Params

ROWS = 2
"""Rows of triples: small image, enlargement, image."""


class EnlargementGrids:
    """Grids of small images, their enlargements by averaged parameters, and the truth.

    The small images are those of held-out images, without noise. Without held-out
    images, they are those of training images.

    Args:
        trainer: the trainer of the run.

    Raises:
        InputError: a package for pictures is missing, or the sampler does not fit the
            schedule.
    """

    def __init__(self, trainer: Trainer):
        plots.check_installed()
        task, shape = trainer.task, trainer.info.image_shape
        dataset = trainer.dataset.of_shape(shape)
        assert isinstance(task, Diffusion), "a diffusion model"
        assert isinstance(task.condition, LowResolution), "one of super-resolution"
        if not trainer.has_own_data:
            held_out = held_out_data(trainer.experiment, dataset).of_shape(shape)
            dataset = held_out if len(held_out) else dataset
        rows = np.arange(min(ROWS * COLUMNS, len(dataset)))
        self._trainer, self._sampling = trainer, grid_sampling(trainer)
        self._images = np.asarray(dataset.images[: len(rows)])
        low = task.condition
        small = low.reduced(jnp.asarray(to_float(self._images)))
        none = jnp.zeros(len(rows))
        made = low.condition(small, none, jnp.zeros_like(small))
        given = condition_of_rows(dataset, rows, trainer.info, trainer.tokenizer)
        whole = given._replace(image=made.image, image_level=made.image_level)
        found = taken(whole, trainer.model.network)
        self._condition = jax.tree.map(np.asarray, found)
        self._small = shown(np.asarray(small), low.factor)
        check_request(trainer.model, self._sampling, self._condition, len(rows), 0)

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
        found = drawn_or_damaged(
            self._trainer, params, self._sampling, self._condition, len(self._images)
        )
        png = BytesIO()
        forms = {
            "small image": self._small, "enlargement": to_uint8(found),
            "image": self._images,
        }  # fmt: skip
        save_forms(png, forms)
        return png.getvalue()


def shown(small: np.ndarray, factor: int) -> np.ndarray:
    """Returns small images in [-1, 1], enlarged pixel by pixel, uint8 [num, ...]."""
    return to_uint8(small).repeat(factor, axis=1).repeat(factor, axis=2)
