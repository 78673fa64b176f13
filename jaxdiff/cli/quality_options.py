"""Options of commands that measure samples: features, sampler and guidance."""

import sys
from dataclasses import asdict, dataclass, replace
from typing import Any

from jaxdiff.cli.flags import parse_option
from jaxdiff.cli.sampling_options import samplings_of
from jaxdiff.data import Dataset
from jaxdiff.evaluation.features import Extractor, Features, default_features
from jaxdiff.parallel import Parallel
from jaxdiff.parallel.processes import is_first
from jaxdiff.progress_bar import bar as progress_bar
from jaxdiff.progress_bar import is_shown
from jaxdiff.runs.run import Run
from jaxdiff.serialization import option_name
from jaxdiff.streams import tolerant
from jaxdiff.training.experiment import Sampling


@dataclass(frozen=True, kw_only=True)
class FeatureOptions:
    """Options of commands that compute features of images."""

    features: str | None = None
    """Features: classifier, pixels or inception:path=FILE, with options such as
    classifier:num-steps=500,seed=1 or pixels:size=8.
    None takes the classifier if the data has classes, else pixels. The classifier is
    trained once per dataset; pixels need no training."""

    def features_of(self, training: Dataset) -> Features:
        """Returns the features by which images are compared.

        Raises:
            InputError: a name or an option is unknown.
        """
        if self.features is None:
            return default_features(training)
        return parse_option(self.features, Features, "features")


@dataclass(frozen=True, kw_only=True)
class JudgingOptions(FeatureOptions):
    """Options of commands that measure the quality of samples."""

    sampler: str | None = None
    """Sampler by name, such as ddim or dpm-solver:order=3. None takes the run's."""
    steps: int | None = None
    """Number of steps of the sampler. None takes the default of its time grid."""
    guidance: float | None = None
    """Weight of classifier-free guidance; 1 turns it off. None takes the run's."""

    def sampling_of(self, run: Run) -> Sampling:
        """Returns the run's sampling options with the changes of these flags.

        Raises:
            InputError: a name or an option is unknown, or a number is out of range.
        """
        named = () if self.sampler is None else (self.sampler,)
        (sampling,) = samplings_of(run, named, self.steps, None).values()
        if self.guidance is None:
            return sampling
        return replace(sampling, guidance=self.guidance)


def build_features(
    features: Features, training: Dataset, held_out: Dataset | None, parallel: Parallel
) -> Extractor:
    """Builds the feature network, with a progress bar if it has to be trained."""
    steps = features.num_calls(training)
    if not steps:
        return features.build(training, held_out, parallel)

    shows = is_shown() and is_first()
    name = option_name(type(features))
    with progress_bar(steps, name, "step", show=shows) as shown:

        def on_step(done: int) -> None:
            if done == 0 and shows:
                shown.write(
                    f"training the classifier of features for {steps:,} steps, once "
                    "for these images; --features pixels needs none",
                    file=tolerant(sys.stderr),
                )
            if done == 1:  # compiled meanwhile
                shown.n = 1
                shown.unpause()
            shown.update(done - shown.n)

        return features.build(training, held_out, parallel, on_step)


def sampler_name(sampling: Sampling) -> str:
    """Returns the name of the sampler on the command line."""
    return option_name(type(sampling.sampler))


def sampling_record(sampling: Sampling) -> dict[str, Any]:
    """Returns the sampler and the guidance weight, as entries of a JSON file."""
    sampler = asdict(sampling.sampler) | {"type": sampler_name(sampling)}
    return {"sampler": sampler, "guidance": sampling.guidance}


def comparison_note(extractor: Extractor, samples: int, statistics: str) -> str:
    """Returns the conditions under which metrics of samples may be compared."""
    against = f"against {samples} held-out images of statistics {statistics}"
    return f"{against}, {describe_features(extractor)}"


def describe_features(extractor: Extractor) -> str:
    """Returns a description of the feature network, to show next to metrics."""
    parts = [f"features: {extractor.name}"]
    if extractor.weights:
        parts.append(f"weights {extractor.weights[:16]}")
    if extractor.accuracy is not None:
        parts.append(f"accuracy {extractor.accuracy:.2%}")
    parts.append(f"resizing {extractor.resize}")
    return ", ".join(parts)
