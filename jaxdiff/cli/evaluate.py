"""The command `evaluate`: likelihood of held-out images, and sample quality."""

import contextlib
import json
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxdiff import plots
from jaxdiff.checks import check_seed
from jaxdiff.cli.evaluate_autoencoder import evaluate_autoencoder
from jaxdiff.cli.evaluate_enlargement import evaluate_enlargement
from jaxdiff.cli.figures import Figure, fidelity_figures, tell
from jaxdiff.cli.progress import bar
from jaxdiff.cli.quality_options import (
    JudgingOptions,
    build_features,
    comparison_note,
    sampler_name,
    sampling_record,
)
from jaxdiff.errors import InputError, printable
from jaxdiff.evaluation.dataset_likelihood import (
    Likelihood,
    check_evaluation,
    evaluate_likelihood,
)
from jaxdiff.evaluation.features import hash_of
from jaxdiff.evaluation.fidelity import (
    check_num,
    evaluate_samples,
    most_samples,
    too_few,
)
from jaxdiff.evaluation.reference_statistics import load_statistics
from jaxdiff.parallel.processes import is_first
from jaxdiff.report import page
from jaxdiff.runs.autoencoder import AutoencoderRun
from jaxdiff.runs.data_of_run import held_out_data, load_data_of, training_data
from jaxdiff.runs.enlarge import is_low_resolution
from jaxdiff.runs.run import Run
from jaxdiff.serialization import option_name
from jaxdiff.storage.files import ensure_writable, write_json_atomic


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(JudgingOptions):
    """Options of the command `evaluate`."""

    workdir: Path
    """Run folder; evaluation.json, bound.png and nearest.png are written to it."""
    split: Literal["test", "train"] = "test"
    """Split of the dataset for the likelihood; the test split is held out."""
    num: int | None = None
    """Number of images of the split, from its start. None takes all; for a run of
    super-resolution, at most half of the held-out images and 1,000."""
    seed: int = 0
    """Seed of all randomness of the evaluation."""
    num_terms: int | None = None
    """Number of random terms of the bound per image, an unbiased estimate.
    None takes all T terms."""
    ode_steps: int = 64
    """Number of steps of the probability-flow ODE; 0 skips the ODE.
    Each step takes 4 network evaluations."""
    exact_trace: bool = False
    """If True, computes the ODE's divergence exactly; for small images only."""
    samples: int | None = None
    """Number of samples, compared with as many held-out images; 0 skips the samples.
    None takes as many as the dataset allows, at most 10,000, or 0 if there are too few
    images."""
    statistics: Path | None = None
    """File with mu and sigma of the same features, by `statistics` or another tool.
    Adds the samples' Frechet distance to these statistics."""
    augmentation: float | None = None
    """Level of the noise that is added to the small images of a run of
    super-resolution; None takes 0."""
    json: bool = False
    """If True, prints the contents of evaluation.json as JSON, and no text."""


