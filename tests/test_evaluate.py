"""The likelihood of a trained run, from the command line and from Python."""

import dataclasses
import json
import sys
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import jaxdiff as jd
from jaxdiff.cli import main
from jaxdiff.data import from_arrays
from jaxdiff.evaluate import evaluate_likelihood
from jaxdiff.experiment import Sampling, Training, Upkeep
from jaxdiff.metrics.mean import Mean
from jaxdiff.optimizer import Optimizer

pytestmark = pytest.mark.xdist_group("evaluate")  # one evaluated run for all
CONFIG = jd.Experiment(
    schedule=jd.Linear(num_steps=12, beta_start=1e-3, beta_end=0.8),
    prediction=jd.V(learn_variance=True),
    objective=jd.Hybrid(weighting=jd.MinSnr(), times=jd.LossHistory(warmup_steps=1)),
    network=jd.UNetConfig(
        channels=4, multipliers=(1,), blocks=1, attention=(), groups=2
    ),
    optimizer=Optimizer(warmup_steps=1),
    training=Training(num_steps=4, batch_size=16),
    upkeep=Upkeep(log_every=1, checkpoint_every=4),
    sampling=Sampling(sampler=jd.Ancestral(variance=jd.LearnedRange()), chunk=8),
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
    """A run that was trained and evaluated from the command line."""
    workdir = tmp_path_factory.mktemp("evaluated")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["experiment.py"])
        patch.setattr(warnings, "formatwarning", warnings.formatwarning)
        with jax.numpy_dtype_promotion("standard"):
            command(workdir, "train")
        command(workdir, f"evaluate --num {NUM} --seed 3 --ode-steps 4")
    return workdir


def test_the_figures_are_those_of_the_library(evaluated):
    """A batch of its own, on one device, with the same keys."""
    run = jd.load(evaluated)
    held_out: Any = jd.Digits().load("test")
    images = jnp.asarray(jd.to_float(held_out.images[:NUM]))
    denoiser, key = run.denoiser(held_out.labels[:NUM]), jax.random.key(3)
    variances = (jd.FixedSmall(), jd.FixedLarge(), jd.LearnedRange())
    bounds = jd.variational_bound(
        jd.clip_x_0(denoiser), run.schedule, images, key, variances
    )
    noise, signs = jax.random.split(key)
    log_density = jd.ode_log_density(
        denoiser, run.schedule, jd.dequantise(images, noise), signs, num_steps=4
    )
    record = json.loads((evaluated / "evaluation.json").read_text())
    figures = record["bits_per_dim"]
    totals = [bound.total for bound in bounds]
    for (name, found), bits in zip(
        figures.items(), [*totals, jd.bits_per_dim(log_density, 64)], strict=True
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
    assert (record["images"], record["seed"], record["step"]) == (NUM, 3, 4)
    assert record["terms"] == 12
    with Image.open(evaluated / "bound.png") as picture:
        assert picture.width > 1000


@pytest.mark.long
def test_figures_do_not_depend_on_the_chunks(evaluated):
    run = jd.load(evaluated)
    sampling = dataclasses.replace(run.experiment.sampling, chunk=3)
    other = dataclasses.replace(
        run, experiment=dataclasses.replace(run.experiment, sampling=sampling)
    )
    dataset = jd.Digits().load("test")
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


def test_some_of_the_terms(evaluated):
    """All 12 of them are the whole bound; 5 of them are near it, and have no ODE."""
    run, dataset = jd.load(evaluated), jd.Digits().load("test")
    before = (evaluated / "evaluation.json").read_text()
    record = json.loads(before)["bits_per_dim"]
    every = evaluate_likelihood(
        run, dataset, num=NUM, seed=3, ode_steps=0, num_terms=12
    )
    assert every.ode is None
    np.testing.assert_array_equal(every.edges, np.arange(13))
    for name, bound in every.bounds.items():
        expected = record[f"variational bound, {NAMES[name]}"]["value"]
        np.testing.assert_allclose(bound.value, expected, rtol=1e-5)
    try:
        command(evaluated, f"evaluate --num {NUM} --num-terms 5 --ode-steps 0")
        some = json.loads((evaluated / "evaluation.json").read_text())
    finally:
        (evaluated / "evaluation.json").write_text(before)
    assert list(some["bits_per_dim"]) == list(record)[:3]
    assert (some["terms"], some["ode_steps"]) == (5, 0)
    for name, found in some["bits_per_dim"].items():
        apart = abs(found["value"] - record[name]["value"])
        assert apart < 5 * found["standard_error"], name


def test_the_times_history_is_trained_and_saved(evaluated):
    lines = (evaluated / "metrics.jsonl").read_text().splitlines()
    values = [json.loads(line) for line in lines]
    assert [line["step"] for line in values] == [1, 2, 3, 4]
    for line in values:
        whole = line["simple"] + 1e-3 * line["bound"]
        np.testing.assert_allclose(line["loss"], whole, rtol=1e-5)


def test_a_mean_and_its_standard_error():
    mean = Mean.of(np.array([1.0, 3.0, 5.0, 7.0]))
    assert mean.value == 4
    np.testing.assert_allclose(mean.standard_error, (20 / 3 / 4) ** 0.5)
    assert np.isnan(Mean.of(np.ones(1)).standard_error)
    assert str(Mean(3.14159, 0.01)) == "3.1416 ± 0.0100"


def test_what_cannot_be_evaluated(evaluated):
    run, digits = jd.load(evaluated), jd.Digits().load("test")
    unlabelled = from_arrays(digits.images)
    larger = from_arrays(np.zeros((3, 16, 16, 1), np.uint8), np.zeros(3, int))
    for dataset, num, message in (
        (digits, 0, r"num must lie in 1\.\.297; got 0"),
        (digits, 298, r"num must lie in 1\.\.297; got 298"),
        (unlabelled, 1, "class-conditional, but there are no labels"),
        (larger, 1, r"shape \(8, 8, 1\); these have \(16, 16, 1\)"),
    ):
        with pytest.raises(jd.InputError, match=message):
            evaluate_likelihood(run, dataset, num=num)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--seed -1", "seed must lie in 0..2^32 - 1; got -1"),
        ("--num 999", "num must lie in 1..297; got 999"),
        ("--ode-steps -1", "ode_steps must be at least 0; got -1"),
        ("--num-terms 13", "num_terms must lie in 2..12; got 13"),
        ("--split valid", "--split"),
    ],
)
def test_wrong_flags_are_one_line(evaluated, monkeypatch, capsys, flags, message):
    monkeypatch.setattr(sys, "argv", ["experiment.py"])
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    before = (evaluated / "evaluation.json").read_bytes()
    with pytest.raises(SystemExit) as stop:
        command(evaluated, f"evaluate {flags}")
    assert stop.value.code == 2
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err
    assert (evaluated / "evaluation.json").read_bytes() == before
