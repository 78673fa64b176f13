"""Folder experiment, from photographs of many sizes and formats to samples."""

import contextlib
import dataclasses
import io
import sys
from pathlib import Path
from typing import Any

import jax
import matplotlib.cbook
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

import jaxdiff as jd
from experiments import folder
from jaxdiff.cli import program
from jaxdiff.cli.command import MODEL
from jaxdiff.recipes import folder as recipe
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
    for name in ("a.TIFF", "b.tiff", "notes.txt"):
        (root / name).touch()
    return root


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """Working folder of the command, which writes to runs/ there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("here"))
        yield Path()


CONFIG = dataclasses.replace(TINY, data=jd.data.ImageFolder(size=8))


@pytest.fixture(scope="module", autouse=True)
def _small():
    """Recipe with a tiny network and few steps."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (folder, recipe):
            patch.setattr(module, "CONFIG", CONFIG)
        yield


def command(*args: str) -> None:
    folder.start(list(args))


@pytest.fixture(scope="module")
def said(photographs, here):
    """Output on stderr of the command that trains from the folder."""
    text = io.StringIO()
    with jax.numpy_dtype_promotion("standard"), contextlib.redirect_stderr(text):
        command(str(photographs), "train")
    return text.getvalue()


@pytest.fixture(scope="module")
def trained(said):
    """Run of this command."""
    return jd.load("runs/mine")


def test_before_training_it_says_what_it_read(said, trained):
    training, held_out = (
        len(trained.experiment.data.load(split)) for split in ("train", "test")
    )
    assert said.splitlines()[0] == (
        f"data: {training} images of 8x8x3 to train on, {held_out} held out; 3 classes"
    )


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
    ("args", "command", "path", "workdir"),
    [
        ("cats", "run", "cats", "runs/cats"),
        ("cats/ train --seed 1", "train", "cats/", "runs/cats"),
        ("a/cats sample --num 2", "sample", None, "runs/cats"),
        ("cats train --workdir x", "train", "cats", "x"),
        ("cats --workdir=x", "run", "cats", "x"),
        ("cats statistics --num 2", "statistics", "cats", None),
        ("train --data.path cats", "train", "cats", "runs/folder"),
        ("train --data.path cats --workdir x", "train", "cats", "x"),
        ("", "run", "", "runs/folder"),
    ],
)
def test_the_folder_comes_first(args, command, path, workdir, monkeypatch, tmp_path):
    """As `jaxdiff COMMAND folder DIR`, which has no command left out."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["experiments/folder.py"])
    found: list[Any] = []

    def run(options, *needs):
        found.append(
            (command, needs[0].data.path if path is not None else None,
             str(options.workdir) if workdir else None)
        )  # fmt: skip

    entry = program.COMMANDS[command]
    needs = tuple(need for need in entry.needs if need is not MODEL)
    fake = dataclasses.replace(entry, run=run, needs=needs)
    monkeypatch.setitem(program.COMMANDS, command, fake)
    folder.start(args.split())
    words = args.split()
    if words and words[0] != "train":
        rest = [word for word in words[1:] if word != command]
        program.jaxdiff([command, "folder", words[0], *rest])
    assert set(found) == {(command, path, workdir)}


def test_no_flag_is_named_that_nobody_typed(photographs, here, capsys):
    """`statistics` has no --workdir, and DIR sets the default of --data.path."""
    command(str(photographs), "statistics", "--features", "pixels", "--num", "40")
    assert " of 40 train images of data " in capsys.readouterr().out


def test_what_is_no_folder_is_told(here, capsys):
    for word, message in (
        ("photos", "there is no folder 'photos'. Check --data.path.\n"),
        ("trian", "unknown command 'trian'. Perhaps you meant 'train'. Commands: run"),
    ):
        with pytest.raises(SystemExit) as end:
            command(word)
        assert end.value.code == 2
        assert capsys.readouterr().err.startswith(f"error: {message}")
    Path("trian").mkdir()
    with pytest.raises(SystemExit):
        command("trian")
    assert capsys.readouterr().err.startswith("error: there is no image in 'trian'.")
