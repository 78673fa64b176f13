"""How samples are drawn to be judged, and what features they are compared by."""

from dataclasses import asdict, dataclass, replace
from typing import Any

from jaxdiff.cli.flags import parse_option
from jaxdiff.cli.progress import bar
from jaxdiff.cli.sampling_options import samplings_of
from jaxdiff.data import Dataset
from jaxdiff.evaluation.features import Extractor, Features, default_features
from jaxdiff.parallel import Parallel
from jaxdiff.runs.load import Run
from jaxdiff.serialization import option_name
from jaxdiff.training.experiment import Sampling


@dataclass(frozen=True, kw_only=True)
class FeatureOptions:
    """What the commands have in common that read images."""

    features: str | None = None
    """What compares images: classifier, classifier:num-steps=500,seed=1, pixels,
    pixels:size=8 or inception:path=FILE; by default the classifier where there are
    classes, else pixels."""

    def features_of(self, training: Dataset) -> Features:
        """What images are compared by.

        Raises:
            InputError: a name or an option is unknown.
        """
        if self.features is None:
            return default_features(training)
        return parse_option(self.features, Features, "features")


@dataclass(frozen=True, kw_only=True)
class JudgingOptions(FeatureOptions):
    """What the commands have in common that judge samples."""

    sampler: str | None = None
    """Who draws them, with its options if any: dpm-solver:order=3; the run's own by
    default."""
    steps: int | None = None
    """How many steps it takes; by default as many as is usual for the sampler."""
    guidance: float | None = None
    """Weight of classifier-free guidance: 1 for none, above 1 to keep to the class."""

    def sampling_of(self, run: Run) -> Sampling:
        """How samples are drawn.

        Raises:
            InputError: a name or an option is unknown, or a number does not fit.
        """
        named = () if self.sampler is None else (self.sampler,)
        (sampling,) = samplings_of(run, named, self.steps, None).values()
        if self.guidance is None:
            return sampling
        return replace(sampling, guidance=self.guidance)


def build_features(
    features: Features, training: Dataset, held_out: Dataset | None, parallel: Parallel
) -> Extractor:
    """The features, after the work that they need."""
    if not features.num_calls:
        return features.build(training, held_out, parallel)
    with bar(features.num_calls, option_name(type(features)), "step") as on_step:
        return features.build(training, held_out, parallel, on_step)


def sampler_name(sampling: Sampling) -> str:
    """As the command line spells it."""
    return option_name(type(sampling.sampler))


def sampling_record(sampling: Sampling) -> dict[str, Any]:
    """How samples are drawn, for a record of figures on them."""
    sampler = asdict(sampling.sampler) | {"type": sampler_name(sampling)}
    return {"sampler": sampler, "guidance": sampling.guidance}


def comparison_note(extractor: Extractor, samples: int, statistics: str) -> str:
    """What figures on samples must be told with, to be compared with others."""
    against = f"against {samples} held-out images of statistics {statistics}"
    return f"{against}, {describe_features(extractor)}"


def describe_features(extractor: Extractor) -> str:
    """The features, as figures are told with them."""
    parts = [f"features: {extractor.name}"]
    if extractor.weights:
        parts.append(f"weights {extractor.weights[:16]}")
    if extractor.accuracy is not None:
        parts.append(f"accuracy {extractor.accuracy:.2%}")
    parts.append(f"resizing {extractor.resize}")
    return ", ".join(parts)
