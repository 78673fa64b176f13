"""Evaluation of a trained run, from the command line and from Python."""

import dataclasses
import json
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import jaxdiff as jd
from jaxdiff import rng
from jaxdiff.cli import main
from jaxdiff.data import from_arrays, order
from jaxdiff.evaluation.dataset_likelihood import evaluate_likelihood
from jaxdiff.evaluation.feature_classifier import Recipe, classifier_of
from jaxdiff.evaluation.features import Classifier, Pixels, default_features, hash_of
from jaxdiff.evaluation.frechet import Moments, frechet_distance
from jaxdiff.evaluation.kid import kernel_distance
from jaxdiff.evaluation.mean import Mean
from jaxdiff.evaluation.memorization import nearest
from jaxdiff.evaluation.precision_recall import precision_recall
from jaxdiff.parallel import Pmap
from jaxdiff.training.experiment import DataInfo, Sampling, Training, Upkeep
from jaxdiff.training.optimizer import Optimizer
from tests.helpers.fake_run import CONFIG as FAKE
from tests.helpers.fake_run import write_run
from tests.helpers.runs import NETWORK

CONFIG = jd.Experiment(
    schedule=jd.Linear(num_steps=12, beta_start=1e-3, beta_end=0.8),
    prediction=jd.predictions.V(learn_variance=True),
    objective=jd.losses.Hybrid(
        weighting=jd.losses.MinSNR(), times=jd.losses.LossHistory(warmup_steps=1)
    ),
    network=NETWORK,
    optimizer=Optimizer(warmup_steps=1),
    training=Training(num_steps=4, batch_size=16),
    upkeep=Upkeep(log_every=1, checkpoint_every=4),
    sampling=Sampling(sampler=jd.DDPM(variance=jd.samplers.LearnedRange()), chunk=8),
)
NUM = 12
NAMES = {
    "FixedSmall": "fixed small",
    "FixedLarge": "fixed large",
    "LearnedRange": "learned range",
}


def command(workdir, line):
    main(CONFIG, "What it is.", args=[*line.split(), "--workdir", str(workdir)])


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """Folder of a run that was trained and evaluated from the command line."""
    workdir = tmp_path_factory.mktemp("evaluated")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["experiment.py"])
        with jax.numpy_dtype_promotion("standard"):
            command(workdir, "train")
            command(
                workdir,
                f"evaluate --num {NUM} --seed 3 --ode-steps 4 --samples 40 "
                "--sampler dpm-solver --steps 4 --guidance 2 "
                "--features classifier:num-steps=60",
            )
    return workdir


@pytest.fixture(scope="module")
def run(evaluated):
    return jd.load(evaluated)


def bits_of(record):
    """Returns the figures of an evaluation.json in bits per dimension, by name."""
    return {
        figure["name"]: figure
        for figure in record["figures"]
        if figure["unit"] == "bits per dimension"
    }


def test_the_figures_are_those_of_the_library(evaluated):
    """The library's functions, on one device with the same keys, give the figures."""
    run = jd.load(evaluated)
    held_out: Any = jd.data.Digits().load("test")
    images = jnp.asarray(jd.data.to_float(held_out.images[:NUM]))
    denoiser, key = run.denoiser(held_out.labels[:NUM]), jax.random.key(3)
    variances = (
        jd.samplers.FixedSmall(),
        jd.samplers.FixedLarge(),
        jd.samplers.LearnedRange(),
    )
    bounds = jd.evaluation.variational_bound(
        jd.clip_x0(denoiser), run.schedule, images, key, variances
    )
    noise, signs = jax.random.split(key)
    log_density = jd.evaluation.ode_log_density(
        denoiser,
        run.schedule,
        jd.evaluation.dequantise(images, noise),
        signs,
        num_steps=4,
    )
    record = json.loads((evaluated / "evaluation.json").read_text())
    figures = bits_of(record)
    totals = [bound.total for bound in bounds]
    for (name, found), bits in zip(
        figures.items(),
        [*totals, jd.evaluation.bits_per_dim(log_density, 64)],
        strict=True,
    ):
        expected = np.asarray(bits, np.float64)
        np.testing.assert_allclose(found["value"], expected.mean(), rtol=1e-4)
        error = expected.std(ddof=1) / NUM**0.5
        np.testing.assert_allclose(found["standard_error"], error, rtol=1e-2)
        assert np.isfinite(expected).all(), name
    assert list(figures) == [
        "variational bound, fixed small",
        "variational bound, fixed large",
        "variational bound, learned range",
        "probability-flow ODE",
    ]
    settings = record["settings"]
    assert (settings["images"], settings["seed"], settings["step"]) == (NUM, 3, 4)
    assert settings["terms"] == 12
    with Image.open(evaluated / "bound.png") as picture:
        assert picture.width > 1000


