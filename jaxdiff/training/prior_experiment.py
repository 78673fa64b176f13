"""Options of the training of unCLIP's prior: vectors of images from texts.

The prior is a diffusion model of the vectors of trained towers, given a text (Ramesh et
al. 2022, section 2.2). It predicts the vector itself, x_0.
"""

from dataclasses import dataclass, field

from jaxdiff.checks import DiskPath, Seed, Share
from jaxdiff.data import Data, Emoji, Latents
from jaxdiff.denoisers.predictions import X0, Prediction
from jaxdiff.errors import InputError
from jaxdiff.networks.prior import PriorConfig
from jaxdiff.parallel import Parallel, Pmap
from jaxdiff.samplers import DPMSolver, Trailing
from jaxdiff.schedules import ScheduleOptions
from jaxdiff.schedules.discrete import Cosine
from jaxdiff.training.experiment import (
    AnyExperiment,
    DataInfo,
    Sampling,
    Training,
    Upkeep,
)
from jaxdiff.training.model import Model
from jaxdiff.training.optimizer import Optimizer
from jaxdiff.training.task import Diffusion


@dataclass(frozen=True, kw_only=True)
class PriorExperiment(AnyExperiment):
    """All options that define a run of a prior, for images and their captions."""

    data: Data = field(default_factory=Emoji)
    """Dataset with captions."""
    towers: DiskPath = ""
    """Run folder of the towers, which train-towers wrote for images of this size."""
    caption_dropout: Share = 0.1
    """Rate at which training replaces a caption by no caption; guidance needs it above
    0."""
    schedule: ScheduleOptions = field(default_factory=Cosine)
    """Noise schedule."""
    prediction: Prediction = field(default_factory=X0)
    """Quantity that the network predicts."""
    network: PriorConfig = field(
        default_factory=lambda: PriorConfig(
            width=256, heads=4, layers=4, features=128, text_features=128, length=24
        )
    )
    """Network. Training takes features, text_features and length from the towers."""
    optimizer: Optimizer = field(
        default_factory=lambda: Optimizer(
            learning_rate=3e-4, warmup_steps=200, decay="cosine", weight_decay=0.01
        )
    )
    """Optimizer."""
    training: Training = field(
        default_factory=lambda: Training(
            num_steps=4000, batch_size=128, ema_decay=0.999
        )
    )
    """Number of steps, batches, averages, and the policy for non-finite steps."""
    parallel: Parallel = field(default_factory=Pmap)
    """Layout of the devices; it changes the result only by rounding."""
    seed: Seed = 0
    """Seed of all randomness of training."""
    upkeep: Upkeep = field(
        default_factory=lambda: Upkeep(log_every=50, checkpoint_every=500)
    )
    """Intervals of logs and checkpoints."""
    sampling: Sampling = field(
        default_factory=lambda: Sampling(
            sampler=DPMSolver(spacing=Trailing(num_steps=20)), guidance=2.0
        )
    )
    """Options for sampling."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.data, Latents):
            raise InputError(
                "data must be images for a prior, got latents. Name the images with "
                "--data."
            )

    def task_of(self, info: DataInfo) -> Diffusion:
        """Returns the task for vectors of this description.

        Raises:
            InputError: If the options do not fit the vectors.
        """
        return Diffusion(self.model_of(info))

    def model_of(self, info: DataInfo) -> Model:
        """Returns the model for vectors of this description; see `task_of`."""
        schedule = self.schedule.build()
        self.sampling.sampler.grid(schedule)
        return Model(
            self.network.build(), schedule, self.prediction, info.image_shape,
            data_range=None,
        )  # fmt: skip
