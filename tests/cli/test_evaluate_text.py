"""Evaluation of models of text by towers and readers, from the command line.

The model draws nothing but zeros: its figures are those of grey images. The towers and
the reader are trained, and know the real images.
"""

import dataclasses
import json
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

from jaxdiff.cli import evaluate_text, program
from jaxdiff.cli.figures import Figure
from jaxdiff.data import ImageFolder, Latents, to_uint8
from jaxdiff.evaluation import prompted
from jaxdiff.networks import DiTConfig, TextTransformerConfig
from jaxdiff.networks.towers import TowersConfig
from jaxdiff.runs.autoencoder import model_parts
from jaxdiff.runs.encode import encode
from jaxdiff.runs.folder import read_config
from jaxdiff.runs.load import load
from jaxdiff.runs.own_text import store_tokenizer
from jaxdiff.runs.parts import write_link
from jaxdiff.runs.trainer import Trainer
from jaxdiff.training.autoencoder_experiment import AutoencoderExperiment, Tiny
from jaxdiff.training.experiment import Experiment, Sampling, Training, Upkeep
from jaxdiff.training.optimizer import Optimizer
from jaxdiff.training.towers_experiment import TowersExperiment
from tests.helpers.fake_run import write_run
from tests.helpers.runs import trained

pytestmark = pytest.mark.usefixtures("standard_promotion")
TEXT = TextTransformerConfig(vocabulary=280, length=8, width=8, layers=1, heads=2)
SHADES = {"red": (255, 0, 0), "green": (0, 255, 0), "white": (255, 255, 255)}
PER_CLASS = 16


def picture(name):
    """A picture whose left half has a colour."""
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:, :4] = SHADES[name]
    return pixels


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Pictures of a colour by class, a model of them that draws zeros, and towers."""
    folder = tmp_path_factory.mktemp("prompted")
    for name in SHADES:
        (folder / "pictures" / name).mkdir(parents=True)
        for i in range(PER_CLASS):
            pixels = picture(name)
            pixels[0, 0] = i
            path = folder / "pictures" / name / f"{i}.png"
            Image.fromarray(pixels).save(path)
            path.with_suffix(".txt").write_text(f"a {name} square")
    data = ImageFolder(
        path=str(folder / "pictures"), size=8, captions="files", held_out=0.3
    )
    experiment = Experiment(
        data=data, conditional=False,
        network=DiTConfig(width=8, depth=1, heads=1, patch=4, text=TEXT),
        training=Training(num_steps=2, batch_size=8),
        sampling=Sampling(chunk=8),
    )  # fmt: skip
    trainer: Any = Trainer.of(experiment)
    write_run(folder / "model", experiment, trainer.info)
    store_tokenizer(folder / "model", trainer.tokenizer)
    towers = TowersExperiment(
        data=data, towers=TowersConfig(features=8, channels=8, text=TEXT),
        optimizer=Optimizer(learning_rate=0.01, warmup_steps=2),
        training=Training(num_steps=60, batch_size=16, ema_decay=0.5),
        upkeep=Upkeep(log_every=20, checkpoint_every=60, tensorboard=False),
    )  # fmt: skip
    trained(folder / "towers", towers)
    return folder


def run(*words):
    with jax.numpy_dtype_promotion("standard"):
        program.jaxdiff([str(word) for word in words])


def refused(capsys, *words):
    """The error of a wrong evaluation, one line."""
    with pytest.raises(SystemExit) as stop:
        run("evaluate", *words)
    assert stop.value.code == 2
    _, _, error = capsys.readouterr().err.rpartition("error: ")
    assert error.count("\n") == 1
    return error


def evaluated(capsys, *words):
    """The figures of an evaluation by name, and the whole record."""
    capsys.readouterr()
    run("evaluate", *words, "--json")
    record = json.loads(capsys.readouterr().out)
    return {one["name"]: one["value"] for one in record["figures"]}, record


def test_towers_are_measured_on_held_out_images(made, capsys):
    figures, record = evaluated(capsys, "--workdir", made / "towers")
    assert figures["text found"] == figures["image found"] == 1
    assert figures["found by chance"] == pytest.approx(1 / 3)
    assert figures["CLIP-score"] > figures["CLIP-score of other captions"] + 0.3
    assert record["settings"]["split"] == "test"
    error = refused(capsys, "--workdir", made / "towers", "--num", 1)
    assert error.startswith("num must lie in 2..")


@pytest.mark.long
def test_samples_are_measured_beside_real_images(made, capsys, monkeypatch):
    """Samples of held-out captions are right here; all others are red."""
    calls: list[int] = []

    def drawn(run, texts, seed, sampling, on_chunk):
        on_chunk(len(texts))
        names = [text.split()[1] if calls else "red" for text in texts]
        calls.append(len(texts))
        return np.stack([picture(name) for name in names])

    monkeypatch.setattr(evaluate_text, "draw", drawn)
    figures, record = evaluated(
        capsys, "--workdir", made / "model", "--towers", made / "towers",
        "--reader-steps", 40, "--samples", 30, "--features", "pixels",
    )  # fmt: skip
    assert calls == [30, 30]
    assert record["settings"]["num"] == 30
    assert record["settings"]["readers"]["values"] == {"class": 3}
    assert figures["text found, held out"] == figures["image found, held out"] == 1
    assert figures["class as asked, held out"] == 1
    assert 0.1 < figures["text found, seen"] < 0.7
    assert figures["class as asked, seen"] == figures["text found, seen"]
    for of in ("seen", "held out"):
        assert figures[f"text found, {of}, real (baseline)"] == 1
        assert figures[f"class of real images, {of} (baseline)"] == 1
        assert figures[f"found by chance, {of}"] == pytest.approx(1 / 3)
    assert "Frechet distance, training images (baseline)" in figures
    for name in ("prompts.png", "nearest.png"):
        assert (made / "model" / name).stat().st_size > 100
    assert "prompts.png" in (made / "model" / "report.html").read_text()


@pytest.mark.long
def test_a_sample_is_the_runs_of_its_prompt_and_index(made):
    model = load(made / "model")
    texts = ["a red square", "a green square", "a red square"]
    found = prompted.draw(model, texts, seed=3)
    condition = model.text(texts)
    images = model.generate(condition, 3, 3, base=model.negative(condition))
    np.testing.assert_array_equal(found, to_uint8(images))
    assert (found[0] != found[2]).any()


@pytest.fixture
def of_latents(made, tmp_path):
    """A model of the pictures' latents that draws zeros."""
    experiment, _ = read_config(made / "model")
    autoencoder = AutoencoderExperiment(
        data=experiment.data,
        autoencoder=Tiny(levels=2, channels=2, blocks=1, latent_channels=2),
        optimizer=Optimizer(learning_rate=1e-2, warmup_steps=2),
        training=Training(num_steps=2, batch_size=8),
    )
    trained(tmp_path / "autoencoder", autoencoder)
    parts = model_parts(tmp_path / "autoencoder")
    encode(experiment.data, parts, tmp_path / "latents")
    data = Latents(path=str(tmp_path / "latents"))
    experiment = dataclasses.replace(experiment, data=data)
    trainer: Any = Trainer.of(experiment)
    write_run(tmp_path / "model", experiment, trainer.info)
    write_link(trainer.parts, tmp_path / "model" / "parts")
    store_tokenizer(tmp_path / "model", trainer.tokenizer)
    return tmp_path / "model"