@pytest.mark.long
def test_figures_do_not_depend_on_the_chunks(evaluated):
    run = jd.load(evaluated)
    sampling = dataclasses.replace(run.experiment.sampling, chunk=3)
    other = dataclasses.replace(
        run, experiment=dataclasses.replace(run.experiment, sampling=sampling)
    )
    dataset = jd.data.Digits().load("test")
    done: list[int] = []
    first = evaluate_likelihood(run, dataset, num=NUM, ode_steps=2)
    second = evaluate_likelihood(
        other, dataset, num=NUM, ode_steps=2, on_chunk=done.append
    )
    assert first.ode is not None
    assert second.ode is not None
    np.testing.assert_allclose(first.ode, second.ode, rtol=1e-3)
    for name in first.bounds:
        np.testing.assert_allclose(first.bounds[name], second.bounds[name], rtol=1e-3)
        np.testing.assert_allclose(first.terms[name], second.terms[name], rtol=2e-2)
        whole = first.prior + first.terms[name].sum()
        np.testing.assert_allclose(first.bounds[name].value, whole, rtol=1e-4)
    assert done[-1] == 2 * NUM
    assert done == sorted(done)


@pytest.mark.long
def test_some_of_the_terms(evaluated, capsys):
    """All 12 terms give the whole bound; 5 terms come near the bound, without ODE.

    With --json, the output is JSON alone.
    """
    run, dataset = jd.load(evaluated), jd.data.Digits().load("test")
    before = (evaluated / "evaluation.json").read_text()
    record = bits_of(json.loads(before))
    every = evaluate_likelihood(
        run, dataset, num=NUM, seed=3, ode_steps=0, num_terms=12
    )
    assert every.ode is None
    np.testing.assert_array_equal(every.edges, np.arange(13))
    for name, bound in every.bounds.items():
        expected = record[f"variational bound, {NAMES[name]}"]["value"]
        np.testing.assert_allclose(bound.value, expected, rtol=1e-5)
    try:
        command(
            evaluated,
            f"evaluate --num {NUM} --num-terms 5 --ode-steps 0 --samples 0 --json",
        )
        some = json.loads((evaluated / "evaluation.json").read_text())
        assert json.loads(capsys.readouterr().out) == some
    finally:
        (evaluated / "evaluation.json").write_text(before)
    assert [figure["name"] for figure in some["figures"]] == list(record)[:3]
    assert (some["settings"]["terms"], some["settings"]["ode_steps"]) == (5, 0)
    assert len(some["loss_by_timestep"]["loss"]) == 5
    for name, found in bits_of(some).items():
        apart = abs(found["value"] - record[name]["value"])
        assert apart < 5 * found["standard_error"], name


def test_the_times_history_is_trained_and_saved(evaluated):
    lines = (evaluated / "metrics.jsonl").read_text().splitlines()
    values = [json.loads(line) for line in lines]
    assert [line["step"] for line in values] == [1, 2, 3, 4]
    for line in values:
        whole = line["simple"] + 1e-3 * line["bound"]
        np.testing.assert_allclose(line["loss"], whole, rtol=1e-5)


@pytest.mark.long
def test_the_loss_by_timestep_is_that_of_the_noise(evaluated):
    """The loss at each time by hand, with the same noise and clipped estimates."""
    run = jd.load(evaluated)
    held_out: Any = jd.data.Digits().load("test")
    images = jnp.asarray(jd.data.to_float(held_out.images[:NUM]))
    denoiser = jd.clip_x0(run.denoiser(held_out.labels[:NUM]))
    keys = rng.example_keys(jax.random.key(3), jnp.arange(NUM))
    record = json.loads((evaluated / "evaluation.json").read_text())
    found = record["loss_by_timestep"]
    assert found["t"] == list(range(12))
    for t, loss in zip(found["t"], found["loss"], strict=True):
        step = jnp.int32(t)
        eps = rng.normal(rng.fold(keys, step), images.shape[1:])
        level = run.schedule.level(run.schedule.times[step])
        x_t = jd.q_sample(run.schedule, images, jnp.full(NUM, step), eps)
        expected = jnp.mean((denoiser(x_t, level).eps - eps) ** 2)
        np.testing.assert_allclose(loss, float(expected), rtol=1e-3)


