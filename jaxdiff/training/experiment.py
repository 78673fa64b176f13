"""An experiment: the frozen composition of every option."""

from dataclasses import dataclass, field
from typing import Annotated, Literal, NamedTuple

from annotated_types import Ge, Gt, IsFinite

from jaxdiff.checks import Checked, Seed, Share, check_finite
from jaxdiff.data import Data, Digits
from jaxdiff.denoisers.predictions import Eps, Prediction
from jaxdiff.errors import InputError
from jaxdiff.losses.loss import check_combination
from jaxdiff.losses.objectives import Objective, Simple
from jaxdiff.networks import Fourier, NetworkOptions, UNetConfig
from jaxdiff.parallel import Parallel, Pmap
from jaxdiff.samplers import DDPM, SamplerOptions
from jaxdiff.samplers.ancestral import LearnedRange
from jaxdiff.schedules import ScheduleOptions
from jaxdiff.schedules.discrete import Linear
from jaxdiff.training.ema import is_length
from jaxdiff.training.optimizer import Optimizer
from jaxdiff.typing import AnySchedule

METRICS = ("loss", "loss_q1", "loss_q2", "loss_q3", "loss_q4", "grad_norm")
"""The metrics of a run by which a checkpoint may be the best; lower is better."""


class DataInfo(NamedTuple):
    """What a trained model must know of its data."""

    image_shape: tuple[int, int, int]
    """Height, width, channels."""
    num_classes: int | None
    """None where the model is unconditional."""
    class_names: tuple[str, ...] | None
    """A name a class, or None."""
    fingerprint: str | None = None
    """Of what it is trained on, see `Dataset.fingerprint`; None in older runs."""
    network: str | None = None
    """Class and fields of a network of one's own; None for the experiment's network."""


@dataclass(frozen=True, kw_only=True)
class Training(Checked):
    """How long and on how much."""

    num_steps: Annotated[int, Ge(1)] = 800_000
    """Optimiser steps in all."""
    batch_size: Annotated[int, Ge(1)] = 128
    """Images a step, over all devices of all hosts; they must divide it."""
    ema_decay: Share = 0.9999
    """Decay of the parameters' moving average; warmed up."""
    ema_lengths: tuple[float, ...] = ()
    """Relative lengths of further averages, by power functions of the time: the share
    of the run that each spans, in (0, 0.288), such as 0.05 and 0.1 (EDM2). Each takes
    as much memory as the parameters."""
    accumulate: Annotated[int, Ge(1)] = 1
    """In how many parts a device takes its share of a batch, to save memory."""
    steps_per_dispatch: Annotated[int, Ge(1)] = 1
    """Steps that devices take by themselves; more help small models on fast devices."""
    nonfinite: Literal["stop", "skip", "go-on"] = "stop"
    """What a step does whose loss or gradient is not finite: it stops the run, is left
    out, or changes the model all the same."""
    max_skips: Annotated[int, Ge(1)] = 100
    """How many steps a run may leave out before it stops."""

    def __post_init__(self) -> None:
        super().__post_init__()
        lengths = self.ema_lengths
        if not all(map(is_length, lengths)) or len(set(lengths)) < len(lengths):
            raise InputError(
                "ema_lengths must lie in (0, 0.288), the share of the run that an "
                f"average spans, and differ; got {lengths}"
            )


