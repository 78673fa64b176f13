"""Experiment: the frozen composition of all options."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

from annotated_types import Ge, Gt, Interval, IsFinite

from jaxdiff.checks import Checked, DiskPath, Seed, Share
from jaxdiff.conditioning.image_condition import (
    ImageCondition,
    ImageVector,
    NoImage,
)
from jaxdiff.data import Data, Digits
from jaxdiff.denoisers.predictions import Eps, Prediction
from jaxdiff.errors import InputError
from jaxdiff.losses.few_steps import check_sampler
from jaxdiff.losses.loss import check_combination
from jaxdiff.losses.objectives import Objective, Simple
from jaxdiff.networks import (
    Fourier,
    NetworkOptions,
    TextTransformerConfig,
    UNetConfig,
)
from jaxdiff.parallel import Parallel, Pmap
from jaxdiff.samplers import DDPM, SamplerOptions
from jaxdiff.samplers.ancestral import LearnedRange
from jaxdiff.schedules import ScheduleOptions
from jaxdiff.schedules.discrete import Linear
from jaxdiff.serialization import check_plain
from jaxdiff.training.adapter import Adapter, LowRank, NoAdapter
from jaxdiff.training.ema import is_length
from jaxdiff.training.optimizer import Optimizer
from jaxdiff.training.task import Task
from jaxdiff.typing import PIXELS, AnySchedule

METRICS = ("loss", "loss_q1", "loss_q2", "loss_q3", "loss_q4", "grad_norm")
"""Metrics by which a checkpoint may be the best; lower is better."""


class DataInfo(NamedTuple):
    """Properties of the data that a trained model needs."""

    image_shape: tuple[int, int, int]
    """Height, width and channels."""
    num_classes: int | None
    """Number of classes; None for an unconditional model."""
    class_names: tuple[str, ...] | None
    """Name of each class, or None."""
    fingerprint: str | None = None
    """Fingerprint of the training data, see `Dataset.fingerprint`; None in older
    runs."""
    network: str | None = None
    """Class and fields of your own network; None for the experiment's network."""
    data_range: tuple[float, float] | None = PIXELS
    """Smallest and largest number of an image; None for latents, which have none."""
    base: str | None = None
    """Step and checksum of an adapter's model or of a teacher, or checksum of other
    parameters that training leaves unchanged; None without."""
    tokenizer: str | None = None
    """SHA-256 of the tokenizer, for a network with a text encoder; None without."""


@dataclass(frozen=True, kw_only=True)
class Training(Checked):
    """Number of steps, batches, averages, and the policy for non-finite steps."""

    num_steps: Annotated[int, Ge(1)] = 800_000
    """Number of optimizer steps in total."""
    batch_size: Annotated[int, Ge(1)] = 128
    """Number of images per step over all devices of all hosts, a multiple of the
    number of devices."""
    ema_decay: Share = 0.9999
    """Decay of the parameters' moving average, after a warm-up."""
    ema_lengths: tuple[float, ...] = ()
    """Relative lengths of further power-function averages: the share of the run that
    each average spans, in (0, 0.288), such as 0.05 and 0.1 (EDM2). Each average
    takes as much memory as the parameters."""
    accumulate: Annotated[int, Ge(1)] = 1
    """Number of parts in which a device processes its share of a batch, to save
    memory."""
    steps_per_dispatch: Annotated[int, Ge(1)] = 1
    """Number of steps that devices run per dispatch. More steps speed up small
    models on fast devices."""
    nonfinite: Literal["stop", "skip", "go-on"] = "stop"
    """Policy for a step whose loss or gradient is not finite: stop the run, skip the
    update, or go on with the update."""
    max_skips: Annotated[int, Ge(1)] = 100
    """Largest number of skipped steps; the run stops at the next one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        lengths = self.ema_lengths
        if not all(map(is_length, lengths)) or len(set(lengths)) < len(lengths):
            raise InputError(
                f"ema_lengths must lie in (0, 0.288) and differ, got {lengths}. "
                "Give the share of the run that each average spans."
            )


@dataclass(frozen=True, kw_only=True)
class Upkeep(Checked):
    """Intervals of logs, checkpoints and samples; they do not change the result."""

    log_every: Annotated[int, Ge(1)] = 100
    """Number of steps between two lines of metrics."""
    checkpoint_every: Annotated[int, Ge(1)] = 5000
    """Number of steps between two checkpoints."""
    checkpoint_minutes: Annotated[float, Gt(0)] | None = None
    """Minutes after the last checkpoint until an extra one, saved with the next line
    of metrics; None saves no extra checkpoints."""
    keep: Annotated[int, Ge(1)] = 3
    """Number of newest checkpoints to retain."""
    keep_every: Annotated[int, Ge(1)] | None = None
    """Interval in steps of the checkpoints retained for good; None retains none of
    these."""
    keep_best: Literal[METRICS] | None = None  # type: ignore[valid-type]
    """Metric whose lowest value, in the last line of metrics before a checkpoint,
    also retains that checkpoint; None retains none."""
    sample_every: Annotated[int, Ge(1)] | None = None
    """Number of steps between two grids of samples, all from the same noise. One
    more grid follows the last step; None draws no grids."""
    sample_prompts: tuple[str, ...] = ()
    """Prompts of the grids, for a model of text; () takes captions of the data."""
    sample_steps: Annotated[int, Ge(1)] = 20
    """Number of steps of the sampler that draws the grids, DPM-Solver++."""
    snapshots: Annotated[int, Ge(1)] = 32
    """Number of times during the run that the averages of `ema_lengths` are stored
    on disk. An average of any length can be computed from them afterwards (--ema)."""
    tensorboard: bool = True
    """If True, write metrics, throughput and grids for TensorBoard too."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.keep_every is not None and self.keep_every % self.checkpoint_every:
            raise InputError(
                "keep_every must be a multiple of checkpoint_every "
                f"({self.checkpoint_every}), got {self.keep_every}"
            )


