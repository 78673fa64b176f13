"""Pictures of a run: their images, places and noise."""

import dataclasses
from typing import Any, cast, get_args

import jax
import numpy as np
import pytest
from PIL import Image
from PIL.GifImagePlugin import GifImageFile

import jaxdiff as jd
from jaxdiff import plots
from jaxdiff.data.dataset import from_arrays
from jaxdiff.plots import images as images_lib
from jaxdiff.plots.images import GAP
from jaxdiff.report import run_pictures
from jaxdiff.schedules import ScheduleOptions
from jaxdiff.storage.json_lines import JsonLines
from jaxdiff.training.experiment import DataInfo, Sampling
from jaxdiff.training.initialize import build_model

CELL = 64 + GAP
"""Size of an enlarged image of 8x8 pixels with the gap after it, in pixels."""
NAMES = ("zero", "one", "two")
SHAPE = (8, 8, 1)
SCHEDULE = jd.Linear(num_steps=8, beta_end=0.3)


def make_run(
    num_classes: int | None, names: tuple[str, ...] | None = None
) -> jd.runs.Run:
    """Returns a run as `load` does, with an untrained network."""
    network = jd.UNetConfig(
        channels=4, multipliers=(1,), blocks=1, attention=(), groups=2
    )
    experiment = jd.Experiment(
        network=network, schedule=SCHEDULE, sampling=Sampling(chunk=8)
    )
    info = DataInfo(SHAPE, num_classes, names)
    with pytest.warns(UserWarning, match="the last step keeps .* Use more steps"):
        model = build_model(experiment, info)
    shapes = jax.eval_shape(model.init)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: np.float32(0.2 * rng.normal(size=leaf.shape)), shapes
    )
    return jd.runs.Run(experiment, info, model, params, step=0)


@pytest.fixture(scope="module")
def labelled():
    return make_run(3, NAMES)


@pytest.fixture(scope="module")
def unlabelled():
    return make_run(None)


def shades(num):
    """Returns float images [num, 8, 8, 1], each of one grey."""
    greys = np.linspace(-1, 1, num, dtype=np.float32)
    return np.broadcast_to(greys[:, None, None, None], (num, *SHAPE))


def read(path):
    with Image.open(path) as picture:
        return np.asarray(picture.convert("L")).astype(int)


def cells(pixels, rows, columns, left=0):
    """Returns the grey in the middle of every cell [rows, columns]."""
    assert pixels.shape == (rows * CELL + GAP, left + columns * CELL + GAP)
    return pixels[GAP + 32 :: CELL, left + GAP + 32 :: CELL]


def left_of(pixels, columns):
    return pixels.shape[1] - columns * CELL - GAP


def save_samples(run, images, labels, path, columns):
    """Saves a grid as the commands do."""
    names = run.info.class_names
    plots.save_samples(path, jd.data.to_uint8(images), labels, names, columns)


def test_samples_have_a_row_a_class_in_order(tmp_path, labelled):
    labels = np.array([2, 0, 1, 0, 2, 1, 1, 0, 2])
    images, path = shades(9), tmp_path / "samples.png"
    save_samples(labelled, images, labels, path, columns=10)
    pixels = read(path)
    left = left_of(pixels, 3)
    expected = jd.data.to_uint8(images)[[[1, 3, 7], [2, 5, 6], [0, 4, 8]], 0, 0, 0]
    assert (cells(pixels, 3, 3, left) == expected).all()
    assert left > 30  # space for the names
    for row in range(3):
        assert (pixels[GAP + row * CELL :][:64, :left] < 128).any()


@pytest.mark.parametrize(
    ("labels", "columns", "rows", "expected"),
    [
        ([0, 0, 0, 1, 1, 2], 10, 3, [[0], [3], [5]]),  # the smallest of unequal counts
        ([2, 2, 2, 0, 0], 10, 2, [[3, 4], [0, 1]]),  # a class without a sample
        ([1, 1, 1, 1, 1], 10, 1, [[0, 1, 2, 3, 4]]),
        ([0, 0, 0, 1, 1, 1], 2, 2, [[0, 1], [3, 4]]),  # at most 2 columns
        ([0, 0, 0, 1, 1, 1], 1, 2, [[0], [3]]),
    ],
)
def test_samples_of_unequal_counts(tmp_path, labelled, labels, columns, rows, expected):
    images, path = shades(len(labels)), tmp_path / "samples.png"
    save_samples(labelled, images, np.array(labels), path, columns)
    pixels, across = read(path), len(expected[0])
    found = cells(pixels, rows, across, left_of(pixels, across))
    assert (found == jd.data.to_uint8(images)[expected, 0, 0, 0]).all()