@dataclass(frozen=True, kw_only=True)
class Upkeep(Checked):
    """How often a run reports and saves; does not change what it computes."""

    log_every: Annotated[int, Ge(1)] = 100
    """Steps between two lines of metrics."""
    checkpoint_every: Annotated[int, Ge(1)] = 5000
    """Steps between two checkpoints."""
    checkpoint_minutes: Annotated[float, Gt(0)] | None = None
    """Save as well when so many minutes have passed since the last checkpoint, at the
    next line of metrics."""
    keep: Annotated[int, Ge(1)] = 3
    """How many checkpoints stay, the newest."""
    keep_every: Annotated[int, Ge(1)] | None = None
    """Those whose step is a multiple of it stay too, for good."""
    keep_best: Literal[METRICS] | None = None  # type: ignore[valid-type]
    """And that with the lowest value of this metric in the line before it."""
    sample_every: Annotated[int, Ge(1)] | None = None
    """Draw a grid of samples whenever so many steps are done, and after the last:
    always from the same noise, to see the progress."""
    sample_steps: Annotated[int, Ge(1)] = 20
    """Steps of the sampler that draws them, DPM-Solver++."""
    snapshots: Annotated[int, Ge(1)] = 32
    """How often over the run the averages of `ema_lengths` are kept on the disk, from
    which that of any length is made afterwards (--ema)."""
    tensorboard: bool = True
    """Write the metrics, the speed and the grids for TensorBoard too."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.keep_every is not None and self.keep_every % self.checkpoint_every:
            raise InputError(
                "keep_every must be a multiple of checkpoint_every "
                f"({self.checkpoint_every}); got {self.keep_every}"
            )


@dataclass(frozen=True, kw_only=True)
class Sampling(Checked):
    """How images are drawn from the trained model."""

    sampler: SamplerOptions = field(default_factory=DDPM)
    """The rule for one step."""
    guidance: IsFinite[float] = 1.0
    """Weight of classifier-free guidance: 1 for none, 0 to leave the class open."""
    clip: bool = True
    """Clip every estimate of the image to [-1, 1]."""
    keep_eps: bool = False
    """Of DDIM: go on by the noise that the network predicted where an image is clipped,
    as the diffusers library does, instead of the noise that belongs to it."""
    chunk: Annotated[int, Ge(1)] = 256
    """Images drawn at a time, over all devices; the images do not depend on it."""


@dataclass(frozen=True, kw_only=True)
class Experiment(Checked):
    """Everything that defines a run. Two runs of one experiment give the same bits."""

    data: Data = field(default_factory=Digits)
    """The data set."""
    conditional: bool = True
    """Train on the classes, where the data has any."""
    schedule: ScheduleOptions = field(default_factory=Linear)
    """The noise schedule."""
    prediction: Prediction = field(default_factory=Eps)
    """What the network predicts."""
    objective: Objective = field(default_factory=Simple)
    """What training makes small."""
    network: NetworkOptions = field(default_factory=UNetConfig)
    """The network."""
    optimizer: Optimizer = field(default_factory=Optimizer)
    """The optimiser."""
    training: Training = field(default_factory=Training)
    """How long and on how much."""
    parallel: Parallel = field(default_factory=Pmap)
    """How devices share the work; the result does not depend on it but for rounding."""
    init: str | None = None
    """The folder of another run, an imported model say, to start from: from the average
    of its parameters, as far as they fit. As a flag it makes that run's network,
    schedule, prediction, objective and sampling the defaults."""
    seed: Seed = 0
    """All randomness of training comes from it."""
    upkeep: Upkeep = field(default_factory=Upkeep)
    """How often a run reports and saves."""
    sampling: Sampling = field(default_factory=Sampling)
    """How images are drawn."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_finite(self)

    @property
    def snapshot_every(self) -> int | None:
        """Steps between two snapshots of the averages; None for a run without them."""
        if not self.training.ema_lengths:
            return None
        return -(-self.training.num_steps // self.upkeep.snapshots)

    def snapshot_due(self, step: int) -> bool:
        """Whether the averages are kept after so many steps."""
        every = self.snapshot_every
        return every is not None and (
            step % every == 0 or step == self.training.num_steps
        )

    def check(self, schedule: AnySchedule) -> None:
        """Refuses options that do not go together, before anything is trained.

        Args:
            schedule: what `self.schedule.build()` gave.
        """
        check_combination(schedule, self.prediction, self.objective)
        least = schedule.level(schedule.times[0]).t
        if isinstance(self.network.embedding, Fourier) and not least > 0:
            raise InputError(
                "network.embedding fourier takes the logarithm of the time, and this "
                f"schedule's times begin at {least:g}: choose variance-preserving or "
                "straight-path, or the embedding sinusoids"
            )
        self.sampling.sampler.grid(schedule)
        variance = getattr(self.sampling.sampler, "variance", None)
        learned = variance == LearnedRange()
        if learned and not self.prediction.learn_variance:
            raise InputError(
                "sampling with the variance learned-range needs a network that learns "
                "one: set prediction.learn_variance and the objective hybrid"
            )

    def check_guidance(self, info: DataInfo) -> None:
        """Refuses guidance where the network is told of no classes, or of no others."""
        if self.sampling.guidance != 1:
            if info.num_classes is None:
                raise InputError(
                    "guidance needs a model of classes; this one has none: leave it at "
                    f"1; got {self.sampling.guidance:g}"
                )
            if info.network is None and self.network.label_dropout == 0:
                raise InputError(
                    "guidance needs a network that was trained without classes too: "
                    "set network.label_dropout above 0, or leave guidance at 1; got "
                    f"{self.sampling.guidance:g}"
                )
