"""Pictures during a training, by its task."""

from collections.abc import Callable
from typing import Any, Protocol

from jaxdiff.runs.enlargement_grids import EnlargementGrids
from jaxdiff.runs.model_grids import ModelGrids
from jaxdiff.runs.reconstructions import Reconstructions
from jaxdiff.runs.sample_grids import SampleGrids
from jaxdiff.runs.trainer import Trainer
from jaxdiff.runs.variation_grids import VariationGrids
from jaxdiff.runs.vectors import is_decoder
from jaxdiff.training.autoencoder import Autoencoding
from jaxdiff.training.prior_experiment import PriorExperiment
from jaxdiff.training.state import TrainState
from jaxdiff.training.task import Diffusion


class Previews(Protocol):
    """Pictures of a training, all of the same examples."""

    def due(self, step: int) -> bool:
        """Returns True if a picture is due after this step; by the step alone."""
        ...

    def picture(self, state: TrainState) -> bytes:
        """Draws the picture of a state, as a PNG; all processes take part."""
        ...


def grids_of(trainer: Trainer) -> ModelGrids:
    """Returns the grids of a diffusion model: samples, enlargements or variations."""
    assert isinstance(trainer.task, Diffusion), "a diffusion model"
    if is_decoder(trainer.experiment):
        return VariationGrids(trainer)
    draws = SampleGrids if trainer.task.condition is None else EnlargementGrids
    return draws(trainer)


PREVIEWS: dict[type[Any], Callable[[Trainer], Previews]] = {
    Diffusion: grids_of,
    Autoencoding: Reconstructions,
}
"""Pictures of each task that has some."""


def previews_of(trainer: Trainer) -> Previews | None:
    """Returns the pictures that a training draws, or None."""
    every = trainer.experiment.upkeep.sample_every
    if every is None or isinstance(trainer.experiment, PriorExperiment):
        return None
    draws = PREVIEWS.get(type(trainer.task))
    return None if draws is None else draws(trainer)