def test_samples_are_compared_with_held_out_images(evaluated):
    """The library's parts, called one by one, give the same figures."""
    record = json.loads((evaluated / "evaluation.json").read_text())
    found = {figure["name"]: figure for figure in record["figures"]}
    how = record["settings"]["samples"]
    training, held_out = jd.data.Digits().load("train"), jd.data.Digits().load("test")
    there = np.sort(order(0, 0, 297)[:40])
    seen = np.sort(order(0, 0, len(training))[:40])
    run = jd.load(evaluated)
    sampling = dataclasses.replace(
        run.experiment.sampling,
        sampler=jd.DPMSolver(spacing=jd.spacing.Trailing(num_steps=4)),
        guidance=2.0,
    )
    assert training.labels is not None
    labels = training.labels[seen]
    images = jd.data.to_uint8(run.generate(labels, 40, 3, sampling=sampling))
    classifier = classifier_of(training, Recipe(num_steps=60))
    features, classes = classifier.read(images, Pmap())
    real, _ = classifier.read(held_out.images[there], Pmap())
    trained, _ = classifier.read(training.images, Pmap())
    for of, other in (("", features), (", training images (baseline)", trained[seen])):
        expected = frechet_distance(other, real)
        np.testing.assert_allclose(
            found[f"Frechet distance{of}"]["value"], expected, rtol=1e-4
        )
        kernel = kernel_distance(other, real)
        np.testing.assert_allclose(
            found[f"kernel distance{of}"]["value"], kernel.value, rtol=1e-4
        )
        shares = precision_recall(real, other)
        assert found[f"precision{of}"]["value"] == shares.precision
        assert found[f"recall{of}"]["value"] == shares.recall
    assert found["label agreement"]["value"] == np.mean(classes == labels)
    _, apart = nearest(features, trained)
    np.testing.assert_allclose(
        found["distance to the nearest training image"]["value"],
        np.median(apart),
        rtol=1e-4,
    )
    # A model after 4 steps is far from the data; training images are near.
    assert found["Frechet distance"]["value"] > 3 * expected
    assert how["weights"] == classifier.sha256()
    assert how["resize"] == "none"
    accuracy = np.mean(classifier.read(held_out.images, Pmap())[1] == held_out.labels)
    assert how["accuracy"] == accuracy
    assert how["statistics"] == hash_of(Moments.of(real))
    for part in ("60 steps, seed 0", how["weights"][:16], how["statistics"], "40 held"):
        assert part in found["kernel distance"]["note"]
    with Image.open(evaluated / "nearest.png") as picture:
        assert picture.width > 700


@pytest.mark.parametrize(
    ("shape", "size", "expected"),
    [((8, 8, 1), 16, 64), ((20, 10, 3), 10, 10 * 5 * 3), ((4, 2, 1), 1, 1)],
)
def test_pixels_are_features(shape, size, expected):
    images = np.random.default_rng(0).integers(0, 256, (5, *shape), np.uint8)
    dataset = from_arrays(images)
    assert default_features(dataset) == Pixels()
    extractor = Pixels(size=size).build(dataset, dataset, Pmap())
    features, classes = extractor.read(images)
    assert features.shape == (5, expected)
    assert classes is None
    means = images.mean(axis=(1, 2, 3)) / 255
    flat = np.broadcast_to(images[:, :1, :1, :1], images.shape)  # stays as it is
    np.testing.assert_allclose(
        extractor.read(flat)[0].mean(axis=1), flat[:, 0, 0, 0] / 255, atol=1e-5
    )
    np.testing.assert_allclose(features.mean(axis=1), means, atol=0.12)


def test_a_classifier_needs_classes():
    dataset = from_arrays(np.zeros((5, 8, 8, 1), np.uint8))
    with pytest.raises(
        jd.InputError,
        match="the dataset must have classes to train a classifier, got none",
    ):
        Classifier(num_steps=1).build(dataset, dataset, Pmap())


def test_a_mean_and_its_standard_error():
    mean = Mean.of(np.array([1.0, 3.0, 5.0, 7.0]))
    assert mean.value == 4
    np.testing.assert_allclose(mean.standard_error, (20 / 3 / 4) ** 0.5)
    assert np.isnan(Mean.of(np.ones(1)).standard_error)
    assert str(Mean(3.14159, 0.01)) == "3.1416 ± 0.0100"


