"""Grids of samples during training."""

from io import BytesIO

import jax
import numpy as np

from jaxdiff import plots
from jaxdiff.data import to_uint8
from jaxdiff.denoisers.network import taken
from jaxdiff.runs.model_grids import ModelGrids
from jaxdiff.runs.own_text import condition_of
from jaxdiff.runs.trainer import Trainer
from jaxdiff.typing import Condition

CLASSES, COLUMNS = 10, 8
"""Largest number of classes, and images of each; rows and columns without classes."""
TEXTS, PER_TEXT = 8, 4
"""Largest number of captions, and images of each."""


class SampleGrids(ModelGrids):
    """Grids of samples by class or caption, or without a condition.

    Args:
        trainer: the trainer of the run.

    Raises:
        InputError: a package for pictures is missing, or the sampler does not fit the
            schedule.
    """

    def __init__(self, trainer: Trainer):
        self._names: tuple[str, ...] | None = None
        self._texts: list[str] | None = None
        self._has_rows, base = True, None
        if trainer.dataset.texts is not None:
            self._texts, condition, base = _texts(trainer)
            self._rows, self._columns = len(self._texts), PER_TEXT
        else:
            classes, self._names = trainer.info.num_classes, trainer.info.class_names
            self._rows = CLASSES if classes is None else min(classes, CLASSES)
            self._columns = COLUMNS
            self._has_rows = classes is not None
            condition = Condition.of(self._row_of_each if self._has_rows else None)
        super().__init__(trainer, condition, self._rows * self._columns, base)

    @property
    def _row_of_each(self) -> np.ndarray:
        """Row of each image in the grid."""
        return np.arange(self._rows * self._columns) % self._rows

    def _save(self, png: BytesIO, samples: np.ndarray) -> None:
        parts = self._trainer.parts
        images = to_uint8(samples if parts is None else parts.decode(samples))
        if self._texts is not None:
            order = np.argsort(self._row_of_each, kind="stable")
            texts = [self._texts[row] for row in self._row_of_each[order]]
            plots.save_captioned(png, images[order], texts, columns=self._columns)
            return
        labels = self._row_of_each if self._has_rows else None
        plots.save_samples(png, images, labels, self._names, self._columns)


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