@pytest.mark.long
def test_latents_are_decoded_and_measured_on_the_towers_images(
    made, of_latents, capsys
):
    words = "--workdir", of_latents, "--samples", 8, "--reader-steps", 40
    assert refused(capsys, *words).startswith("towers or data must name images for a")
    figures, record = evaluated(capsys, *words, "--towers", made / "towers")
    assert figures["text found, held out, real (baseline)"] == 1
    assert figures["class of real images, held out (baseline)"] == 1
    assert record["settings"]["readers"]["values"] == {"class": 3}
    model = load(of_latents)
    found = prompted.draw(model, ["a red square"], seed=0)
    assert found.shape == (1, 8, 8, 3)
    data: Any = read_config(made / "model")[0].data
    given = "--data", "folder", "--data.path", data.path, "--data.size", 8
    kind = "--data.captions", "files", "--data.held-out", 0.3
    figures, _ = evaluated(capsys, *words, *given, *kind)
    assert "class as asked, seen" in figures
    assert "text found, seen" not in figures
    error = refused(capsys, *words, *given, *kind[:2], "--data.held-out", 0.5)
    assert error.startswith("data must be the images of the run's latents")


def test_mistakes_are_one_line(made, capsys):
    for words, message in (
        (["--samples", 2], "samples must lie in 4..10000 for a model of text, got 2"),
        (["--towers", made / "model"], "must be the run of two towers, got one of a"),
        (["--towers", made / "no"], "there is no run in"),
        (["--data.captions", "none"], "data must have the fingerprint"),
    ):
        assert message in refused(capsys, "--workdir", made / "model", *words)


def test_towers_of_other_images_are_refused(made, tmp_path, capsys):
    experiment, info = read_config(made / "towers")
    write_run(tmp_path / "other", experiment, info._replace(fingerprint="0" * 16))
    (tmp_path / "other" / "parts").symlink_to(made / "towers" / "parts")
    words = "--workdir", made / "model", "--towers", tmp_path / "other"
    error = refused(capsys, *words)
    assert error.startswith("towers must be trained on the images of the run")


def test_a_long_name_is_apart_from_its_value():
    short, long = Figure("R@1", 0.5), Figure("R@1" * 30, 0.5, unit="share")
    assert str(short) == f"  {'R@1':<45} 0.5000"
    assert str(long) == f"  {long.name} 50.0%"