@pytest.mark.parametrize("names", [NAMES, None])
def test_rows_are_named_or_numbered(tmp_path, labelled, names, monkeypatch):
    info = labelled.info._replace(class_names=names)
    run = jd.runs.Run(**{**vars(labelled), "info": info})
    texts = []
    real = images_lib.save_grid

    def save_grid(*args, **options):
        texts.extend(options["row_labels"])
        real(*args, **options)

    monkeypatch.setattr(images_lib, "save_grid", save_grid)
    labels = np.array([2, 0, 2, 0])
    save_samples(run, shades(4), labels, tmp_path / "samples.png", columns=9)
    assert texts == (["zero", "two"] if names else ["0", "2"])


def test_samples_without_classes_are_a_plain_grid(tmp_path, unlabelled):
    images, path = shades(9), tmp_path / "samples.png"
    save_samples(unlabelled, images, None, path, columns=3)
    expected = jd.data.to_uint8(images)[:, 0, 0, 0].reshape(3, 3)
    assert (cells(read(path), 3, 3) == expected).all()


def test_samples_without_classes_have_so_many_columns(tmp_path, unlabelled):
    path = tmp_path / "samples.png"
    save_samples(unlabelled, shades(10), None, path, columns=5)
    cells(read(path), 2, 5)


def write_metrics(workdir, lines=20):
    with JsonLines(workdir / "metrics.jsonl", 0) as writer:
        for step in range(1, lines + 1):
            quarters = {f"loss_q{q}": q / step for q in (1, 2, 3, 4)}
            writer.write(step, {"loss": 1 / step, "learning_rate": 1.0, **quarters})