def evaluate(options: EvaluateOptions, run: Run | AutoencoderRun) -> None:
    """Evaluates a trained run; prints figures, and writes a JSON file and pictures."""
    ensure_writable(options.workdir)
    if isinstance(run, AutoencoderRun):
        training = training_data(run.experiment, run.info)
        data = training, held_out_data(run.experiment, training)
        evaluate_autoencoder(
            run, options.workdir, data, options.split, options.num,
            options.features_of(training), options.json,
        )  # fmt: skip
        return
    check_seed(options.seed)
    if is_low_resolution(run.experiment):
        evaluate_enlargement(options, run)
        return
    if options.augmentation is not None:
        raise InputError(
            "augmentation must be None for a run that is not one of super-resolution, "
            f"got {options.augmentation:g}. Leave it out."
        )
    training, held_out = load_data_of(run)
    images = training if options.split == "train" else held_out
    if not len(images):
        raise InputError(
            f"split must be train for a run that holds out none of its {len(training)} "
            "images, got test. Set --split train."
        )
    num = len(images) if options.num is None else options.num
    check_evaluation(run, images, num, options.ode_steps, options.num_terms)
    if options.exact_trace and not options.ode_steps:
        raise InputError(
            "exact_trace must come with ode_steps above 0, got 0. Raise ode_steps, or "
            "leave exact_trace out."
        )
    # Check all that the samples need before any work begins.
    samples = options.samples
    if samples is None:
        samples = most_samples(training, held_out)
        if not samples and is_first():
            warnings.warn(
                f"skipped the samples: {too_few(training, held_out)}", stacklevel=1
            )
    sampling, features = options.sampling_of(run), options.features_of(training)
    others = None
    if options.statistics is not None:
        others = load_statistics(options.statistics)
        if not samples:
            raise InputError(
                "samples must be above 0 with statistics, got 0. Raise samples, or "
                "leave statistics out."
            )
    if samples:
        check_num(samples, training, held_out)
        run.check_request(None, samples, options.seed, sampling)
    plots.check_installed()

    settings: dict[str, Any] = {
        "step": run.step,
        "split": options.split,
        "images": num,
        "seed": options.seed,
        "terms": options.num_terms or run.schedule.num_steps,
        "ode_steps": options.ode_steps,
        "exact_trace": options.exact_trace,
    }
    extractor = None
    if samples:
        extractor = build_features(features, training, held_out, run.parallel)
    with bar(num * (2 if options.ode_steps else 1), "likelihood") as on_chunk:
        likelihood = evaluate_likelihood(
            run, images, num=num, seed=options.seed, ode_steps=options.ode_steps,
            exact_trace=options.exact_trace, num_terms=options.num_terms,
            on_chunk=on_chunk,
        )  # fmt: skip
    fidelity = None
    if extractor is not None:
        with bar(samples, "sample") as on_chunk:
            fidelity = evaluate_samples(
                run, training, held_out, extractor, num=samples, seed=options.seed,
                sampling=sampling, others=others, on_chunk=on_chunk,
            )  # fmt: skip
        settings["samples"] = {
            "num": samples,
            **sampling_record(sampling),
            "features": extractor.name,
            "weights": extractor.weights,
            "resize": extractor.resize,
            "accuracy": extractor.accuracy,
            "statistics": fidelity.statistics,
        }
    if not is_first():
        return
    given = "" if run.info.num_classes is None else ", given their class"
    figures = _likely(likelihood, f"{num} {options.split} images{given}")
    heading = f"bits per dimension of {num} {options.split} images{given}"
    shown = {f"{heading} (mean ± standard error; lower is better)": list(figures)}
    plots.save_bound(
        options.workdir / "bound.png", likelihood.terms, likelihood.edges
    )  # fmt: skip
    written = ["evaluation.json", "bound.png"]
    if extractor is not None and fidelity is not None:
        note = comparison_note(extractor, samples, fidelity.statistics)
        alike = fidelity_figures(fidelity, note, "training images")
        if others is not None and fidelity.to_others is not None:
            name, of = f"Frechet distance to {options.statistics}", hash_of(others)
            how = f"{note}; to the statistics {of} of {others.num or '?'} images"
            alike.append(Figure(name, fidelity.to_others, note=how))
        by = sampler_name(sampling)
        by = f"{samples} samples by {by}, guidance {sampling.guidance:g}"
        shown[f"{by}; {note}"] = alike
        figures += alike
        near = fidelity.pairs
        plots.save_grid(
            options.workdir / "nearest.png",
            near.reshape(-1, *near.shape[2:]),
            row_labels=["sample", "nearest training image"],
        )
        written.append("nearest.png")
    edges = likelihood.edges
    record = {
        "figures": [figure._asdict() for figure in figures],
        "settings": settings,
        "prior": likelihood.prior,
        "loss_by_timestep": {
            "t": ((edges[:-1] + edges[1:] - 1) / 2).tolist(),
            "loss": np.asarray(likelihood.squared_errors, float).tolist(),
        },
    }
    write_json_atomic(options.workdir / "evaluation.json", record)
    # With --json, the output is JSON alone.
    with contextlib.redirect_stdout(sys.stderr if options.json else sys.stdout):
        page.refresh(options.workdir)
    if options.json:
        print(json.dumps(record))
        return
    for heading, those in shown.items():
        tell(heading, those)
    names = f"{', '.join(written[:-1])} and {written[-1]}"
    print(printable(f"{names} are in {options.workdir}"))


def _likely(found: Likelihood, note: str) -> list[Figure]:
    means = {
        f"variational bound, {option_name(name).replace('-', ' ')}": mean
        for name, mean in found.bounds.items()
    }
    if found.ode is not None:
        means["probability-flow ODE"] = found.ode
    return [
        Figure(
            name, mean.value, _known(mean.standard_error), "bits per dimension", note
        )
        for name, mean in means.items()
    ]


def _known(error: float) -> float | None:
    """Returns the standard error; None for a single image, because JSON has no nan."""
    return error if np.isfinite(error) else None
