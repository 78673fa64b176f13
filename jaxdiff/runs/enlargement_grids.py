"""Grids of enlargements during training, always of the same images and noise."""

from io import BytesIO

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.conditioning.low_resolution import LowResolution
from jaxdiff.data import to_float, to_uint8
from jaxdiff.denoisers.network import taken
from jaxdiff.runs.enlarge import condition_of_rows
from jaxdiff.runs.model_grids import ModelGrids, shown_data
from jaxdiff.runs.reconstructions import COLUMNS, save_forms
from jaxdiff.runs.trainer import Trainer
from jaxdiff.training.task import Diffusion

ROWS = 2
"""Rows of triples: small image, enlargement, image."""


class EnlargementGrids(ModelGrids):
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
        task = trainer.task
        assert isinstance(task, Diffusion), "a diffusion model"
        assert isinstance(task.condition, LowResolution), "one of super-resolution"
        dataset, low = shown_data(trainer), task.condition
        rows = np.arange(min(ROWS * COLUMNS, len(dataset)))
        self._images = np.asarray(dataset.images[: len(rows)])
        small = low.reduced(jnp.asarray(to_float(self._images)))
        none = jnp.zeros(len(rows))
        made = low.condition(small, none, jnp.zeros_like(small))
        given = condition_of_rows(dataset, rows, trainer.info, trainer.tokenizer)
        whole = given._replace(image=made.image, image_level=made.image_level)
        found = taken(whole, trainer.model.network)
        self._small = shown(np.asarray(small), low.factor)
        super().__init__(trainer, jax.tree.map(np.asarray, found), len(rows))

    def _save(self, png: BytesIO, samples: np.ndarray) -> None:
        forms = {
            "small image": self._small, "enlargement": to_uint8(samples),
            "image": self._images,
        }  # fmt: skip
        save_forms(png, forms)


def shown(small: np.ndarray, factor: int) -> np.ndarray:
    """Returns small images in [-1, 1], enlarged pixel by pixel, uint8 [num, ...]."""
    return to_uint8(small).repeat(factor, axis=1).repeat(factor, axis=2)