@dataclass(frozen=True, kw_only=True)
class Sampling(Checked):
    """Options for sampling from the trained model."""

    sampler: SamplerOptions = field(default_factory=DDPM)
    """Rule for one step of the sampling loop."""
    guidance: IsFinite[float] = 1.0
    """Guidance scale of classifier-free guidance: 1 for none, 0 for any class."""
    image_guidance: IsFinite[float] | None = None
    """Guidance scale of the condition's image, for a model that follows instructions;
    None for no such guidance."""
    clip: bool = True
    """If True, clip every estimate of the image to the range of the data, [-1, 1];
    latents have no range, and are not clipped."""
    clip_range: Annotated[float, Gt(0)] | None = None
    """Largest magnitude of a clipped estimate; None for the range of the data."""
    clip_quantile: Annotated[float, Interval(ge=0, le=1)] | None = None
    """Quantile of |x_0| of an image at which its estimate is clipped and then scaled to
    [-1, 1] (dynamic thresholding), at most at clip_range if set; None for clipping
    alone."""
    keep_eps: bool = False
    """If True, DDIM goes on with the predicted noise when an estimate is clipped, as
    in diffusers. If False, it uses the noise that matches the clipped estimate."""
    chunk: Annotated[int, Ge(1)] = 256
    """Number of images per chunk over all devices; the images do not depend on it."""


