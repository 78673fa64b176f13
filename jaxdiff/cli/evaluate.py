"""The command `evaluate`: likelihood of held-out images, and sample quality."""

import warnings
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from jaxdiff import plots
from jaxdiff.checks import check_seed
from jaxdiff.cli.evaluate_autoencoder import evaluate_autoencoder
from jaxdiff.cli.evaluate_enlargement import evaluate_enlargement
from jaxdiff.cli.evaluate_text import evaluate_text
from jaxdiff.cli.evaluate_towers import evaluate_towers
from jaxdiff.cli.fidelity_figures import (
    fidelity_figures,
    fidelity_settings,
    save_nearest,
)
from jaxdiff.cli.figures import Figure, publish
from jaxdiff.cli.progress import bar
from jaxdiff.cli.quality_options import PromptOptions, build_features
from jaxdiff.errors import InputError
from jaxdiff.evaluation.dataset_likelihood import (
    Likelihood,
    check_evaluation,
    evaluate_likelihood,
)
from jaxdiff.evaluation.fidelity import (
    check_num,
    evaluate_samples,
    most_samples,
    too_few,
)
from jaxdiff.parallel.processes import is_first
from jaxdiff.runs.autoencoder import AutoencoderRun
from jaxdiff.runs.data_of_run import held_out_data, load_data_of, training_data
from jaxdiff.runs.enlarge import is_low_resolution
from jaxdiff.runs.run import Run
from jaxdiff.runs.towers import TowersRun
from jaxdiff.runs.vectors import is_decoder
from jaxdiff.serialization import option_name
from jaxdiff.storage.files import ensure_writable


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(PromptOptions):
    """Options of the command `evaluate`."""

    split: Literal["test", "train"] = "test"
    """Split of the dataset for the likelihood; the test split is held out."""
    num: int | None = None
    """Number of images of the split, from its start. None takes all."""
    num_terms: int | None = None
    """Number of random terms of the bound per image, an unbiased estimate.
    None takes all T terms."""
    ode_steps: int = 64
    """Number of steps of the probability-flow ODE; 0 skips the ODE.
    Each step takes 4 network evaluations."""
    exact_trace: bool = False
    """If True, computes the ODE's divergence exactly; for small images only."""
    augmentation: float | None = None
    """Level of the noise that is added to the small images of a run of
    super-resolution; None takes 0. Without `num`, such a run enlarges at most 1,000
    images, and half of those held out."""


def evaluate(options: EvaluateOptions, run: Run | AutoencoderRun | TowersRun) -> None:
    """Evaluates a trained run; prints figures, and writes a JSON file and pictures."""
    ensure_writable(options.workdir)
    check_seed(options.seed)
    if not isinstance(run, Run):
        training = training_data(run.experiment, run.info)
        data = training, held_out_data(run.experiment, training)
        if isinstance(run, TowersRun):
            evaluate_towers(
                run, options.workdir, data, options.split, options.num, options.json
            )
            return
        evaluate_autoencoder(
            run, options.workdir, data, options.split, options.num,
            options.features_of(training), options.reader_steps, options.json,
        )  # fmt: skip
        return
    if is_low_resolution(run.experiment):
        evaluate_enlargement(options, run)
        return
    if options.augmentation is not None:
        raise InputError(
            "augmentation must be None for a run that is not one of super-resolution, "
            f"got {options.augmentation:g}. Leave it out."
        )
    if options.prior is not None:
        run = run.with_prior(options.prior)
    if run.takes_prompts or is_decoder(run.experiment):
        evaluate_text(options, run)
        return
    if options.towers is not None:
        raise InputError(
            f"towers must be None for a model without text, got '{options.towers}'. "
            "Leave it out."
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
    others = options.others(samples)
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
                sampling=sampling, others=others and others[1], on_chunk=on_chunk,
            )  # fmt: skip
        settings["samples"] = fidelity_settings(samples, sampling, extractor, fidelity)
    if not is_first():
        return
    given = "" if run.info.num_classes is None else ", given their class"
    figures = _likely(likelihood, f"{num} {options.split} images{given}")
    heading = f"bits per dimension of {num} {options.split} images{given}"
    shown = {f"{heading} (mean ± standard error; lower is better)": figures}
    plots.save_bound(
        options.workdir / "bound.png", likelihood.terms, likelihood.edges
    )  # fmt: skip
    pictures = ["bound.png"]
    if extractor is not None and fidelity is not None:
        shown |= fidelity_figures(fidelity, samples, sampling, extractor, others)
        pictures.append(save_nearest(options.workdir, fidelity))
    edges = likelihood.edges
    by_time = {
        "t": ((edges[:-1] + edges[1:] - 1) / 2).tolist(),
        "loss": np.asarray(likelihood.squared_errors, float).tolist(),
    }
    publish(
        options.workdir, shown, settings, options.json, pictures,
        prior=likelihood.prior, loss_by_timestep=by_time,
    )  # fmt: skip


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
