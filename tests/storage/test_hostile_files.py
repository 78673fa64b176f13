"""Files of a foreign folder: pipes, devices and links are errors, and never block."""

import os
import signal
import zipfile

import numpy as np
import pytest

from jaxdiff.components.weights import _of_file
from jaxdiff.errors import InputError
from jaxdiff.evaluation import reference_statistics
from jaxdiff.evaluation.reference_statistics import load_statistics
from jaxdiff.report import page
from jaxdiff.report.elements import picture_of
from jaxdiff.runs import tensorboard
from jaxdiff.runs.folder import GRIDS, read_config, write_record
from jaxdiff.storage import manifest
from jaxdiff.storage.files import ensure_writable, read_json
from jaxdiff.storage.json_lines import History, JsonLines
from jaxdiff.storage.json_lines import read as read_lines
from jaxdiff.storage.manifest import Damaged, read_manifest
from jaxdiff.storage.torch_pickle import read_torch
from jaxdiff.training.experiment import DataInfo
from tests.helpers.fake_run import CONFIG

READERS = {
    "config": lambda path: read_config(path.parent),
    "json": read_json,
    "lines": lambda path: read_lines(path, "step"),
    "history": lambda path: History(path).close(),
    "metrics": lambda path: JsonLines(path, 0).close(),
    "statistics": load_statistics,
    "torch": read_torch,
    "safetensors": _of_file,
}


@pytest.fixture(autouse=True)
def _limit():
    """A reader that blocks fails."""

    def late(*_):
        raise TimeoutError("it blocks")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(30)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def make(path, kind):
    """Makes a pipe that nobody writes, or a link to a device without an end."""
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")


KINDS = pytest.mark.parametrize("kind", ["pipe", "device"])


@KINDS
@pytest.mark.parametrize("reader", READERS)
def test_a_pipe_and_a_device_are_errors_of_one_line(tmp_path, reader, kind):
    path = tmp_path / "config.json"
    make(path, kind)
    with pytest.raises(InputError, match=r"regular file"):
        READERS[reader](path)


@KINDS
def test_a_manifest_that_is_no_file_is_damage(tmp_path, kind):
    make(tmp_path / manifest.RECORD, kind)
    with pytest.raises(Damaged, match="is missing"):
        read_manifest(tmp_path)


@KINDS
def test_pictures_that_are_no_files_are_left_out(tmp_path, kind):
    make(tmp_path / "samples.png", kind)
    assert picture_of(tmp_path / "samples.png") == []
    (tmp_path / GRIDS).mkdir()
    make(tmp_path / GRIDS / "00000002.png", kind)
    board = tensorboard.open_board(tmp_path, [], [], 4)
    assert board is not None
    board.close()


def test_a_history_behind_a_link_is_not_written(tmp_path):
    (tmp_path / "secret").write_text("mine")
    (tmp_path / "history.jsonl").symlink_to(tmp_path / "secret")
    with pytest.raises(InputError, match=r"regular file, got a link or a device\. Rem"):
        History(tmp_path / "history.jsonl")
    assert (tmp_path / "secret").read_text() == "mine"


def test_the_probe_of_a_folder_follows_no_link(tmp_path):
    (tmp_path / "secret").write_text("mine")
    (tmp_path / f".writable.0.{os.getpid()}").symlink_to(tmp_path / "secret")
    ensure_writable(tmp_path)
    assert (tmp_path / "secret").read_text() == "mine"


def test_statistics_that_would_fill_the_memory_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "s.npz"
    np.savez_compressed(path, mu=np.zeros(50), sigma=np.zeros((50, 50)))
    assert load_statistics(path).mean.shape == (50,)
    monkeypatch.setattr(reference_statistics, "_MOST", 20_000)
    with pytest.raises(InputError, match=r"got: more than 20\.0 kB"):
        load_statistics(path)


def test_compressed_torch_files_are_refused(tmp_path):
    """PyTorch compresses nothing, and a few bytes could fill the memory."""
    with zipfile.ZipFile(tmp_path / "x.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", b"\x80\x02}.")
    with pytest.raises(InputError, match="its parts are compressed"):
        read_torch(tmp_path / "x.pth")


def test_a_report_in_a_read_only_folder_is_one_error(disk):
    folder, remount = disk
    write_record(folder, CONFIG, DataInfo((8, 8, 1), None, None))
    remount("ro")
    with pytest.raises(InputError, match=r"cannot write '.*report\.html': Read-only"):
        page.write_page(folder)
