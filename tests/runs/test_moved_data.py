"""Data that moved: the fingerprint identifies it, and the path may change."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from jaxdiff.cli import program
from jaxdiff.cli.command import File, RunData
from jaxdiff.data import ImageFolder
from jaxdiff.errors import InputError
from jaxdiff.runs.folder import (
    check_workdir,
    read_diffusion,
    write_record,
)
from jaxdiff.runs.trainer import Trainer
from tests.helpers.fake_run import CONFIG, write_run


def at(path, **options):
    """Returns the experiment on the images at a path."""
    data = ImageFolder(path=str(path), size=8, channels=1, **options)
    return dataclasses.replace(CONFIG, data=data)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Folder with a run on "images"."""
    folder = tmp_path_factory.mktemp("moved")
    (folder / "images").mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (12, 8, 8), np.uint8)
    for i, pixels in enumerate(noise):
        Image.fromarray(pixels).save(folder / "images" / f"{i}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        trainer = Trainer.of(at("images"))
        write_run(folder / "run", trainer.experiment, trainer.info)
    return folder


def test_the_stored_path_is_absolute(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", "/home/me")
    _, info = read_diffusion(folder / "run")
    for path, stored in (
        ("images/", str(folder / "images")), ("~/images", "/home/me/images"), ("", ""),
    ):  # fmt: skip
        write_record(tmp_path, at(path), info)
        assert getattr(read_diffusion(tmp_path)[0].data, "path", None) == stored


def test_without_a_fingerprint_the_place_counts(folder, tmp_path):
    """The first versions stored none."""
    _, info = read_diffusion(folder / "run")
    write_run(tmp_path / "run", at("/images"), info)
    path = tmp_path / "run" / "config.json"
    record = json.loads(path.read_text())
    del record["data"]["fingerprint"]
    path.write_text(json.dumps(record))
    check_workdir(tmp_path / "run", at("/images"), info)
    with pytest.raises(
        InputError, match=r"\(data.path: '/images', not '.*/elsewhere'\)"
    ):
        check_workdir(tmp_path / "run", at("elsewhere"), info)


def test_every_command_that_reads_the_data_of_a_run_takes_its_place(folder):
    file = File(CONFIG, None, folder / "run")
    taking = {
        name for name, command in program.COMMANDS.items()
        if any(isinstance(n.flags(file, []), RunData) for n in command.needs if n.flags)
    }  # fmt: skip
    assert taking == {"evaluate", "compare", "ema", "replay", "reproduce"}


def test_missing_data_is_one_line_with_a_flag_of_the_command(
    folder, tmp_path, monkeypatch, capsys
):
    shutil.copytree(folder / "run", tmp_path / "run")
    path = tmp_path / "run" / "config.json"
    path.write_text(path.read_text().replace(str(folder / "images"), "gone"))
    with pytest.raises(SystemExit):
        program.main(
            CONFIG, "What it is.", args=["evaluate", "--workdir", str(tmp_path / "run")]
        )
    error = capsys.readouterr().err
    assert error == "error: there is no folder 'gone'. Check --data.path.\n"
