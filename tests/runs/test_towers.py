"""Runs of two towers: resume, vectors from Python, and the commands that use them."""

import dataclasses

import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.cli.program import jaxdiff
from jaxdiff.errors import InputError
from jaxdiff.networks.text_transformer import TextTransformerConfig
from jaxdiff.networks.towers import TowersConfig
from jaxdiff.runs.towers import load_towers
from jaxdiff.runs.trainer import Trainer
from jaxdiff.training.experiment import Training, Upkeep
from jaxdiff.training.optimizer import Optimizer
from jaxdiff.training.towers_experiment import TowersExperiment
from tests.helpers.runs import same_bits, trained

pytestmark = pytest.mark.usefixtures("standard_promotion")
TEXT = TextTransformerConfig(vocabulary=280, length=8, width=8, layers=1, heads=2)
EXPERIMENT = TowersExperiment(
    towers=TowersConfig(features=8, channels=2, text=TEXT),
    optimizer=Optimizer(learning_rate=0.03, warmup_steps=2),
    training=Training(num_steps=6, batch_size=16, ema_decay=0.5),
    upkeep=Upkeep(log_every=2, checkpoint_every=2, tensorboard=False),
)
COLOURS = ("red", "green", "blue", "white")


def pictures(count=32):
    """Returns pictures of one colour, each with its caption."""
    shades = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]])
    images = np.zeros((count, 8, 8, 3), np.uint8) + shades[np.arange(count) % 4][
        :, None, None
    ].astype(np.uint8)
    images[:, 0, 0] = np.arange(count)[:, None]
    captions = [f"a {COLOURS[i % 4]} square" if i % 11 else "" for i in range(count)]
    return jd.data.from_arrays(images, captions=captions)


class Killed(Exception):
    """End of a training in the middle."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("towers") / "run"
    return workdir, trained(workdir, EXPERIMENT, dataset=pictures())


def test_resume_is_bitwise_identical(monkeypatch, tmp_path, finished):
    workdir, state = finished
    done, advance = iter(range(1, 100)), Trainer.advance

    def mortal(self, state, batches):
        if next(done) == 2:
            raise Killed
        return advance(self, state, batches)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "advance", mortal)
        with pytest.raises(Killed):
            trained(tmp_path / "run", EXPERIMENT, dataset=pictures())
    again = trained(tmp_path / "run", EXPERIMENT, dataset=pictures())
    assert same_bits(again, state)
    lines = [
        (one / "metrics.jsonl").read_bytes() for one in (workdir, tmp_path / "run")
    ]
    assert lines[0] == lines[1]


def test_vectors_of_images_and_texts(finished):
    run = load_towers(finished[0])
    dataset = pictures()
    images = run.images(dataset.images)
    assert images.shape == (32, 8)
    np.testing.assert_allclose(np.linalg.norm(images, axis=1), 1, rtol=1e-5)
    pixels = jd.data.to_float(dataset.images[:3])
    np.testing.assert_allclose(run.images(pixels), images[:3], atol=1e-5)
    texts = run.texts([f"a {name} square" for name in COLOURS])
    assert texts.shape == (4, 8)
    np.testing.assert_allclose(run.texts("A  red square")[0], texts[0], atol=1e-5)
    condition = run.text_encoder(["a red square"])
    assert condition.text.shape == (1, 8, 8)
    with pytest.raises(InputError, match="images must have the towers' shape"):
        run.images(np.zeros((1, 4, 4, 3), np.uint8))


def test_other_commands_and_runs_are_refused(finished, tmp_path):
    workdir, _ = finished
    with pytest.raises(InputError, match="of a diffusion model, got one of two towers"):
        jd.load(workdir)
    with pytest.raises(InputError, match="holds a run of kind 'towers'"):
        trained(workdir, jd.Experiment())
    no_text = dataclasses.replace(pictures(), captions=None)
    with pytest.raises(InputError, match="data must have captions"):
        trained(tmp_path / "x", EXPERIMENT, dataset=no_text)
    assert not (tmp_path / "x").exists()
    path = workdir / "parts" / "tokenizer" / "tokenizer.json"
    kept = path.read_bytes()
    path.write_bytes(kept + b" ")
    with pytest.raises(InputError, match="must hold the tokenizer"):
        load_towers(workdir)
    path.write_bytes(kept)


def test_help_of_the_command_is_short(capsys):
    with pytest.raises(SystemExit):
        jaxdiff(["train-towers", "--help"])
    assert len(capsys.readouterr().out.splitlines()) <= 40
