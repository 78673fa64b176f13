"""Options of the training of an autoencoder."""

from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, TypeAlias

from annotated_types import Ge, Gt, IsFinite

from jaxdiff.checks import Checked, DiskPath, Seed
from jaxdiff.data import Data, Digits
from jaxdiff.errors import InputError
from jaxdiff.losses.autoencoding import Norm
from jaxdiff.networks.autoencoder_kl import AutoencoderKLConfig, LatentScaling
from jaxdiff.networks.autoencoder_tiny import AutoencoderTinyConfig
from jaxdiff.networks.classifier import Classifier
from jaxdiff.networks.image_sizes import check_sides
from jaxdiff.networks.inception import Inception
from jaxdiff.networks.patch_discriminator import PatchDiscriminator
from jaxdiff.networks.transformer import Count
from jaxdiff.parallel import Parallel, Pmap
from jaxdiff.training.autoencoder import Autoencoding
from jaxdiff.training.experiment import AnyExperiment, DataInfo, Training, Upkeep
from jaxdiff.training.optimizer import Optimizer

Weight = IsFinite[Annotated[float, Ge(0)]]


@dataclass(frozen=True, kw_only=True)
class KL(Checked):
    """Autoencoder of latent diffusion, with a Gaussian over latents."""

    FLAG: ClassVar[str] = "kl"

    latent_channels: Count = 4
    """Number of channels of the latents."""
    channels: Count = 16
    """Number of channels of the first level."""
    multipliers: tuple[Count, ...] = (1, 2, 4)
    """Channels of each level over those of the first. Each further level halves the
    size."""
    blocks: Count = 1
    """Number of residual blocks per level of the encoder; one more in the decoder."""
    groups: Count = 8
    """Number of groups of the normalisation; it divides the channels."""
    attention: bool = True
    """If True, there is self-attention at the smallest size."""
    kl_weight: Weight = 1e-6
    """Weight of the divergence of the latents from a standard Gaussian."""

    def config(self, image_channels: int) -> AutoencoderKLConfig:
        """Returns the options of the network."""
        return AutoencoderKLConfig(
            image_channels=image_channels, latent_channels=self.latent_channels,
            widths=tuple(self.channels * m for m in self.multipliers),
            blocks=self.blocks, groups=self.groups, attention=self.attention,
            scaling=LatentScaling(),
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Tiny(Checked):
    """Tiny autoencoder, without a variance of the latents."""

    FLAG: ClassVar[str] = "tiny"

    kl_weight: ClassVar[float] = 0.0
    latent_channels: Count = 4
    """Number of channels of the latents."""
    channels: Count = 32
    """Number of channels of every level."""
    levels: Count = 3
    """Number of levels; each further level halves the size."""
    blocks: Count = 2
    """Number of residual blocks per level; 1 at the size of the image."""

    def config(self, image_channels: int) -> AutoencoderTinyConfig:
        """Returns the options of the network."""
        counts = (1, *[self.blocks] * (self.levels - 1))
        return AutoencoderTinyConfig(
            image_channels=image_channels, latent_channels=self.latent_channels,
            width=self.channels, encoder_blocks=counts, decoder_blocks=counts[::-1],
        )  # fmt: skip


AutoencoderOptions: TypeAlias = KL | Tiny
"""Choices of `--autoencoder`."""


@dataclass(frozen=True, kw_only=True)
class NoFeatures:
    """No loss of features."""

    FLAG: ClassVar[str] = "none"

    weight: ClassVar[float] = 0.0


@dataclass(frozen=True, kw_only=True)
class ClassifierFeatures(Checked):
    """Features of a small classifier, trained on the data's classes from a seed."""

    FLAG: ClassVar[str] = "classifier"

    weight: Weight = 1.0
    """Weight of the distance of the features."""
    num_steps: Annotated[int, Ge(1)] | None = None
    """Number of training steps of the classifier; None for as many as suit the data."""
    seed: Seed = 0
    """Seed of the training of the classifier."""


@dataclass(frozen=True, kw_only=True)
class InceptionFeatures(Checked):
    """Features of InceptionV3 with published weights."""

    FLAG: ClassVar[str] = "inception"

    weight: Weight = 1.0
    """Weight of the distance of the features."""
    path: DiskPath = ""
    """Path of pt_inception-2015-12-05-6726825d.pth, a file of the package
    pytorch-fid."""


FeatureOptions: TypeAlias = NoFeatures | ClassifierFeatures | InceptionFeatures
"""Choices of `--features`."""


@dataclass(frozen=True, kw_only=True)
class NoDiscriminator:
    """No discriminator."""

    FLAG: ClassVar[str] = "none"


@dataclass(frozen=True, kw_only=True)
class Patch(Checked):
    """Patch discriminator, which makes reconstructions sharp."""

    FLAG: ClassVar[str] = "patch"

    start: Annotated[int, Ge(0)] = 1000
    """Number of steps before the discriminator takes part."""
    weight: Weight = 0.5
    """Weight of the adversarial loss, after it was scaled to the other loss."""
    channels: Count = 32
    """Number of channels of the first layer."""
    layers: Count = 2
    """Number of layers that halve the size."""
    learning_rate: IsFinite[Annotated[float, Gt(0)]] | None = None
    """Learning rate of the discriminator; None for that of the autoencoder."""


DiscriminatorOptions: TypeAlias = NoDiscriminator | Patch
"""Choices of `--discriminator`."""


@dataclass(frozen=True, kw_only=True)
class AutoencoderExperiment(AnyExperiment):
    """Options of a training of an autoencoder; equal ones give the same bits."""

    data: Data = field(default_factory=Digits)
    """Dataset."""
    autoencoder: AutoencoderOptions = field(default_factory=KL)
    """Autoencoder."""
    reconstruction: Norm = "l1"
    """Distance of the pixels: mean of magnitudes (l1) or of squares (l2)."""
    features: FeatureOptions = field(default_factory=NoFeatures)
    """Network whose features the reconstructions must have too."""
    discriminator: DiscriminatorOptions = field(default_factory=NoDiscriminator)
    """Discriminator."""
    optimizer: Optimizer = field(
        default_factory=lambda: Optimizer(
            learning_rate=1e-3, warmup_steps=100, decay="cosine"
        )
    )
    """Optimizer."""
    training: Training = field(
        default_factory=lambda: Training(num_steps=2000, batch_size=16, ema_decay=0.995)
    )
    """Number of steps, batches, averages, and the policy for non-finite steps."""
    parallel: Parallel = field(default_factory=Pmap)
    """Layout of the devices; it changes the result only by rounding."""
    seed: Seed = 0
    """Seed of all randomness of training."""
    upkeep: Upkeep = field(
        default_factory=lambda: Upkeep(
            log_every=50, checkpoint_every=500, sample_every=500
        )
    )
    """Intervals of logs, checkpoints and pictures."""

    @property
    def conditional(self) -> bool:
        """True if the features are those of a classifier of the data."""
        return isinstance(self.features, ClassifierFeatures)

    def task_of(self, info: DataInfo) -> Autoencoding:
        """Returns the task for data of this description.

        Raises:
            InputError: If the options do not fit the data.
        """
        if info.data_range is None:
            raise InputError(
                "data must be images for an autoencoder, got latents. Choose others "
                "with --data."
            )
        height, width, channels = info.image_shape
        network = self.autoencoder.config(channels).build()
        check_sides(
            height, width, network.config.factor, " for this autoencoder",
            ", or fewer levels",
        )  # fmt: skip
        task = Autoencoding(
            network=network, image_shape=info.image_shape, norm=self.reconstruction,
            kl_weight=self.autoencoder.kl_weight, features=self._judge(info),
            feature_weight=self.features.weight,
        )  # fmt: skip
        patch = self.discriminator
        if isinstance(patch, NoDiscriminator):
            return task
        critic = PatchDiscriminator(patch.channels, patch.layers)
        return replace(
            task, discriminator=critic, start=patch.start, weight=patch.weight,
            learning_rate=patch.learning_rate,
        )  # fmt: skip

    def _judge(self, info: DataInfo) -> Any:
        """Returns the network of features, or None."""
        if isinstance(self.features, InceptionFeatures):
            return Inception()
        if isinstance(self.features, NoFeatures):
            return None
        if info.num_classes is None:
            raise InputError(
                "the data must have classes for the features of a classifier, got "
                "none. Set --features none."
            )
        return Classifier(info.num_classes)