@pytest.mark.parametrize(
    "name", ["labelled", pytest.param("unlabelled", marks=pytest.mark.long)]
)
def test_all_pictures_of_a_run(tmp_path, name, request):
    run = request.getfixturevalue(name)
    images = np.random.default_rng(0).integers(0, 256, (5, *SHAPE), np.uint8)
    labels = None if name == "unlabelled" else np.array([0, 1, 2, 0, 1])
    write_metrics(tmp_path)
    frames = run_pictures.reverse_frames(run)
    run_pictures.save_pictures(run, from_arrays(images, labels), frames, tmp_path)
    save_samples(run, shades(5), labels, tmp_path / "samples.png", 5)
    written = {path.name for path in tmp_path.iterdir()} - {"metrics.jsonl"}
    assert written == set(run_pictures.PICTURES)

    num = 10 if labels is None else 3
    columns = -(-num // 2)
    with cast(Any, GifImageFile(tmp_path / "reverse.gif")) as gif:
        assert gif.size == (columns * CELL + GAP, 2 * CELL + GAP)
        # The noise and 8 steps. The last frames may be equal, and are then joined.
        assert 2 <= gif.n_frames <= 9
        first = np.asarray(gif.convert("L"))[GAP::CELL, GAP::CELL]
        assert len(np.unique(first)) > 2

    # The image, then the image at times 0 to 7 with the same noise.
    pixels = read(tmp_path / "forward.png")
    assert pixels.shape[1] == 9 * CELL + GAP
    assert pixels.shape[0] > CELL + GAP
    row = pixels[GAP : GAP + 64 : 8]
    tiles = [row[:, GAP + i * CELL :][:, :64:8] for i in range(9)]
    assert (tiles[0] == images[0, :, :, 0]).all()
    noise = np.random.default_rng(0).standard_normal((8, 8), np.float32)
    alphas_bar = np.cumprod(1 - np.linspace(1e-4, 0.3, 8))
    for tile, kept in zip(tiles[1:], alphas_bar, strict=True):
        clean = images[0, :, :, 0] / 127.5 - 1
        noisy = np.sqrt(kept) * clean + np.sqrt(1 - kept) * noise
        expected = np.clip((noisy + 1) * 127.5, 0, 255)
        assert np.abs(tile - expected).max() <= 0.51


@pytest.mark.parametrize(
    ("num_classes", "asked", "columns"), [(3, 3, 2), (20, 20, 10), (25, 20, 10)]
)
def test_the_reverse_chain_shows_an_image_a_class(
    tmp_path, monkeypatch, labelled, num_classes, asked, columns
):
    """The frames go from noise to images, with the classes in order."""
    states = shades(9 * asked).reshape(asked, 9, *SHAPE)
    calls = []

    def generate(self, labels, num, seed, *, every):
        calls.append((labels.tolist(), num, seed, every))
        return states

    monkeypatch.setattr(jd.runs.Run, "generate", generate)
    info = labelled.info._replace(num_classes=num_classes)
    run = jd.runs.Run(**{**vars(labelled), "info": info})
    frames = run_pictures.reverse_frames(run, seed=4)
    assert calls == [(list(range(asked)), asked, 4, 1)]
    write_metrics(tmp_path)
    images = from_arrays(jd.data.to_uint8(shades(3)))
    run_pictures.save_pictures(run, images, frames, tmp_path)
    with cast(Any, GifImageFile(tmp_path / "reverse.gif")) as gif:
        for frame in range(gif.n_frames):
            gif.seek(frame)
            pixels = np.asarray(gif.convert("L")).astype(int)
            found = cells(pixels, 2, columns).ravel()
            # Equal frames are joined: with 16 greys, the darkest ones may be equal.
            if gif.n_frames == 9:
                expected = jd.data.to_uint8(states[:, frame, 0, 0, 0])
                assert np.abs(found[:asked] - expected).max() <= 9
        last = jd.data.to_uint8(states[:, -1, 0, 0, 0])
        assert np.abs(found[:asked] - last).max() <= 9


@pytest.mark.parametrize("num_steps", [1, 39, 40, 79, 80, 1000])
def test_the_animation_has_about_as_many_frames_as_it_should(
    monkeypatch, unlabelled, num_steps
):
    strides = []

    def generate(self, labels, num, seed, *, every):
        strides.append(every)
        return shades(10 * 2).reshape(10, 2, *SHAPE)

    monkeypatch.setattr(jd.runs.Run, "generate", generate)
    schedule = jd.Schedule(*(np.full(num_steps, 0.5, np.float32),) * 5)  # type: ignore[arg-type]
    model = dataclasses.replace(unlabelled.model, schedule=schedule)
    run = jd.runs.Run(**{**vars(unlabelled), "model": model})
    run_pictures.reverse_frames(run)
    frames = num_steps // strides[0]
    assert min(num_steps, run_pictures.FRAMES) <= frames < 2 * run_pictures.FRAMES


def test_the_losses_drawn_are_those_of_the_metrics(tmp_path, monkeypatch):
    with JsonLines(tmp_path / "metrics.jsonl", 0) as writer:
        writer.write(1, {"loss": 1.0, "loss_q1": 0.5, "grad_norm": 3.0})
        writer.write(2, {"loss": 0.1, "loss_q2": 2.0, "loss_q4": 4.0})
    drawn = []
    monkeypatch.setattr(plots, "save_curve", lambda path, *args: drawn.extend(args))
    run_pictures.save_loss(tmp_path)
    steps, series = drawn
    assert steps.tolist() == [1, 2]
    assert next(iter(series)) == "loss"
    np.testing.assert_array_equal(series["loss"], [1, 0.1])
    quarters = [values for name, values in series.items() if name != "loss"]
    expected = [[0.5, np.nan], [np.nan, 2], [np.nan] * 2, [np.nan, 4]]
    np.testing.assert_array_equal(quarters, expected)


@pytest.mark.parametrize("num_steps", [1, 8, 300])
def test_the_schedules_are_those_of_the_runs_length(tmp_path, monkeypatch, num_steps):
    drawn = {}
    monkeypatch.setattr(plots, "save_schedules", lambda path, y: drawn.update(y))
    run_pictures.save_schedules(num_steps, tmp_path / "schedules.png")
    names = {option.__name__ for option in get_args(ScheduleOptions)}
    assert set(drawn) == names - {"Betas"}
    num_steps = max(num_steps, 2)
    assert {curve.shape for curve in drawn.values()} == {(num_steps,)}
    betas = np.linspace(1e-4, 0.02, num_steps)
    np.testing.assert_allclose(drawn["Linear"], np.cumprod(1 - betas), rtol=1e-5)
    exploding = 1 / (1 + np.array([0.002, 80.0]) ** 2)
    np.testing.assert_allclose(drawn["VE"][[0, -1]], exploding, rtol=1e-4)