@dataclass(frozen=True, kw_only=True)
class AnyExperiment(Checked):
    """Options that define a run of any task; see `training.task`.

    An experiment has these fields, in an order of its own, and options of its task.
    """

    if TYPE_CHECKING:  # a field here would come first in every list of options
        data: Data
        optimizer: Optimizer
        training: Training
        parallel: Parallel
        seed: Seed
        upkeep: Upkeep

    @property
    def conditional(self) -> bool:
        """True if training reads the classes, if the data has any."""
        return False

    @property
    def caption_dropout(self) -> float:
        """Rate at which training replaces a caption by no caption."""
        return 0.0

    @property
    def own_text(self) -> TextTransformerConfig | None:
        """Options of a text encoder that is trained from captions; None for none."""
        return None

    @property
    def tokenizer(self) -> str | None:
        """Folder of a published tokenizer; None to make one from the captions."""
        return None

    @property
    def init(self) -> str | None:
        """Folder of another run whose parameters are the initial ones, or None."""
        return None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_plain(self)

    def task_of(self, info: DataInfo) -> Task:
        """Returns the task for data of this description.

        Raises:
            InputError: If the options do not fit the data.
        """
        raise NotImplementedError

    @property
    def snapshot_every(self) -> int | None:
        """Number of steps between two snapshots of the averages, or None."""
        if not self.training.ema_lengths:
            return None
        return -(-self.training.num_steps // self.upkeep.snapshots)

    def snapshot_due(self, step: int) -> bool:
        """Returns True if a snapshot of the averages is due after `step` steps."""
        every = self.snapshot_every
        return every is not None and (
            step % every == 0 or step == self.training.num_steps
        )


@dataclass(frozen=True, kw_only=True)
class Experiment(AnyExperiment):
    """All options that define a run; runs of equal experiments give the same bits."""

    data: Data = field(default_factory=Digits)
    """Dataset."""
    conditional: bool = True
    """If True, train on the classes, if the data has any."""
    caption_dropout: Share = 0.1
    """Rate at which training replaces a caption, or the vector of an image, by none;
    guidance needs it above 0."""
    tokenizer: DiskPath | None = None
    """Folder of a published tokenizer, such as CLIP's, for a network with a text
    encoder. None takes the tokenizer of `init`, or makes one from the captions."""
    condition: ImageCondition = field(default_factory=NoImage)
    """Condition that is made of each image: none, the image made small, for
    super-resolution (low-resolution), or its vector, for unCLIP (image-vector)."""
    schedule: ScheduleOptions = field(default_factory=Linear)
    """Noise schedule."""
    prediction: Prediction = field(default_factory=Eps)
    """Quantity that the network predicts."""
    objective: Objective = field(default_factory=Simple)
    """Loss that training minimizes."""
    network: NetworkOptions = field(default_factory=UNetConfig)
    """Network."""
    adapter: Adapter = field(default_factory=NoAdapter)
    """Part of the network that training changes: all parameters (none), or a low-rank
    addition to those of `init` (lora)."""
    optimizer: Optimizer = field(default_factory=Optimizer)
    """Optimizer."""
    training: Training = field(default_factory=Training)
    """Number of steps, batches, averages, and the policy for non-finite steps."""
    parallel: Parallel = field(default_factory=Pmap)
    """Layout of the devices; it changes the result only by rounding."""
    init: DiskPath | None = None
    """Folder of another run, such as an imported model, whose averaged parameters
    are the initial ones as far as they fit; None starts from random ones. As a flag
    it makes the other run's network, schedule, prediction, objective and sampling
    the defaults."""
    seed: Seed = 0
    """Seed of all randomness of training."""
    upkeep: Upkeep = field(default_factory=Upkeep)
    """Intervals of logs, checkpoints and samples."""
    sampling: Sampling = field(default_factory=Sampling)
    """Options for sampling."""

    @property
    def own_text(self) -> TextTransformerConfig | None:
        """Options of the text encoder inside the network; None for none."""
        return getattr(self.network, "own_text", None)

    @property
    def low_rank(self) -> LowRank | None:
        """Adapter that training changes in place of the network, or None."""
        return self.adapter if isinstance(self.adapter, LowRank) else None

    def check(self, schedule: AnySchedule) -> None:
        """Raises an error for options that do not go together, before training begins.

        Args:
            schedule: Result of `self.schedule.build()`.
        """
        check_combination(schedule, self.prediction, self.objective)
        if self.low_rank is not None and self.init is None:
            raise InputError(
                "adapter must be none without init, got lora. Name the run whose model "
                "to adapt with --init."
            )
        if self.objective.has_teacher and self.init is None:
            raise InputError(
                "init must name the teacher's run for this objective, got None. Name "
                "a trained run with --init."
            )
        check_sampler(self.objective, self.sampling.sampler)
        if self.objective.learns_guidance and self.sampling.guidance != 1:
            raise InputError(
                "sampling.guidance must be 1 for an objective that learns the result "
                f"of guidance, got {self.sampling.guidance:g}. Set "
                "--sampling.guidance 1."
            )
        least = schedule.level(schedule.times[0]).t
        embedding = getattr(self.network, "embedding", None)
        if isinstance(embedding, Fourier) and not least > 0:
            raise InputError(
                "times of the schedule must be above 0 for network.embedding fourier, "
                f"which takes their logarithm, got {least:g}. Choose the schedule "
                "variance-preserving or straight-path, or the embedding sinusoids."
            )
        self.sampling.sampler.grid(schedule)
        variance = getattr(self.sampling.sampler, "variance", None)
        learned = variance == LearnedRange()
        if learned and not self.prediction.learn_variance:
            raise InputError(
                "the variance learned-range needs a network that learns a variance. "
                "Set prediction.learn_variance and the objective hybrid."
            )

    def check_guidance(self, info: DataInfo) -> None:
        """Raises an error for guidance of a network without classes or a null class."""
        if self.sampling.guidance != 1:
            decodes = isinstance(self.condition, ImageVector)
            guides = decodes or getattr(self.network, "takes_text", False)
            if info.num_classes is None and not guides:
                raise InputError(
                    "guidance must be 1 for a model without classes, got "
                    f"{self.sampling.guidance:g}"
                )
            labelled = info.num_classes is not None and info.network is None
            if labelled and self.network.label_dropout == 0:
                raise InputError(
                    "guidance must be 1 for a network trained without label dropout, "
                    f"got {self.sampling.guidance:g}. Set network.label_dropout above "
                    "0, or leave guidance at 1."
                )
