"""Full disk: one line that names it, and the files that were there are complete."""

import os
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import jaxdiff as jd
from jaxdiff import plots
from jaxdiff.errors import InputError
from jaxdiff.runs import tensorboard
from jaxdiff.runs.log import Log
from jaxdiff.storage.cache import load_arrays, save_arrays
from jaxdiff.storage.event_files import Events
from jaxdiff.storage.files import error_number, replacing, write_atomic
from jaxdiff.storage.json_lines import History, JsonLines, read
from tests.helpers.runs import OWN, TINY

NOISE = np.random.default_rng(0).integers(0, 256, (16, 32, 32, 3), np.uint8)
FULL = "No space left on device. Free space"


def fill(folder):
    """Fills the disk of a folder, and returns the file that does."""
    path = folder / "filling"
    with path.open("ab", buffering=0) as file:
        try:
            while True:
                file.write(bytes(512))
        except OSError:
            return path


def write_many(write, start=0):
    for i in range(start, 5000):
        write(i)


def save_npz(path):
    with replacing(path) as file:
        np.savez_compressed(file, images=NOISE)


WRITERS = {
    "text": lambda path: write_atomic(path, "x" * 10_000),
    "npz": save_npz,
    "grid": lambda path: plots.save_grid(path, NOISE),
    "gif": lambda path: plots.save_gif(path, NOISE[None]),
    "curve": lambda path: plots.save_curve(path, np.arange(1, 3), {"a": np.arange(2)}),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_full_disk_leaves_the_old_file(disk, kind):
    folder, _ = disk
    path = folder / "file"
    WRITERS[kind](path)
    old = path.read_bytes()
    assert old
    filling = fill(folder)
    with pytest.raises(InputError, match=f"cannot write '{path}': {FULL}"):
        WRITERS[kind](path)
    assert path.read_bytes() == old
    assert sorted(p.name for p in folder.iterdir()) == ["file", "filling"]
    filling.unlink()
    WRITERS[kind](path)


def test_a_link_is_replaced_and_the_file_behind_it_remains(tmp_path):
    secret = tmp_path / "secret"
    for name, write in WRITERS.items():
        secret.write_text("mine")
        path = tmp_path / name
        path.symlink_to(secret)
        write(path)
        assert not path.is_symlink()
        assert secret.read_text() == "mine"


def test_a_prepared_link_under_the_temporary_name_is_not_followed(tmp_path):
    (tmp_path / "secret").write_text("mine")
    (tmp_path / f".file.{os.getpid()}.tmp").symlink_to(tmp_path / "secret")
    write_atomic(tmp_path / "file", "new")
    assert (tmp_path / "secret").read_text() == "mine"
    assert (tmp_path / "file").read_text() == "new"


def test_an_error_while_writing_leaves_nothing(tmp_path):
    def interrupted():
        with replacing(tmp_path / "file") as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_log_lines_are_complete_on_a_full_disk(disk):
    folder, _ = disk
    lines = JsonLines(folder / "metrics.jsonl", 0)
    history = History(folder / "history.jsonl")
    with lines, history:
        lines.write(1, {"loss": 0.5})
        filling = fill(folder)
        with pytest.raises(InputError, match=f"metrics.jsonl': {FULL}"):
            write_many(lambda i: lines.write(i, {"loss": 0.5}), start=2)
        with pytest.raises(InputError, match=f"history.jsonl': {FULL}"):
            write_many(lambda i: history.write("speed", step=i))
    # Closing raises nothing, and the lines are complete.
    found = [line["step"] for line in read(folder / "metrics.jsonl", "step")]
    assert found == list(range(1, len(found) + 1))
    for path in folder.glob("*.jsonl"):
        assert path.read_bytes()[-1:] in (b"\n", b"")
    filling.unlink()
    with JsonLines(folder / "metrics.jsonl", len(found)) as lines:
        lines.write(len(found) + 1, {})
    assert len(read(folder / "metrics.jsonl", "step")) == len(found) + 1


def write_events(folder, lines):
    """Writes the event files of a run of 200 steps."""
    board = tensorboard.open_board(folder, lines, [], 200)
    assert board is not None
    board.close()


def test_earlier_event_files_remain_on_a_full_disk(disk, tmp_path):
    folder, _ = disk
    lines = [{"step": i, "loss": 0.5} for i in range(200)]
    write_events(folder, lines)
    (old,) = (folder / "tensorboard").iterdir()
    content = old.read_bytes()
    filling = fill(folder)
    with pytest.raises(InputError, match=f"tensorboard': {FULL}"):
        tensorboard.open_board(folder, lines, [], 200)
    assert list((folder / "tensorboard").iterdir()) == [old]
    assert old.read_bytes() == content
    filling.unlink()
    write_events(folder, lines)
    (new,) = (folder / "tensorboard").iterdir()
    assert new != old
    # An event file that fails later keeps its own points.
    events = Events(folder / "tensorboard")
    events.replace_earlier()
    fill(folder)
    with pytest.raises(InputError, match=FULL), events:
        write_many(lambda i: events.write(i, {"loss": 0.5}))
    assert len(list((folder / "tensorboard").iterdir())) == 1


def test_a_run_on_a_full_disk_ends_with_one_error(disk, monkeypatch):
    folder, remount = disk
    remount("size=4m")
    add = Log.add

    def add_and_fill(self, step, metrics):
        if step == 6:
            while not (workdir / "checkpoints" / "4").exists():
                time.sleep(0.01)
            fill(folder)
        add(self, step, metrics)

    monkeypatch.setattr(Log, "add", add_and_fill)
    workdir = folder / "run"
    with pytest.raises(InputError, match=FULL), jax.numpy_dtype_promotion("standard"):
        jd.train(TINY, workdir, network=OWN, progress=False)
    assert sorted(p.name for p in (workdir / "checkpoints").iterdir()) == ["4"]
    assert jd.load(workdir, network=OWN).step == 4


@pytest.fixture
def full_cache(disk, monkeypatch):
    folder, _ = disk
    monkeypatch.setenv("JAXDIFF_CACHE", str(folder / "cache"))
    return folder


CACHE = (
    r"cannot use the cache folder '.*': No space left on device\. Free space there, or"
)


def test_arrays_that_do_not_fit_into_the_cache(full_cache):
    save_arrays("a/b", {"x": np.arange(4)})
    fill(full_cache)
    with pytest.raises(InputError, match=CACHE):
        save_arrays("a/b", {"x": np.arange(10_000)})
    found = load_arrays("a/b")
    assert found is not None
    np.testing.assert_array_equal(found["x"], np.arange(4))


def test_images_that_do_not_fit_into_the_cache(full_cache, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for i, pixels in enumerate(NOISE[:8]):
        Image.fromarray(pixels).save(images / f"{i}.png")
    folder = jd.data.ImageFolder(path=str(images), size=256, held_out=0.0)
    for data in (folder, jd.data.Digits()):
        filling = full_cache / "filling"
        filling.write_bytes(bytes(950_000))
        with pytest.raises(InputError, match=CACHE):
            data.load()
        filling.unlink()


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OSError(28, "x"), 28),
        (ValueError("[os_error_code='13']"), 13),
        (RuntimeError("write() failed: No space left on device; writing x"), 28),
        (RuntimeError("I/O error: Read-only file system (os error 30)"), 30),
        (ValueError("shapes differ"), None),
    ],
)
def test_errors_of_a_disk_have_a_number(error, code):
    assert error_number(error) == code


def test_a_file_name_of_another_case_is_the_file_that_is_named(tmp_path):
    save_npz(tmp_path / "x.NPZ")
    assert [path.name for path in Path(tmp_path).iterdir()] == ["x.NPZ"]
