"""Options of commands that measure samples: features, sampler and guidance."""

import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge

from jaxdiff.checks import Checked
from jaxdiff.cli.flags import parse_option
from jaxdiff.cli.sampling_options import samplings_of
from jaxdiff.data import Dataset
from jaxdiff.errors import InputError
from jaxdiff.evaluation.features import Extractor, Features, default_features
from jaxdiff.evaluation.frechet import Moments
from jaxdiff.evaluation.reference_statistics import load_statistics
from jaxdiff.parallel import Parallel
from jaxdiff.parallel.processes import is_first
from jaxdiff.progress_bar import bar as progress_bar
from jaxdiff.progress_bar import is_shown
from jaxdiff.runs.run import Run
from jaxdiff.serialization import option_name
from jaxdiff.streams import tolerant
from jaxdiff.training.experiment import Sampling

MOST = 10_000
"""Largest number of images of a split to evaluate."""


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


@dataclass(frozen=True, kw_only=True)
class PromptOptions(Checked, JudgingOptions):
    """Options of the command `evaluate` for samples."""

    workdir: Path
    """Run folder; evaluation.json and pictures are written to it."""
    seed: int = 0
    """Seed of all randomness of the evaluation."""
    samples: int | None = None
    """Number of samples, compared with as many held-out images; 0 skips the samples.
    None takes as many as the dataset allows, at most 10,000. A model of text draws
    samples of training captions, and as many of held-out ones."""
    statistics: Path | None = None
    """File with mu and sigma of the same features, by `statistics` or another tool.
    Adds the samples' Frechet distance to these statistics."""
    towers: Path | None = None
    """Run folder of two towers, which measure how well samples match prompts."""
    prior: Path | None = None
    """Run folder of the prior of a decoder of unCLIP, to draw samples of captions too;
    None for variations of real images alone."""
    reader_steps: Annotated[int, Ge(0)] = 500
    """Number of training steps of each reader of an attribute, such as a colour, for a
    model of text or an autoencoder; 0 skips them. They are trained once per dataset."""
    json: bool = False
    """If True, prints the contents of evaluation.json as JSON, and no text."""

    def others(self, samples: int) -> tuple[Path, Moments] | None:
        """Returns the file of further statistics, and its contents; None without.

        Raises:
            InputError: there are no samples, or the file cannot be read.
        """
        if self.statistics is None:
            return None
        found = load_statistics(self.statistics)
        if not samples:
            raise InputError(
                "samples must be above 0 with statistics, got 0. Raise samples, or "
                "leave statistics out."
            )
        return self.statistics, found


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


def checked_num(num: int | None, dataset: Dataset, split: str) -> int:
    """Returns the number of images to evaluate; None takes all of a split, up to MOST.

    Raises:
        InputError: there are fewer images, or the number is below 2.
    """
    most = min(len(dataset), MOST)
    num = most if num is None else num
    if not 2 <= num <= most:
        raise InputError(
            f"num must lie in 2..{most} for the {len(dataset)} images of the split "
            f"{split}, got {num}"
        )
    return num
