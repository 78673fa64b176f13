"""Statistics of a data set: writing, reading and use by `evaluate`."""

import sys

import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.cli import main
from jaxdiff.evaluation import reference_statistics
from jaxdiff.evaluation.features import Classifier, Pixels, hash_of
from jaxdiff.evaluation.frechet import Moments
from jaxdiff.evaluation.reference_statistics import load_statistics, moments_of
from tests.helpers.fake_run import CONFIG, fake_run

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _program(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["experiment.py"])
    monkeypatch.chdir(tmp_path)


def command(line: str) -> None:
    main(CONFIG, "What it is.", args=line.split())


def test_moments_of_parts_are_those_of_the_whole():
    whole = RNG.normal(size=(50, 7)) * 3 + 100
    parts = [Moments.of(p) for p in (whole[:2], whole[2:30], whole[30:])]
    found = parts[0].joined(parts[1]).joined(parts[2])
    assert found.num == 50
    np.testing.assert_allclose(found.mean, whole.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.covariance, np.cov(whole.T), rtol=1e-9)


def test_the_command_writes_those_of_the_features(monkeypatch, capsys):
    monkeypatch.setattr(reference_statistics, "_PART", 100)
    command("statistics --split test --num 250 --features pixels --out s.npz")
    images = jd.data.Digits().load("test").images[:250]
    pixels = np.asarray(images, np.float32).reshape(250, -1) / 255
    with np.load("s.npz") as file:
        np.testing.assert_allclose(file["mu"], pixels.mean(0), rtol=1e-5, atol=1e-7)
        expected = np.cov(pixels.T.astype(float))
        np.testing.assert_allclose(file["sigma"], expected, rtol=1e-5, atol=1e-8)
    read = load_statistics("s.npz")  # type: ignore[arg-type]
    assert read.num == 250
    printed = capsys.readouterr().out
    assert printed.startswith(f"statistics {hash_of(read)} of 250 test images of data ")
    assert "features: pixels of 8x8, resizing none, are in s.npz" in printed


@pytest.mark.usefixtures("standard_promotion")
def test_they_are_by_the_classifier_where_there_are_classes():
    command("statistics --features classifier:num-steps=2 --num 40")
    data = jd.data.Digits().load("train")
    extractor = Classifier(num_steps=2).build(data, data, jd.parallel.Pmap())
    expected = moments_of(data, 40, extractor)
    found = load_statistics("statistics.npz")  # type: ignore[arg-type]
    np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-5)
    np.testing.assert_allclose(found.covariance, expected.covariance, rtol=1e-5)


@pytest.mark.long
def test_evaluate_compares_with_them(tmp_path, capsys):
    """Statistics of the held-out images give the held-out distance again."""
    fake_run(tmp_path / "run", conditional=False)
    training, held_out = jd.data.Digits().load("train"), jd.data.Digits().load("test")
    extractor = Pixels().build(training, held_out, jd.parallel.Pmap())
    moments = moments_of(held_out, 297, extractor)
    np.savez("other.npz", mu=moments.mean, sigma=moments.covariance)
    command(
        "evaluate --workdir run --num 2 --num-terms 2 --ode-steps 0 --features pixels "
        "--sampler ddim --steps 2 --statistics other.npz"
    )
    lines = capsys.readouterr().out.splitlines()
    (to_held_out,) = (s for s in lines if s.startswith("  Frechet distance   "))
    (to_other,) = (s for s in lines if "distance to other.npz" in s)
    assert to_other.split()[-1] == to_held_out.split()[-1]


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"mu": np.zeros(3)}, "must hold statistics, got.*sigma"),
        (
            {"mu": np.zeros(3), "sigma": np.zeros((2, 2))},
            r"must have shapes .*, got \(3,\) and \(2, 2\)",
        ),
        (
            {"mu": np.zeros(1), "sigma": np.full((1, 1), np.nan)},
            "must hold finite numbers, got nan",
        ),
        ({"mu": np.array("x"), "sigma": np.zeros((1, 1))}, "must hold statistics, got"),
    ],
)
def test_a_file_of_something_else_is_refused(tmp_path, arrays, words):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(jd.InputError, match=words):
        load_statistics(tmp_path / "x.npz")


def test_no_file_and_no_archive_are_refused(tmp_path):
    with pytest.raises(jd.InputError, match="there is no file"):
        load_statistics(tmp_path / "none.npz")
    (tmp_path / "x.npz").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(jd.InputError, match="must hold statistics, got"):
        load_statistics(tmp_path / "x.npz")


def test_statistics_of_other_features_are_refused(tmp_path, capsys):
    fake_run(tmp_path / "run", conditional=False)
    np.savez("other.npz", mu=np.zeros(3), sigma=np.eye(3))
    with pytest.raises(SystemExit) as stop:
        command(
            "evaluate --workdir run --num 2 --num-terms 2 --ode-steps 0 "
            "--features pixels --steps 2 --sampler ddim --statistics other.npz"
        )
    assert stop.value.code == 2
    assert "the same number of features, got 3 and 64" in capsys.readouterr().err
