"""Runs of super-resolution: training, resume, devices, cascades and commands."""

import dataclasses
import json
import sys
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import jaxdiff as jd
from jaxdiff.cli.program import jaxdiff
from jaxdiff.conditioning.image_condition import NoImage
from jaxdiff.conditioning.low_resolution import LowResolution
from jaxdiff.data import Digits, to_float
from jaxdiff.errors import InputError
from jaxdiff.evaluation.enlargement import enlarged
from jaxdiff.evaluation.frechet import frechet_distance
from jaxdiff.evaluation.reconstruction import psnr
from jaxdiff.networks import DiTConfig, TextTransformerConfig, timestep_embedding
from jaxdiff.parallel import Pmap
from jaxdiff.runs.enlarge import cascade_seeds
from jaxdiff.training.experiment import DataInfo
from tests.helpers.fake_run import CONFIG, write_run
from tests.helpers.own_networks import MLP
from tests.helpers.runs import TINY, same_bits, trained

pytestmark = pytest.mark.usefixtures("standard_promotion")
LOW = LowResolution(factor=2, augmentation=0.4)
SUPER = dataclasses.replace(
    TINY, condition=LOW, conditional=False,
    parallel=Pmap(num_devices=1),
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


OWN = Own()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Run of a network of one's own, with its final state."""
    workdir = tmp_path_factory.mktemp("super") / "run"
    return workdir, trained(workdir, SUPER, network=OWN)


@pytest.fixture(scope="module")
def loaded(finished):
    return jd.load(finished[0], network=OWN)


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("picture") / "small.png"
    small = LOW.reduced(jnp.asarray(to_float(Digits().load("test").images[:1])))
    Image.fromarray(jd.data.to_uint8(small)[0, ..., 0]).save(path)
    return path


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folder of two runs without training, of small images and of super-resolution."""
    folder = tmp_path_factory.mktemp("runs")
    classes = (10, tuple("0123456789"))
    digits = Digits().load("train").fingerprint()
    write_run(folder / "base", CONFIG, DataInfo((4, 4, 1), *classes))
    low = dataclasses.replace(CONFIG, condition=LOW)
    write_run(folder / "super", low, DataInfo((8, 8, 1), *classes, digits))
    return folder


@pytest.fixture
def drawn(monkeypatch):
    """Requests of `Run.generate`, which draws the image of the condition, or 0.5."""
    found = []

    def generate(self, labels, num, seed, **options):
        condition = jd.Condition.of(labels)
        found.append((condition, seed, options))
        if condition.image is not None:
            return condition.image
        return np.full((num, *self.model.image_shape), 0.5, np.float32)

    monkeypatch.setattr(jd.runs.Run, "generate", generate)
    return found


def run(*words):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["jaxdiff", *map(str, words)])
        jaxdiff([str(word) for word in words])


def test_resume_is_bitwise_identical(finished, tmp_path):
    workdir, state = finished
    trained(tmp_path / "run", SUPER, network=OWN, until=4)
    again = trained(tmp_path / "run", SUPER, network=OWN)
    assert same_bits(again, state)
    files = [
        [folder / "metrics.jsonl", *sorted((folder / "grids").iterdir())]
        for folder in (workdir, tmp_path / "run")
    ]
    assert len(files[0]) == 3
    for one, two in zip(*files, strict=True):
        assert one.read_bytes() == two.read_bytes()


def test_grids_show_small_image_enlargement_and_truth(finished):
    workdir, _ = finished
    path = sorted((workdir / "grids").iterdir())[-1]
    pixels = np.asarray(Image.open(path).convert("L"))
    held_out = Digits().load("test").images[0, ..., 0]
    small = held_out.reshape(4, 2, 4, 2).mean(axis=(1, 3))
    # Tiles of 64 pixels and gaps of 6: the truth is in the third row.
    for row, (image, factor) in {0: (small, 16), 2: (held_out, 8)}.items():
        tile = image.repeat(factor, axis=0).repeat(factor, axis=1)
        top = 6 + row * 70
        band = pixels[top : top + 64].astype(float)
        found = [
            x for x in range(band.shape[1] - 64)
            if np.abs(band[:, x : x + 64] - tile).max() <= 1
        ]  # fmt: skip
        assert len(found) == 1


@pytest.mark.long
def test_devices_and_accumulation_do_not_change_a_run(finished, tmp_path):
    training = dataclasses.replace(TINY.training, accumulate=2)
    experiment = dataclasses.replace(
        SUPER, training=training, parallel=Pmap(num_devices=2)
    )
    state = trained(tmp_path / "run", experiment, network=OWN)
    pairs = zip(*map(jax.tree.leaves, (finished[1].ema, state.ema)), strict=True)
    for one, two in pairs:
        np.testing.assert_allclose(one, two, rtol=1e-3, atol=1e-5)


def test_a_network_without_an_image_is_refused(tmp_path):
    with pytest.raises(InputError, match="MLP must take an image for the condition lo"):
        jd.train(SUPER, tmp_path / "run", network=MLP(), progress=False)


def test_an_enlargement_depends_on_its_index_alone(loaded):
    small = np.random.default_rng(0).uniform(-1, 1, (4, 4, 4, 1)).astype(np.float32)
    every = loaded.enlarge(small, None, 3, augmentation=0.3)
    assert every.shape == (4, 8, 8, 1)
    alone = loaded.enlarge(small[2:3], None, 3, augmentation=0.3, indices=np.array([2]))
    np.testing.assert_allclose(alone[0], every[2], atol=1e-4)
    for other in ({"seed": 3}, {"seed": 4, "augmentation": 0.3}):
        assert not np.allclose(every, loaded.enlarge(small, None, **other), atol=1e-3)
    with pytest.raises(InputError, match=r"augmentation must lie in 0..0.4, the level"):
        loaded.enlarge(small, None, 0, augmentation=0.5)
    with pytest.raises(InputError, match=r"images must be \[num, height, width, 1\]"):
        loaded.enlarge(small[..., 0], None, 0)


def test_the_command_enlarges_a_picture(runs, drawn, picture, tmp_path):
    out = tmp_path / "large.png"
    run("sample", "--workdir", runs / "super", "--image", picture, "--labels", 3,
        "--seed", 5, "--augmentation", 0.2, "--out", out)  # fmt: skip
    ((condition, seed, _),) = drawn
    assert seed == 5
    np.testing.assert_array_equal(condition.labels, [3])
    np.testing.assert_allclose(condition.image_level, [0.2])
    found: Any = Image.open(out)
    assert found.size == (8, 8)
    settings = json.loads(found.text["settings"])
    assert settings["augmentation"] == 0.2
    assert settings["image"] == str(picture)
    assert settings["labels"] == [3]
    assert found.text["command"].startswith("jaxdiff sample --workdir")


def test_a_picture_of_another_size_is_enlarged_too(runs, drawn, tmp_path):
    Image.new("L", (4, 6)).save(tmp_path / "other.png")
    run("sample", "--workdir", runs / "super", "--image", tmp_path / "other.png",
        "--labels", 3, "--num", 2, "--out", tmp_path / "out.npz")  # fmt: skip
    with np.load(tmp_path / "out.npz") as file:
        assert file["images"].shape == (2, 12, 8, 1)


def test_a_cascade_passes_classes_seeds_and_images_on(runs, drawn, tmp_path):
    run("sample", "--workdir", runs / "base", "--enlarge", runs / "super", "--num", 4,
        "--labels", 1, 2, "--seed", 7, "--enlarge-steps", 3,
        "--out", tmp_path)  # fmt: skip
    (_, seed, _), (condition, large_seed, options) = drawn
    np.testing.assert_array_equal(condition.labels, [1, 2, 1, 2])
    np.testing.assert_allclose(condition.image_level, [0.1] * 4)
    assert options["sampling"].sampler.spacing.num_steps == 3
    assert (seed, large_seed) == (7, cascade_seeds(7, 0))
    # The small images are 0.5; the mean of their noise is small.
    signal = np.cos(np.pi / 2 * 0.1) * 0.5
    np.testing.assert_allclose(condition.image.mean(), signal, atol=0.1)
    with np.load(tmp_path / "samples.npz") as file:
        assert file["images"].shape == (4, 8, 8, 1)
    grid: Any = Image.open(tmp_path / "samples.png")
    (note,) = json.loads(grid.text["settings"])["enlarge"]
    assert note["workdir"] == str(runs / "super")
    assert (note["step"], note["augmentation"]) == (2, 0.1)


def test_stages_of_a_cascade_have_their_own_noise():
    seeds = [7, int(cascade_seeds(7, 0)), int(cascade_seeds(7, 1))]
    assert len(set(seeds)) == 3
    assert cascade_seeds(np.array([7, 8]), 0)[0] == cascade_seeds(7, 0)


def test_evaluate_measures_enlargements_beside_bicubic(runs, drawn, capsys):
    run("evaluate", "--workdir", runs / "super", "--num", 8, "--features", "pixels",
        "--json")  # fmt: skip
    record = json.loads(capsys.readouterr().out)
    figures = {one["name"]: one["value"] for one in record["figures"]}
    assert (runs / "super" / "enlargements.png").stat().st_size > 100
    held_out = Digits().load("test")
    rows = np.sort(jd.data.order(0, 0, len(held_out))[:8])
    images = np.asarray(held_out.images[rows])
    assert held_out.labels is not None
    np.testing.assert_array_equal(drawn[0][0].labels, held_out.labels[rows])
    small = images.reshape(8, 4, 2, 4, 2).mean(axis=(2, 4)).round().astype(np.float32)
    bicubic = np.stack(
        [
            np.asarray(
                Image.fromarray(one, "F").resize((8, 8), Image.Resampling.BICUBIC)
            )
            for one in small
        ]
    )
    bicubic = np.clip(bicubic.round(), 0, 255).astype(np.uint8)[..., None]
    wanted = psnr(images, bicubic).mean()
    np.testing.assert_allclose(figures["PSNR, bicubic"], wanted, atol=0.02)
    for name in ("PSNR", "SSIM", "PSNR of the small images"):
        assert figures[name] == figures[f"{name}, bicubic"]  # what the fixture draws
    assert figures["Frechet distance"] == figures["Frechet distance, bicubic"]
    others = jd.data.order(0, 0, len(held_out))[8:16]
    floor = frechet_distance(*(_pixels(held_out.images[i]) for i in (rows, others)))
    found = figures["Frechet distance, true images (baseline)"]
    np.testing.assert_allclose(found, floor, rtol=1e-3)


def _pixels(images):
    return np.asarray(images, float).reshape(len(images), -1) / 255


@pytest.fixture(scope="module")
def unet(tmp_path_factory):
    """Runs of U-Nets: of small images, and of super-resolution."""
    folder = tmp_path_factory.mktemp("unet")
    digits = Digits().load("train")
    images = LOW.reduced(jnp.asarray(to_float(np.asarray(digits.images))))
    small = jd.data.to_uint8(images)
    data = jd.data.from_arrays(small, digits.labels, digits.class_names)
    trained(folder / "base", TINY, dataset=data)
    experiment = dataclasses.replace(SUPER, conditional=True)
    state = trained(folder / "super", experiment)
    trained(folder / "again", experiment, until=4)
    assert same_bits(trained(folder / "again", experiment), state)
    return folder


@pytest.mark.long
def test_a_cascade_of_two_runs_draws_what_python_draws(unet, tmp_path):
    run("sample", "--workdir", unet / "base", "--enlarge", unet / "super", "--num", 4,
        "--labels", 1, 2, "--seed", 7, "--out", tmp_path)  # fmt: skip
    with np.load(tmp_path / "samples.npz") as file:
        images, labels = file["images"], file["labels"]
    small = jd.load(unet / "base").generate(labels, 4, 7)
    large = jd.load(unet / "super")
    wanted = large.enlarge(small, labels, cascade_seeds(7, 0), augmentation=0.1)
    assert np.abs(images.astype(int) - jd.data.to_uint8(wanted)).max() <= 1


@pytest.mark.long
def test_the_commands_use_a_trained_run(unet, picture, capsys, tmp_path):
    run("sample", "--workdir", unet / "super", "--image", picture, "--labels", 3,
        "--seed", 5, "--out", tmp_path / "large.png")  # fmt: skip
    pixels = np.asarray(Image.open(picture), np.float32)[None, ..., None] / 127.5 - 1
    large = jd.load(unet / "super")
    wanted = jd.data.to_uint8(large.enlarge(pixels, np.array([3]), 5))[0, ..., 0]
    found = np.asarray(Image.open(tmp_path / "large.png"), int)
    assert np.abs(found - wanted).max() <= 1
    capsys.readouterr()
    run("evaluate", "--workdir", unet / "super", "--num", 8, "--features", "pixels",
        "--json")  # fmt: skip
    record = json.loads(capsys.readouterr().out)
    figures = {one["name"]: one["value"] for one in record["figures"]}
    held_out = Digits().load("test")
    rows = np.sort(jd.data.order(0, 0, len(held_out))[:8])
    alone = enlarged(large, held_out, rows)
    wanted = psnr(np.asarray(held_out.images[rows]), alone.found).mean()
    np.testing.assert_allclose(figures["PSNR"], wanted, atol=0.1)
    run("replay", "--workdir", unet / "super", "--step", 5, "--out", tmp_path)
    assert (tmp_path / "replay-5.npz").exists()


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
    first: Any = Image.open(out / "samples" / "00000.png")
    assert first.size == (8, 8)
    assert first.text["prompt"] == "a red square"
    assert len(json.loads(first.text["settings"])["enlarge"]) == 1
