"""Runs of super-resolution: training, resume, devices, cascades and commands."""

import dataclasses
import json
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import jaxdiff as jd
from jaxdiff.cli.program import jaxdiff
from jaxdiff.conditioning.low_resolution import LowResolution, NoImage
from jaxdiff.data import Digits, to_float
from jaxdiff.errors import InputError
from jaxdiff.evaluation.enlargement import enlarged
from jaxdiff.evaluation.reconstruction import psnr
from jaxdiff.networks import DiTConfig, TextTransformerConfig, timestep_embedding
from jaxdiff.parallel import Pmap
from jaxdiff.runs.enlarge import cascade_seeds
from tests.helpers.own_networks import MLP
from tests.helpers.runs import TINY, same_bits, trained

pytestmark = pytest.mark.usefixtures("standard_promotion")
LOW = LowResolution(factor=2, augmentation=0.4)
SUPER = dataclasses.replace(
    TINY, condition=LOW,
    upkeep=dataclasses.replace(TINY.upkeep, sample_every=4, sample_steps=2),
)  # fmt: skip


class Own(nn.Module):
    """Network of one's own that takes the small image and its level."""

    width: int = 16
    takes = ("image", "image_level")

    def example_condition(self, image_shape):
        """Returns a condition of one example."""
        return jd.Condition(image=jnp.zeros((1, *image_shape)), image_level=jnp.ones(1))

    @nn.compact
    def __call__(self, x, t, condition=None, keys=None):
        both = jnp.concatenate([x, condition.image], -1).reshape(len(x), -1)
        hidden = nn.Dense(self.width)(both)
        for number in (t, 1000 * condition.image_level):
            hidden += nn.Dense(self.width)(timestep_embedding(number, self.width))
        return nn.Dense(x[0].size)(nn.swish(hidden)).reshape(x.shape)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("super") / "run"
    return workdir, trained(workdir, SUPER)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Run that draws images of the size that the run of super-resolution enlarges."""
    workdir = tmp_path_factory.mktemp("base") / "run"
    digits = Digits().load("train")
    images = to_float(np.asarray(digits.images))
    small = jd.data.to_uint8(LOW.reduced(jnp.asarray(images)))
    data = jd.data.from_arrays(small, digits.labels, digits.class_names)
    trained(workdir, TINY, dataset=data)
    return workdir


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("picture") / "small.png"
    small = LOW.reduced(jnp.asarray(to_float(Digits().load("test").images[:1])))
    Image.fromarray(jd.data.to_uint8(small)[0, ..., 0]).save(path)
    return path


def run(*words):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["jaxdiff", *map(str, words)])
        jaxdiff([str(word) for word in words])


def test_resume_is_bitwise_identical(finished, tmp_path):
    workdir, state = finished
    trained(tmp_path / "run", SUPER, until=4)
    again = trained(tmp_path / "run", SUPER)
    assert same_bits(again, state)
    grids = [
        sorted((folder / "grids").iterdir()) for folder in (workdir, tmp_path / "run")
    ]
    assert len(grids[0]) == 2
    for one, two in zip(*grids, strict=True):
        assert one.read_bytes() == two.read_bytes()
    assert (workdir / "metrics.jsonl").read_bytes() == (
        tmp_path / "run" / "metrics.jsonl"
    ).read_bytes()


def test_grids_show_small_image_enlargement_and_truth(finished):
    workdir, _ = finished
    path = sorted((workdir / "grids").iterdir())[-1]
    pixels = np.asarray(Image.open(path).convert("L"))
    assert pixels.shape[0] > 6 * 64  # two rows of triples
    # The truth is in the third row, pixel by pixel.
    truth = np.asarray(Digits().load("test").images[0, ..., 0])
    tile = truth.repeat(8, axis=0).repeat(8, axis=1)
    top = 6 + 2 * 70
    found = [
        x for x in range(pixels.shape[1] - 64)
        if np.array_equal(pixels[top : top + 64, x : x + 64], tile)
    ]  # fmt: skip
    assert len(found) == 1


@pytest.mark.parametrize("devices", [2])
def test_devices_and_accumulation_do_not_change_a_run(devices, tmp_path):
    states = []
    for count, parts in ((1, 1), (devices, 1), (1, 2)):
        training = dataclasses.replace(TINY.training, accumulate=parts, num_steps=3)
        experiment = dataclasses.replace(
            TINY, condition=LOW, conditional=False, training=training,
            parallel=Pmap(num_devices=count),
        )  # fmt: skip
        folder = tmp_path / f"{count}-{parts}"
        states.append(trained(folder, experiment, network=Own()))
    for other in states[1:]:
        for one, two in zip(
            *map(jax.tree.leaves, (states[0].ema, other.ema)), strict=True
        ):
            np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-5)
    loaded = jd.load(tmp_path / "1-1", network=Own())
    small = np.zeros((3, 4, 4, 1), np.float32)
    assert loaded.enlarge(small, None, 0).shape == (3, 8, 8, 1)


def test_a_network_without_an_image_is_refused(tmp_path):
    experiment = dataclasses.replace(TINY, condition=LOW, conditional=False)
    with pytest.raises(InputError, match="MLP must take an image for the condition lo"):
        jd.train(experiment, tmp_path / "run", network=MLP(), progress=False)


def test_an_enlargement_depends_on_its_index_alone(finished):
    loaded = jd.load(finished[0])
    small = np.random.default_rng(0).uniform(-1, 1, (4, 4, 4, 1)).astype(np.float32)
    labels = np.array([1, 5, 2, 7])
    every = loaded.enlarge(small, labels, 3, augmentation=0.3)
    alone = loaded.enlarge(
        small[2:3], labels[2:3], 3, augmentation=0.3, indices=np.array([2])
    )
    np.testing.assert_allclose(alone[0], every[2], atol=1e-4)
    assert not np.allclose(every, loaded.enlarge(small, labels, 3), atol=1e-3)
    assert not np.allclose(
        every, loaded.enlarge(small, labels, 4, augmentation=0.3), atol=1e-3
    )
    with pytest.raises(InputError, match=r"augmentation must lie in 0..0.4, the level"):
        loaded.enlarge(small, labels, 0, augmentation=0.5)
    with pytest.raises(InputError, match=r"images must be \[num, height, width, 1\]"):
        loaded.enlarge(small[..., 0], labels, 0)


def test_other_sizes_are_enlarged_too(finished):
    loaded = jd.load(finished[0])
    small = np.zeros((1, 6, 4, 1), np.float32)
    assert loaded.enlarge(small, np.array([1]), 0).shape == (1, 12, 8, 1)


def test_the_command_enlarges_a_picture(finished, picture, tmp_path):
    workdir, _ = finished
    out = tmp_path / "large.png"
    run("sample", "--workdir", workdir, "--image", picture, "--labels", 3, "--seed", 5,
        "--augmentation", 0.2, "--out", out)  # fmt: skip
    found = Image.open(out)
    assert found.size == (8, 8)
    settings = json.loads(found.text["settings"])
    assert settings["augmentation"] == 0.2
    assert settings["image"] == str(picture)
    assert settings["labels"] == [3]
    assert found.text["command"].startswith("jaxdiff sample --workdir")
    pixels = np.asarray(Image.open(picture), np.float32)[None, ..., None] / 127.5 - 1
    wanted = jd.load(workdir).enlarge(pixels, np.array([3]), 5, augmentation=0.2)
    close = np.asarray(found, int) - jd.data.to_uint8(wanted)[0, ..., 0]
    assert np.abs(close).max() <= 1


def test_a_cascade_draws_and_enlarges(base, finished, tmp_path):
    workdir, _ = finished
    run("sample", "--workdir", base, "--enlarge", workdir, "--num", 4, "--labels", 1, 2,
        "--seed", 7, "--enlarge-steps", 3, "--out", tmp_path)  # fmt: skip
    with np.load(tmp_path / "samples.npz") as file:
        images, labels = file["images"], file["labels"]
    assert images.shape == (4, 8, 8, 1)
    small = jd.load(base).generate(labels, 4, 7)
    loaded = jd.load(workdir)
    sampling = loaded.experiment.sampling
    sampling = dataclasses.replace(
        sampling, sampler=jd.samplers.spacing.with_steps(sampling.sampler, 3)
    )
    wanted = loaded.enlarge(
        small, labels, cascade_seeds(7, 0), augmentation=0.1, sampling=sampling
    )
    assert np.abs(images.astype(int) - jd.data.to_uint8(wanted)).max() <= 1
    (note,) = json.loads(Image.open(tmp_path / "samples.png").text["settings"])[
        "enlarge"
    ]
    assert note["workdir"] == str(workdir)
    assert (note["step"], note["augmentation"]) == (8, 0.1)


def test_stages_of_a_cascade_have_their_own_noise():
    seeds = [7, int(cascade_seeds(7, 0)), int(cascade_seeds(7, 1))]
    assert len(set(seeds)) == 3
    assert cascade_seeds(np.array([7, 8]), 0)[0] == cascade_seeds(7, 0)


def test_evaluate_measures_enlargements(finished, capsys, tmp_path):
    workdir, _ = finished
    run("evaluate", "--workdir", workdir, "--num", 8, "--sampler", "ddim", "--steps", 2,
        "--features", "pixels", "--json")  # fmt: skip
    record = json.loads(capsys.readouterr().out)
    figures = {one["name"]: one["value"] for one in record["figures"]}
    assert (workdir / "enlargements.png").stat().st_size > 100
    held_out = Digits().load("test")
    rows = np.sort(jd.data.order(0, 0, len(held_out))[:8])
    images = np.asarray(held_out.images[rows])
    small = images.reshape(8, 4, 2, 4, 2, 1).mean(axis=(2, 4)).round()
    bicubic = [
        np.asarray(
            Image.fromarray(one[..., 0].astype(np.float32), "F").resize(
                (8, 8), Image.BICUBIC
            )
        )
        for one in small
    ]
    bicubic = np.clip(np.round(bicubic), 0, 255).astype(np.uint8)[..., None]
    np.testing.assert_allclose(
        figures["PSNR, bicubic"], psnr(images, bicubic).mean(), atol=0.1
    )
    loaded = jd.load(workdir)
    sampling = dataclasses.replace(
        loaded.experiment.sampling,
        sampler=jd.DDIM(spacing=jd.spacing.Trailing(num_steps=2)),
    )
    found = enlarged(loaded, held_out, rows, sampling=sampling)
    np.testing.assert_allclose(
        figures["PSNR"], psnr(images, found.found).mean(), atol=0.1
    )
    assert {"SSIM", "PSNR of the small images", "Frechet distance, bicubic"} <= set(
        figures
    )
    assert figures["Frechet distance, true images (baseline)"] > 0
    assert 0 <= figures["precision"] <= 1


@pytest.mark.long
def test_prompts_are_passed_on_in_a_cascade(tmp_path):
    big = np.random.default_rng(0).integers(0, 256, (16, 8, 8, 3), np.uint8)
    captions = [f"a {('red', 'blue')[i % 2]} square" for i in range(16)]
    text = TextTransformerConfig(vocabulary=280, length=10, width=8, layers=1, heads=2)
    network = DiTConfig(width=8, depth=1, heads=1, patch=2, text=text)
    for name, images, condition in (
        ("base", big[:, ::2, ::2], NoImage()), ("super", big, LOW)
    ):  # fmt: skip
        experiment = dataclasses.replace(
            TINY, network=network, condition=condition,
            upkeep=dataclasses.replace(TINY.upkeep, sample_every=8, sample_steps=2),
        )  # fmt: skip
        data = jd.data.from_arrays(images, captions=captions)
        trained(tmp_path / name, experiment, dataset=data)
    loaded = jd.load(tmp_path / "super")
    small = np.zeros((2, 4, 4, 3), np.float32)
    text_of = loaded.text(["a red square", "a blue square"])
    found = loaded.enlarge(small, text_of, np.array([4, 4]), indices=np.zeros(2, int))
    assert not np.allclose(found[0], found[1], atol=1e-4)
    out = tmp_path / "out"
    run("sample", "--workdir", tmp_path / "base", "--enlarge", tmp_path / "super",
        "--prompt", "a red square", "a blue square", "--seed", 3,
        "--out", out)  # fmt: skip
    with np.load(out / "samples.npz") as file:
        assert file["images"].shape == (2, 8, 8, 3)
    first = Image.open(out / "samples" / "00000.png")
    assert first.size == (8, 8)
    assert first.text["prompt"] == "a red square"
    assert len(json.loads(first.text["settings"])["enlarge"]) == 1
