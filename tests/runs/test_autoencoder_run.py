"""Runs of autoencoders: resume, published form, and the commands that use them."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.cli.program import jaxdiff
from jaxdiff.components.component import read_component
from jaxdiff.data import Digits, to_float
from jaxdiff.errors import InputError
from jaxdiff.latents import Autoencoder
from jaxdiff.report import page
from jaxdiff.runs.autoencoder import (
    AutoencoderRun,
    load_autoencoder,
    model_parts,
)
from jaxdiff.runs.trainer import Trainer
from jaxdiff.training.autoencoder_experiment import (
    KL,
    AutoencoderExperiment,
    ClassifierFeatures,
    Patch,
    Tiny,
)
from jaxdiff.training.experiment import Training, Upkeep
from jaxdiff.training.optimizer import Optimizer
from tests.helpers.runs import same_bits, trained

pytestmark = pytest.mark.usefixtures("standard_promotion")
EXPERIMENT = AutoencoderExperiment(
    autoencoder=Tiny(levels=2, channels=2, blocks=1, latent_channels=1),
    optimizer=Optimizer(learning_rate=1e-2, warmup_steps=2),
    training=Training(num_steps=6, batch_size=16, ema_decay=0.9),
    upkeep=Upkeep(log_every=2, checkpoint_every=2, sample_every=3),
)
JUDGED = dataclasses.replace(
    EXPERIMENT,
    autoencoder=KL(channels=4, multipliers=(1, 1), groups=2),
    discriminator=Patch(start=3, channels=2, layers=1),
)
BUSY = dataclasses.replace(JUDGED, features=ClassifierFeatures(num_steps=2))


class Killed(Exception):
    """End of a training in the middle."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("autoencoder") / "run"
    return workdir, trained(workdir, EXPERIMENT)


def killed_and_resumed(monkeypatch, workdir, experiment, at):
    """Trains with a kill in the step `at`, then goes on; returns the final state."""
    done = iter(range(1, 100))
    advance = Trainer.advance

    def mortal(self, state, batches):
        if next(done) == at:
            raise Killed
        return advance(self, state, batches)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "advance", mortal)
        with pytest.raises(Killed):
            trained(workdir, experiment)
    return trained(workdir, experiment)


def files_of(workdir):
    """The metrics and grids of a run."""
    names = [workdir / "metrics.jsonl", *sorted((workdir / "grids").iterdir())]
    return {path.name: path.read_bytes() for path in names}


def test_resume_is_bitwise_identical(monkeypatch, tmp_path, finished):
    workdir, state = finished
    at = int(np.random.default_rng().integers(1, 7))
    again = killed_and_resumed(monkeypatch, tmp_path / "run", EXPERIMENT, at)
    assert same_bits(again, state), at
    assert files_of(tmp_path / "run") == files_of(workdir), at
    assert len(files_of(workdir)) == 3


def test_latents_have_unit_variance_and_a_checksum(finished):
    workdir, state = finished
    parts = model_parts(workdir)
    written = {p: p.stat().st_mtime_ns for p in (workdir / "parts").rglob("*")}
    images = to_float(np.asarray(Digits().load("train").images))
    latents = parts.encode(images[:200])
    everything = np.asarray(parts.autoencoder.encode(jnp.asarray(images)))
    np.testing.assert_allclose(latents, everything[:200], atol=1e-5)
    np.testing.assert_allclose(everything.mean((0, 1, 2)), 0, atol=1e-3)
    np.testing.assert_allclose(everything.std((0, 1, 2)), 1, atol=1e-3)
    own = state.ema["autoencoder"]
    assert same_bits(parts.autoencoder.params, own)
    model_parts(workdir)
    assert written == {p: p.stat().st_mtime_ns for p in (workdir / "parts").rglob("*")}
    found = load_autoencoder(workdir).reconstruct(
        np.asarray(Digits().load("test").images[:4])
    )
    expected = parts.decode(
        parts.encode(to_float(np.asarray(Digits().load("test").images[:4])))
    )
    np.testing.assert_allclose(found, expected, atol=1e-5)


def run(*words):
    jaxdiff([str(word) for word in words])


def test_commands_use_the_run(finished, tmp_path, capsys, monkeypatch):
    workdir, state = finished
    run("export", workdir, tmp_path / "vae")
    component = read_component(tmp_path / "vae")
    assert component.kind == "AutoencoderTiny"
    assert same_bits(component.params, state.ema["autoencoder"])
    images = jnp.asarray(to_float(np.asarray(Digits().load("test").images[:8])))
    exported = Autoencoder(component.params, component.network)
    ours = model_parts(workdir).autoencoder
    np.testing.assert_array_equal(exported.encode(images), ours.encode(images))

    run(
        "evaluate", "--workdir", workdir, "--num", 20, "--json", "--features",
        "pixels", "--reader-steps", 0,
    )  # fmt: skip
    figures = {
        one["name"]: one
        for one in json.loads(capsys.readouterr().out.splitlines()[-1])["figures"]
    }
    assert 0 < figures["PSNR"]["value"] < 40
    assert -1 <= figures["SSIM"]["value"] <= 1
    assert figures["Frechet distance of reconstructions"]["value"] > 0
    assert (workdir / "reconstructions.png").stat().st_size > 100
    run("status", "--workdir", workdir)
    assert "step 6 of 6" in capsys.readouterr().out


