"""Data of a run: the fingerprint identifies them, not the place where they lie."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import jaxdiff as jd
from jaxdiff.cli import main
from jaxdiff.cli.command import File, RunData
from jaxdiff.cli.commands import COMMANDS
from jaxdiff.cli.flags import parse
from jaxdiff.cli.reproduce import ReproduceOptions, reproduce
from jaxdiff.runs.data_of_run import load_data_of
from jaxdiff.runs.folder import check_workdir, read_config
from jaxdiff.runs.trainer import Trainer
from tests.helpers.fake_run import fake_run, snapshot
from tests.helpers.runs import TINY

DATA = jd.data.ImageFolder(path="images", size=8, channels=1, held_out=0.2, flip=False)
EXPERIMENT = dataclasses.replace(TINY, data=DATA)
"""Experiment of the same programs as `TINY`, on grey images of ten classes."""


def at(path, **changes):
    """Returns the experiment with its images at another path."""
    data = dataclasses.replace(DATA, path=path, **changes)
    return dataclasses.replace(EXPERIMENT, data=data)


def path_of(workdir):
    """Returns the path of the images in a run's configuration."""
    data = read_config(workdir)[0].data
    assert isinstance(data, jd.data.ImageFolder)
    return data.path


@pytest.fixture(scope="module")
def moved(tmp_path_factory):
    """Folder of a run whose images were moved after the first step, and their place."""
    root = tmp_path_factory.mktemp("moved")
    for i in range(40):
        pixels = np.random.default_rng(i).integers(0, 255, (8, 8), np.uint8)
        path = root / "images" / str(i % 10) / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    standard = jax.numpy_dtype_promotion("standard")
    with pytest.MonkeyPatch.context() as patch, standard:
        patch.chdir(root)
        jd.train(EXPERIMENT, "run", until=1, progress=False)
    (root / "elsewhere").mkdir()
    shutil.move(root / "images", root / "elsewhere" / "photos")
    return root / "run", root / "elsewhere" / "photos"


def test_the_path_is_absolute_in_the_configuration(moved):
    workdir, _ = moved
    assert path_of(workdir) == str(workdir.parent / "images")


@pytest.mark.usefixtures("standard_promotion")
def test_a_run_resumes_on_moved_data(moved, tmp_path, monkeypatch):
    workdir, images = moved
    run = shutil.copytree(workdir, tmp_path / "run")
    with pytest.raises(jd.InputError, match=r"there is no folder '.*/images'"):
        load_data_of(jd.load(run))
    monkeypatch.chdir(images.parent)
    for path in ("photos/", "./photos", str(images)):
        jd.train(at(path, stream=path == "./photos"), run, until=1, progress=False)
        assert path_of(run) == str(images)
    monkeypatch.chdir(tmp_path)
    training, held_out = load_data_of(jd.load(run))
    assert len(training) + len(held_out) == 40


def test_other_images_at_another_path_are_other_data(moved, tmp_path):
    workdir, images = moved
    other = shutil.copytree(images, tmp_path / "other")
    Image.new("L", (8, 8)).save(other / "1" / "1.png")
    before = snapshot(workdir)
    with pytest.raises(jd.InputError, match=r"of other data \(fingerprint '\w+', not"):
        jd.train(at(str(other)), workdir, until=1, progress=False)
    with pytest.raises(jd.InputError, match=r"\(data.flip: False, not True\)"):
        jd.train(at(str(images), flip=True), workdir, until=1, progress=False)
    assert snapshot(workdir) == before


def test_data_without_a_fingerprint_are_compared_by_their_options(tmp_path):
    """Runs of older versions have no fingerprint."""
    fake_run(tmp_path / "run", conditional=True)
    experiment, info = read_config(tmp_path / "run")
    check_workdir(tmp_path / "run", experiment, info)
    other = dataclasses.replace(experiment, data=jd.data.FashionMNIST())
    with pytest.raises(jd.InputError, match=r"data.type: 'Digits', not 'FashionMNIST'"):
        check_workdir(tmp_path / "run", other, info._replace(fingerprint="0123"))


