"""Training on images in buckets: shapes, resume, previews, latents, refusals."""

import json
import os
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import jaxdiff as jd
from jaxdiff import plots
from jaxdiff.cli.train import summary
from jaxdiff.cli.train_autoencoder import trainer_of
from jaxdiff.conditioning.prompts import Prompts
from jaxdiff.data import Buckets, ImageFolder, Latents
from jaxdiff.errors import InputError
from jaxdiff.networks import DiTConfig, EDM2Config
from jaxdiff.pretrained import from_diffusers, write_run
from jaxdiff.runs import parts as parts_of_runs
from jaxdiff.runs.data_of_run import load_data_of
from jaxdiff.runs.encode import encode
from jaxdiff.runs.load import load
from jaxdiff.runs.log import events_of
from jaxdiff.runs.trainer import Trainer
from jaxdiff.training import LowResolution
from jaxdiff.training.autoencoder_experiment import (
    AutoencoderExperiment,
    ClassifierFeatures,
    NoFeatures,
)
from jaxdiff.training.experiment import Training, Upkeep
from jaxdiff.training.optimizer import Optimizer
from tests.conditioning.test_tokenizers import clip as clip
from tests.helpers.own_networks import MLP, ConvNet
from tests.helpers.runs import same_bits
from tests.helpers.text_pipelines import made_here