def test_what_cannot_be_evaluated(evaluated):
    run, digits = jd.load(evaluated), jd.data.Digits().load("test")
    unlabelled = from_arrays(np.asarray(digits.images))
    larger = from_arrays(np.zeros((3, 16, 16, 1), np.uint8), np.zeros(3, int))
    for dataset, num, message in (
        (digits, 0, r"num must lie in 1\.\.297, got 0"),
        (digits, 298, r"num must lie in 1\.\.297, got 298"),
        (unlabelled, 1, "labels must be given for a class-conditional model"),
        (larger, 1, r"shape \(8, 8, 1\), got \(16, 16, 1\)"),
    ):
        with pytest.raises(jd.InputError, match=message):
            evaluate_likelihood(run, dataset, num=num)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--seed -1", "seed must lie in 0..2^32 - 1, got -1"),
        ("--num 999", "num must lie in 1..297, got 999"),
        ("--ode-steps -1", "ode_steps must be at least 0, got -1"),
        ("--num-terms 13", "num_terms must lie in 2..12, got 13"),
        ("--split valid", "--split"),
        ("--ode-steps 0 --exact-trace", "exact_trace must come with ode_steps above 0"),
        ("--samples 3", "samples must lie in 4..297, got 3"),
        ("--samples 298", "samples must lie in 4..297, got 298"),
        ("--sampler dim", "unknown sampler 'dim'. Perhaps you meant 'ddim'."),
        ("--features pixel", "unknown features 'pixel'. Perhaps you meant 'pixels'."),
        ("--features pixels:size=0", "size must be at least 1, got 0"),
        ("--guidance nan", "guidance must be"),
    ],
)
def test_wrong_flags_are_one_line(evaluated, run, monkeypatch, capsys, flags, message):
    monkeypatch.setattr(sys, "argv", ["experiment.py"])
    monkeypatch.setattr("jaxdiff.cli.command.load", lambda *_, **__: run)  # for speed
    before = (evaluated / "evaluation.json").read_bytes()
    with pytest.raises(SystemExit) as stop:
        command(evaluated, f"evaluate {flags}")
    assert stop.value.code == 2
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err
    assert (evaluated / "evaluation.json").read_bytes() == before


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """Folder of two runs on 8 images, named by the number of held-out images."""
    root = tmp_path_factory.mktemp("few")
    (root / "images").mkdir()
    for i in range(8):
        pixels = np.random.default_rng(i).integers(0, 255, (8, 8), np.uint8)
        Image.fromarray(pixels).save(root / "images" / f"{i}.png")
    for count, share in ((0, 0.0), (3, 0.2)):
        data = jd.data.ImageFolder(
            path=str(root / "images"), size=8, channels=1, held_out=share
        )
        experiment = dataclasses.replace(FAKE, data=data)
        write_run(root / str(count), experiment, DataInfo((8, 8, 1), None, None))
    return root


TOO_FEW = (
    "metrics of samples must have at least 4 training images and 4 held-out images, got"
)


@pytest.mark.parametrize(
    ("held_out", "line", "message"),
    [
        (0, "evaluate", "split must be train for a run that holds out none of its 8 "
                        "images, got test. Set --split train."),
        (0, "evaluate --split train --samples 4",
         f"{TOO_FEW} 8 and 0. Hold out more images."),
        (3, "evaluate --samples 4", f"{TOO_FEW} 5 and 3. Hold out more images."),
        (0, "compare --num 2 --evaluations 8",
         "compare must have at least 2 held-out images, got 0 next to 8 to train on. "
         "Hold out more images."),
    ],
)  # fmt: skip
def test_too_few_images_are_counted_in_one_line(few, capsys, held_out, line, message):
    with pytest.raises(SystemExit):
        command(few / str(held_out), line)
    assert capsys.readouterr().err.endswith(f"error: {message}\n")


@pytest.mark.long
def test_the_likelihood_of_few_images_is_evaluated_without_samples(few, capsys):
    quick = "--num 2 --num-terms 2 --ode-steps 0"
    for held_out, split in ((0, "train"), (3, "test")):
        with pytest.warns(UserWarning, match=f"skipped the samples: {TOO_FEW}"):
            command(few / str(held_out), f"evaluate --split {split} {quick}")
        record = json.loads((few / str(held_out) / "evaluation.json").read_text())
        assert record["settings"]["images"] == 2
        assert "samples" not in record["settings"]
