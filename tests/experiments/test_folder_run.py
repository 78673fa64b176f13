"""Folder experiment, from photographs of many sizes and formats to samples."""

import dataclasses
from pathlib import Path

import jax
import matplotlib.cbook
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

import jaxdiff as jd
from experiments import folder
from jaxdiff.cli import main
from tests.helpers.runs import TINY, same_bits

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")
NUM = 500


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Folder of crops of three photographs that packages ship, with sub-folders."""
    root = tmp_path_factory.mktemp("photographs") / "mine"
    china, flower = load_sample_images().images
    hopper = matplotlib.cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)
    portrait = np.asarray(Image.open(hopper).convert("RGB"))
    rng = np.random.default_rng(0)
    for i in range(NUM):
        name, photograph = (
            ("china", china), ("flower", flower), ("a portrait", portrait)
        )[i % 3]  # fmt: skip
        height, width = rng.integers(16, 200, 2)
        y, x = (rng.integers(0, n - m) for n, m in zip(
            photograph.shape, (height, width), strict=False
        ))  # fmt: skip
        image = Image.fromarray(photograph[y : y + height, x : x + width])
        if i % 5 == 0:
            image = image.convert("L")
        path = root / name / "nested"[: i % 2 * 6] / f"{i}{ENDINGS[i % len(ENDINGS)]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
    return root


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """Working folder of the command, which writes to runs/ there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("here"))
        yield Path()


CONFIG = dataclasses.replace(TINY, data=jd.data.ImageFolder(size=8))


def command(*args: str) -> None:
    main(CONFIG, "What it is.", args=folder.arguments(list(args)))


@pytest.fixture(scope="module")
def trained(photographs, here):
    """Run that one command trains from the folder."""
    with jax.numpy_dtype_promotion("standard"):
        command(str(photographs), "train")
    return jd.load("runs/mine")


@pytest.mark.usefixtures("standard_promotion")
def test_a_folder_of_photographs_trains_and_resumes(photographs, trained, tmp_path):
    assert trained.info.image_shape == (8, 8, 3)
    assert trained.info.class_names == ("a portrait", "china", "flower")
    training = trained.experiment.data.load("train")
    held_out = trained.experiment.data.load("test")
    assert len(training) + len(held_out) == NUM
    assert 20 < len(held_out) < 90
    assert trained.step == 8

    jd.train(trained.experiment, tmp_path, until=3, progress=False)
    jd.train(trained.experiment, tmp_path, progress=False)
    assert same_bits(jd.load(tmp_path).params, trained.params)


def test_it_samples(photographs, trained, here):
    command(str(photographs), "sample", "--num", "6", "--out", "six.npz")
    with np.load(here / "six.npz") as drawn:
        assert drawn["images"].shape == (6, 8, 8, 3)
        assert drawn["labels"].tolist() == [0, 1, 2, 0, 1, 2]


def test_its_images_are_the_photographs(photographs, trained):
    """Each class has the colours of its photograph: china's sky, the flower's red."""
    data = trained.experiment.data.load("train")
    assert data.labels is not None
    colours = [
        np.asarray(data.images)[data.labels == label].mean((0, 1, 2))
        for label in range(3)
    ]
    whole = [p.mean((0, 1)) for p in load_sample_images().images]
    for label, colour in enumerate(whole, 1):
        nearest = min(range(3), key=lambda i: np.abs(colours[i] - colour).sum())
        assert nearest == label


@pytest.mark.parametrize(
    ("args", "line"),
    [
        ("cats", "run --data.path cats --workdir runs/cats"),
        (
            "cats/ train --seed 1",
            "train --data.path cats/ --workdir runs/cats --seed 1",
        ),
        ("a/cats sample --num 2", "sample --workdir runs/cats --num 2"),
        ("cats train --workdir x", "train --data.path cats --workdir x"),
        ("cats --workdir=x", "run --data.path cats --workdir=x"),
        ("train --data.path cats", "train --data.path cats"),
        ("--help", "--help"),
        ("", ""),
    ],
)
def test_the_folder_comes_first(args, line):
    assert folder.arguments(args.split()) == line.split()


def test_what_is_no_folder_is_told(here, capsys):
    with pytest.raises(SystemExit) as end:
        command("trian")
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert error == "error: there is no folder 'trian'. Check --data.path.\n"