@pytest.mark.parametrize("name", ["compare", "evaluate", "ema", "replay", "reproduce"])
def test_commands_take_the_path_of_moved_data(moved, name):
    workdir, images = moved
    file, command = File(TINY, None, Path("runs/x")), COMMANDS[name]
    words = ["--workdir", str(workdir), "--data.path", str(images)]
    more = [need.flags(file, words) for need in command.needs if need.flags]
    assert isinstance(more[0], RunData)
    assert more[0].data == read_config(workdir)[0].data
    options, given = parse([command.defaults(file), *more], words, "", "")
    found = command.needs[0].get(file, options, given)
    if isinstance(found, jd.runs.Run):
        assert sum(map(len, load_data_of(found))) == 40
        found = found.experiment.data
    assert found == dataclasses.replace(DATA, path=str(images))


@pytest.mark.long
@pytest.mark.usefixtures("standard_promotion")
def test_a_run_on_moved_data_is_reproduced_from_the_command_line(
    moved, tmp_path, capsys
):
    workdir, images = moved
    line = f"reproduce --workdir {workdir} --again {tmp_path / 'again'}"
    with pytest.raises(SystemExit):
        main(TINY, "What it is.", args=line.split())
    assert "there is no folder" in capsys.readouterr().err
    main(TINY, "What it is.", args=[*line.split(), "--data.path", str(images)])
    assert "bitwise identical" in capsys.readouterr().out


@pytest.fixture(scope="module")
def on_arrays(tmp_path_factory):
    """Folder of a run of one step on arrays, and the arrays."""
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 1), np.uint8)
    mine = jd.data.from_arrays(images, np.arange(40) % 10)
    workdir = tmp_path_factory.mktemp("arrays") / "run"
    with jax.numpy_dtype_promotion("standard"):
        jd.train(TINY, workdir, dataset=mine, until=1, progress=False)
    return workdir, mine


def test_a_run_on_arrays_is_recorded_as_one(on_arrays):
    workdir, mine = on_arrays
    assert jd.load(workdir).experiment == dataclasses.replace(
        TINY, data=jd.data.Arrays(flip=False)
    )
    mirrored = dataclasses.replace(TINY, data=jd.data.ImageFolder(path="x", flip=True))
    assert Trainer.of(mirrored, mine).experiment.data == jd.data.Arrays(flip=True)


def test_a_run_on_arrays_is_not_reproduced_on_other_data(on_arrays, tmp_path):
    workdir, mine = on_arrays
    options = ReproduceOptions(workdir=workdir, again=tmp_path / "again")
    with pytest.raises(jd.InputError, match="data must name images on disk, got arra"):
        reproduce(options)
    with pytest.raises(jd.InputError, match="data must have the fingerprint of the"):
        load_data_of(jd.load(workdir))

    # Older versions recorded the data of the experiment, here the digits.
    old = shutil.copytree(workdir, tmp_path / "old")
    config = json.loads((old / "config.json").read_text())
    config["experiment"]["data"] = {"type": "Digits", "flip": False}
    (old / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        jd.InputError, match=f"fingerprint: '{mine.fingerprint()}', not"
    ):
        reproduce(ReproduceOptions(workdir=old, again=tmp_path / "again"))
    assert not (tmp_path / "again").exists()


@pytest.mark.usefixtures("standard_promotion")
def test_an_older_run_on_arrays_resumes_with_them(on_arrays, tmp_path):
    workdir, mine = on_arrays
    old = shutil.copytree(workdir, tmp_path / "old")
    config = json.loads((old / "config.json").read_text())
    config["experiment"]["data"] = {"type": "Digits", "flip": False}
    (old / "config.json").write_text(json.dumps(config))
    jd.train(TINY, old, dataset=mine, until=1, progress=False)
    assert read_config(old)[0].data == jd.data.Arrays()
