"""Options of the training of two towers."""

from dataclasses import dataclass, field

from jaxdiff.checks import Seed
from jaxdiff.data import Data, Emoji, Latents
from jaxdiff.errors import InputError
from jaxdiff.networks.text_transformer import TextTransformerConfig
from jaxdiff.networks.towers import TowersConfig
from jaxdiff.parallel import Parallel, Pmap
from jaxdiff.training.experiment import AnyExperiment, DataInfo, Training, Upkeep
from jaxdiff.training.optimizer import Optimizer
from jaxdiff.training.towers import Contrast


@dataclass(frozen=True, kw_only=True)
class TowersExperiment(AnyExperiment):
    """All options that define a run of two towers, for images and their captions."""

    data: Data = field(default_factory=Emoji)
    """Dataset with captions."""
    towers: TowersConfig = field(default_factory=TowersConfig)
    """Image tower and text tower."""
    optimizer: Optimizer = field(
        default_factory=lambda: Optimizer(
            learning_rate=1e-3, warmup_steps=100, decay="cosine", weight_decay=0.01
        )
    )
    """Optimizer."""
    training: Training = field(
        default_factory=lambda: Training(num_steps=2000, batch_size=128, ema_decay=0.99)
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

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.data, Latents):
            raise InputError(
                "data must be images for two towers, got latents. Name the images with "
                "--data."
            )

    @property
    def own_text(self) -> TextTransformerConfig:
        """Options of the text tower."""
        return self.towers.text

    def task_of(self, info: DataInfo) -> Contrast:
        """Returns the task for data of this description."""
        return Contrast(self.towers.build(), info.image_shape, self.training.batch_size)