@pytest.mark.long
def test_reconstructions_are_read_beside_their_images(finished, capsys, monkeypatch):
    """Exact reconstructions are read as their images; all alike, few are right."""

    def shares(reconstruct):
        monkeypatch.setattr(AutoencoderRun, "reconstruct", reconstruct)
        run(
            "evaluate", "--workdir", finished[0], "--num", 60, "--json", "--features",
            "pixels", "--reader-steps", 60,
        )  # fmt: skip
        record = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert record["settings"]["readers"]["values"] == {"class": 10}
        return {one["name"]: one["value"] for one in record["figures"]}

    alike = shares(lambda self, images, on_chunk: to_float(images))
    known = alike["class of the images (baseline)"]
    assert alike["class of reconstructions"] == known > 0.6
    one = shares(lambda self, images, on_chunk: to_float(images[[0] * len(images)]))
    assert one["class of the images (baseline)"] == known
    assert one["class of reconstructions"] < 0.3


def test_other_commands_and_runs_are_refused(finished, tmp_path):
    workdir, _ = finished
    with pytest.raises(InputError, match="must be the run of a diffusion model"):
        jd.load(workdir)
    with pytest.raises(InputError, match="holds a run of kind 'autoencoder'"):
        trained(workdir, jd.Experiment())
    other = dataclasses.replace(EXPERIMENT, reconstruction="l2")
    with pytest.raises(InputError, match="reconstruction: 'l1', not 'l2'"):
        trained(workdir, other)
    with pytest.raises(InputError, match="frozen must hold the"):
        trained(tmp_path / "x", BUSY)
    assert not (tmp_path / "x").exists()


@pytest.mark.long
def test_latents_of_the_run_are_encoded_and_trained_on(finished, tmp_path, capsys):
    workdir, _ = finished
    run("encode", "digits", "--model", workdir, "--out", tmp_path / "latents")
    spread = capsys.readouterr().out.partition("per channel: ")[2].split()[0]
    assert 0.97 < float(spread.rstrip(".")) < 1.03
    record = json.loads((tmp_path / "latents" / "parts" / "parts.json").read_text())
    assert record["checksums"] == model_parts(workdir).info.checksums


@pytest.mark.long
@pytest.mark.parametrize("at", [2, 5])
def test_resume_with_features_and_a_discriminator(monkeypatch, tmp_path, at):
    from jaxdiff.cli import train_autoencoder

    frozen = train_autoencoder.trainer_of(BUSY).frozen
    of = Trainer.of
    monkeypatch.setattr(
        Trainer, "of", lambda *given, **named: of(*given, **{**named, "frozen": frozen})
    )
    state = trained(tmp_path / "whole", BUSY)
    again = killed_and_resumed(monkeypatch, tmp_path / "run", BUSY, at)
    assert same_bits(again, state)
    assert files_of(tmp_path / "run") == files_of(tmp_path / "whole")
    run("reproduce", "--workdir", tmp_path / "run")


@pytest.mark.long
@pytest.mark.parametrize("experiment", [EXPERIMENT, JUDGED], ids=["tiny", "kl"])
def test_diffusers_gives_equal_outputs(experiment, tmp_path):
    from tests.helpers.pytorch import diffusers, torch

    experiment = dataclasses.replace(experiment, data=Digits())
    trained(tmp_path / "run", experiment)
    run("export", tmp_path / "run", tmp_path / "vae")
    kind = json.loads((tmp_path / "vae" / "config.json").read_text())["_class_name"]
    theirs = getattr(diffusers, kind).from_pretrained(tmp_path / "vae")
    ours = load_autoencoder(tmp_path / "run")
    images = np.asarray(Digits().load("test").images[:4])
    given = torch.from_numpy(to_float(images).transpose(0, 3, 1, 2).copy())
    with torch.no_grad():
        encoded = theirs.encode(given)
        tiny = kind == "AutoencoderTiny"
        latents = encoded.latents if tiny else encoded.latent_dist.mode()
        found = theirs.decode(latents).sample
    found = found.numpy().transpose(0, 2, 3, 1)
    np.testing.assert_allclose(ours.reconstruct(images), found.clip(-1, 1), atol=1e-5)


def test_help_of_the_command_is_short(capsys):
    with pytest.raises(SystemExit):
        run("train-autoencoder", "--help")
    assert len(capsys.readouterr().out.splitlines()) <= 40


def test_replay_says_what_to_use_instead(finished, capsys):
    workdir, _ = finished
    with pytest.raises(SystemExit) as caught:
        jaxdiff(["replay", "--workdir", str(workdir), "--step", "2"])
    assert caught.value.code == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.endswith(
        "got one of an autoencoder. Repeat its steps with jaxdiff reproduce."
    )


def test_a_page_has_reconstructions_and_no_section_of_samples(finished):
    text = page.write_page(finished[0]).read_text()
    assert "Reconstructions during training" in text
    assert "Samples" not in text
    assert "the commands run and sample draw them" not in text