pytestmark = pytest.mark.usefixtures("standard_promotion")
ROOT = Path(__file__).parents[2]
SHAPES = ((4, 8, 1), (8, 4, 1), (8, 8, 1))
EXPERIMENT = jd.Experiment(
    schedule=jd.Linear(num_steps=20, beta_start=1e-3, beta_end=0.6),
    optimizer=Optimizer(learning_rate=1e-2, warmup_steps=2),
    training=Training(num_steps=8, batch_size=8, ema_decay=0.9),
    upkeep=Upkeep(log_every=2, checkpoint_every=4, sample_every=8, sample_steps=1),
)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Folder of 60 pictures of several proportions."""
    folder = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(0)
    for i in range(60):
        sides = [(40, 40), (41, 40), (24, 40), (60, 25)][i % 4]
        pixels = rng.integers(0, 256, sides, np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return folder


def experiment_of(folder, **options) -> jd.Experiment:
    data = ImageFolder(path=str(folder), size=8, buckets=4, channels=1)
    return replace(EXPERIMENT, data=data, **options)


def train(folder, workdir, **options) -> Any:
    experiment = experiment_of(folder)
    state = jd.train(experiment, workdir, network=ConvNet(), progress=False, **options)
    return jax.device_get(state)


@pytest.fixture(scope="module")
def finished(photographs, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("buckets") / "run"
    with jax.numpy_dtype_promotion("standard"):
        return workdir, train(photographs, workdir)


def test_a_run_compiles_once_for_each_shape(photographs, finished):
    workdir, _ = finished
    trainer = Trainer.of(experiment_of(photographs), network=ConvNet())
    used = [trainer.batch(step, np.arange(8)).images.shape[1:] for step in range(8)]
    assert set(used) == set(SHAPES)
    events = events_of(workdir, "compile")
    new = [step + 1 for step in range(8) if used[step] not in used[:step]]
    assert [event["step"] for event in events] == new
    assert {event["images"] for event in events} == {"4x8", "8x4", "8x8"}


def test_resume_is_bitwise_identical(photographs, finished, tmp_path):
    workdir, whole = finished
    train(photographs, tmp_path, until=3)
    assert same_bits(train(photographs, tmp_path), whole)
    lines = [path / "metrics.jsonl" for path in (workdir, tmp_path)]
    assert lines[0].read_text() == lines[1].read_text()


def test_previews_and_evaluation_have_the_shape_of_the_most_images(finished, tmp_path):
    workdir, _ = finished
    run = load(workdir, network=ConvNet())
    assert run.info.image_shape == (8, 8, 1)
    with pytest.warns(UserWarning, match="used the images of 8x8, the bucket with"):
        training, held_out = load_data_of(run)
    assert training.image_shape == held_out.image_shape == (8, 8, 1)
    assert 20 <= len(training) < 40
    assert np.asarray(training.images).shape[1:] == (8, 8, 1)
    sizes = []
    for shape in ((8, 8, 1), (4, 8, 1)):
        plots.save_samples(
            tmp_path / "a.png", np.zeros((80, *shape), np.uint8), None, None, 8
        )
        sizes.append(Image.open(tmp_path / "a.png").size)
    grid = Image.open(workdir / "grids" / "step_00000008.png")
    assert grid.size == sizes[0] != sizes[1]


def test_a_run_draws_images_of_other_shapes(finished):
    run = load(finished[0], network=ConvNet()).resized(4, 8)
    sampling = replace(run.experiment.sampling, sampler=jd.DDIM(
        spacing=jd.spacing.Trailing(num_steps=1)
    ))  # fmt: skip
    assert run.generate(None, 3, 0, sampling=sampling).shape == (3, 4, 8, 1)


def test_the_summary_has_every_bucket(photographs):
    network = jd.UNetConfig(channels=4, multipliers=(1,), blocks=1, attention=())
    experiment = experiment_of(photographs, network=replace(network, groups=2))
    lines = summary(Trainer.of(experiment))
    assert "images of 3 sizes to train on" in lines[0]
    sizes = {part.image_shape: len(part) for part in experiment.data.load().buckets}
    listed = ", ".join(f"{h}x{w} ({num})" for (h, w, _), num in sizes.items())
    assert lines[1] == (
        f"buckets: {listed}; a program is compiled for each; samples and evaluation "
        "are 8x8"
    )
    training = replace(experiment.training, batch_size=16)
    lines = summary(Trainer.of(replace(experiment, training=training)))
    assert "; in 2 of them a batch of 16 repeats images;" in lines[1]


PROGRAM = """
import sys
from jaxdiff.parallel.processes import join
join()
import jax
import jaxdiff as jd
from tests.helpers.own_networks import ConvNet
from tests.runs.test_bucketed import experiment_of
jax.config.update("jax_numpy_dtype_promotion", "standard")
folder, workdir = sys.argv[1:]
jd.train(experiment_of(folder), workdir, network=ConvNet(), progress=False)
"""


@pytest.mark.long
def test_two_processes_train_as_one(photographs, finished, tmp_path):
    done = subprocess.run(
        ["launch/local", "-n", "2", "-o", str(tmp_path / "logs"), sys.executable, "-c",
         PROGRAM, str(photographs), str(tmp_path / "run")],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True,
        text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    one, two = (
        [json.loads(line) for line in (path / "metrics.jsonl").open()]
        for path in (finished[0], tmp_path / "run")
    )
    assert [line["step"] for line in two] == [line["step"] for line in one]
    for a, b in zip(one, two, strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-5)


# Networks


NETWORKS = (
    jd.UNetConfig(channels=4, multipliers=(1, 2), blocks=1, attention=(8,), groups=2),
    EDM2Config(
        channels=8, multipliers=(1, 2), blocks=1, attention=(8,), head_channels=4
    ),
)


@pytest.mark.parametrize("config", NETWORKS, ids=lambda c: type(c).__name__)
def test_attention_stays_in_its_levels(config):
    sizes = [(16, 16), (12, 20), (20, 12), (8, 16)]
    found = config.for_sizes(sizes)
    assert found.attention == (8, 10)
    assert found.for_sizes(sizes) == found
    shapes = []
    for height, width in sizes:
        params = jax.eval_shape(
            found.build(1).init, jax.random.key(0), jnp.zeros((1, height, width, 1)),
            jnp.zeros(1),
        )  # fmt: skip
        shapes.append(jax.tree.map(lambda a: a.shape, params))
    assert all(shape == shapes[0] for shape in shapes)
    plain = config.build(1).init, jax.random.key(0), jnp.zeros((1, 12, 20, 1))
    params = jax.eval_shape(*plain, jnp.zeros(1))
    assert jax.tree.map(lambda a: a.shape, params) != shapes[0]


def test_a_recorded_network_has_the_attention_of_all_buckets(photographs):
    data = ImageFolder(path=str(photographs), size=16, buckets=4, channels=1)
    network = NETWORKS[0]
    found: Any = Trainer.of(replace(EXPERIMENT, data=data, network=network)).experiment
    assert found.network == network.for_sizes([(16, 16), (12, 20)])


# Refusals


@pytest.mark.parametrize(("options", "network", "message"), [
    ({"network": DiTConfig(width=8, depth=1, heads=1, positions="learned")}, None,
     r"network\.positions must be fixed for images of \d sizes, got learned"),
    ({"network": jd.UNetConfig(multipliers=(1, 1, 1, 1))}, None,
     "image height must be a multiple of 8 for 4 levels, got 4. Use 8"),
    ({"training": Training(batch_size=8, steps_per_dispatch=2)}, None,
     r"training\.steps_per_dispatch must be 1 for images in buckets.* got 2"),
    ({"condition": LowResolution(factor=8)}, None,
     r"condition\.factor must divide the images' 4x8 pixels, got 8"),
    ({}, MLP(), r"network must have the same parameters .* got others for 4x8 \(Dense"),
])  # fmt: skip
def test_what_cannot_train_on_buckets_is_one_line(
    photographs, options, network, message
):
    with pytest.raises(InputError, match=message) as caught:
        Trainer.of(experiment_of(photographs, **options), network=network)
    assert "\n" not in str(caught.value)


def test_an_autoencoder_trains_on_squares(photographs):
    data = experiment_of(photographs).data
    for features in (NoFeatures(), ClassifierFeatures()):
        experiment = AutoencoderExperiment(data=data, features=features)
        with pytest.raises(InputError, match=r"data\.buckets must be 0 for an autoen"):
            trainer_of(experiment)


# Latents


class Captioned:
    """Data of 30 captioned images in 3 buckets; 6 are held out."""

    flip = False

    def load(self, split="train"):
        rng = np.random.default_rng(len(split))
        sizes = {"train": (3, 17, 4), "test": (2, 3, 1)}[split]
        shapes = ((4, 8), (8, 8), (8, 4))
        parts = [
            rng.integers(0, 256, (size, *shape, 3)).astype(np.uint8)
            for size, shape in zip(sizes, shapes, strict=True)
        ]
        captions = [f"picture {i % 7}" for i in range(sum(sizes))]
        return jd.data.from_arrays(Buckets(parts), captions=captions)


@pytest.fixture(scope="module")
def parts(clip, tmp_path_factory):
    """Autoencoder and text encoder, with the numbers of Stable Diffusion XL."""
    folder = tmp_path_factory.mktemp("parts")
    made_here(folder / "theirs", clip)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_run(from_diffusers(folder / "theirs", num_steps=3), folder / "run")
    found: Any = parts_of_runs.read_parts(folder / "run")
    prompts = Prompts(found.prompts.encoders, numbers="sizes")
    return replace(found, adapted=prompts)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:the licence", "ignore:left out")
def test_latents_of_buckets_train_likewise(parts, tmp_path):
    data: Any = Captioned()
    info = encode(data, parts, tmp_path / "latents", flip=True)
    assert info.latent_shape == (4, 4, 4)
    options = Latents(path=str(tmp_path / "latents"), flip=True)
    for split in ("train", "test"):
        pictures, found = data.load(split), options.load(split)
        rows: Any
        assert [len(part) for part in found.buckets] == [
            len(part) for part in pictures.buckets
        ]
        assert found.captions == pictures.captions
        for ours, theirs in zip(found.buckets, pictures.buckets, strict=True):
            assert ours.moments is not None
            for rows, images in (
                (ours.images, theirs.images),
                (ours.moments.mirrored, np.asarray(theirs.images)[:, :, ::-1]),
            ):
                pixels = jnp.asarray(jd.data.to_float(images))
                wanted = np.concatenate(parts.autoencoder.moments(pixels), -1)
                np.testing.assert_allclose(rows, wanted, rtol=2e-3, atol=1e-4)
    sizes = set()
    for step in range(30):
        one: Any = jd.data.batch(options.load(), 0, step, 4, flip=True)
        height, width = (2 * side for side in one.images.shape[1:3])
        numbers = np.tile([height, width, 0, 0, height, width], (4, 1))
        np.testing.assert_array_equal(one.condition.numbers, numbers)
        assert one.deviation.shape == one.images.shape
        sizes.add((height, width))
    assert sizes == {(4, 8), (8, 8), (8, 4)}
    streamed = replace(options, stream=True).load()
    assert streamed.fingerprint() == options.load().fingerprint()
    one = jd.data.batch(streamed, 0, 5, 4, flip=True)
    assert same_bits(one, jd.data.batch(options.load(), 0, 5, 4, flip=True))


@pytest.mark.long
def test_latents_that_were_stopped_go_on_to_the_same_files(parts, tmp_path):
    data: Any = Captioned()
    encode(data, parts, tmp_path / "whole")
    encode(data, parts, tmp_path / "torn")
    names = sorted(p.relative_to(tmp_path / "whole") for p in
                   (tmp_path / "whole").rglob("*.array_record"))  # fmt: skip
    assert len(names) == 3 + 3 + 1
    (tmp_path / "torn" / "latents.json").rename(tmp_path / "torn" / "encoding.json")
    (tmp_path / "torn" / names[2]).unlink()
    encode(data, parts, tmp_path / "torn")
    for name in names:
        both = [(tmp_path / run / name).read_bytes() for run in ("whole", "torn")]
        assert both[0] == both[1]
    read = [(tmp_path / run / "latents.json").read_text() for run in ("whole", "torn")]
    assert read[0] == read[1]
