"""Cache of prepared data: one copy, rebuilt if damaged, and swept."""

import errno
import os
import shutil
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxdiff.cli import main
from jaxdiff.data import Digits, ImageFolder, image_files
from jaxdiff.errors import InputError
from jaxdiff.storage import cache
from jaxdiff.storage.cache import locked
from tests.helpers.fake_run import CONFIG


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Folder of six images, and an empty cache beside it."""
    monkeypatch.setenv("JAXDIFF_CACHE", str(tmp_path / "cache"))
    (tmp_path / "images").mkdir()
    for i in range(6):
        save(tmp_path / "images", i)
    return tmp_path / "images"


def save(folder, i):
    Image.new("L", (4, 4), i).save(folder / f"{i}.png")


def values(folder, **options):
    data = ImageFolder(path=str(folder), size=2, channels=1, held_out=0.0, **options)
    return np.asarray(data.load().images)[:, 0, 0, 0].tolist()


def files(folder):
    """Returns all files of prepared data in the cache."""
    root = folder.parent / "cache"
    return [p for p in root.rglob("*") if p.is_file() and "jaxdiff_folder" in p.parts]


@pytest.mark.parametrize(
    "error",
    [
        PermissionError(errno.EACCES, "Permission denied"),
        OSError(errno.EMFILE, "Too many open files"),
        OSError(errno.EIO, "Input/output error"),
        MemoryError(),
    ],
    ids=lambda error: type(error).__name__ + str(getattr(error, "errno", "")),
)
def test_a_file_that_cannot_be_read_once_is_read_later(folder, monkeypatch, error):
    real = image_files.open_regular

    def fails(path, most=None):
        if Path(path).name in ("1.png", "3.png"):
            raise error
        return real(path, most)

    (folder / "5.png").write_bytes(b"damaged")
    with monkeypatch.context() as patch:
        patch.setattr(image_files, "open_regular", fails)
        for _ in range(2):
            with pytest.warns(UserWarning, match="skipped 3 of 6 images"):
                assert values(folder) == [0, 2, 4]
    with pytest.warns(UserWarning, match="skipped 1 of 6 images"):
        assert values(folder) == [0, 1, 2, 3, 4]
    # Only files that may be readable are tried again.
    monkeypatch.setattr("jaxdiff.data.image_folder.read_image", None)
    with pytest.warns(UserWarning, match="skipped 1 of 6 images"):
        assert values(folder) == [0, 1, 2, 3, 4]


def test_changed_files_leave_one_copy(folder):
    assert values(folder) == list(range(6))
    before = len(files(folder))
    assert before
    os.utime(folder / "1.png", ns=(1, 1))
    assert values(folder) == list(range(6))
    assert len(files(folder)) == before
    save(folder, 6)
    assert values(folder) == list(range(7))
    assert len(files(folder)) == before
    values(folder, bad_files="stop")  # other options have their own copy
    assert len(files(folder)) == 2 * before


@pytest.mark.parametrize("damage", ["empty", "half", "braces", "missing"])
def test_damaged_data_is_prepared_again(folder, damage):
    values(folder)
    names = sorted(path.name for path in files(folder))
    assert {"dataset_info.json", "features.json", "metadata.json"} <= set(names)
    for name in names:
        (path,) = (p for p in files(folder) if p.name == name)
        content = path.read_bytes()
        path.write_bytes(
            {"empty": b"", "half": content[: len(content) // 2]}.get(damage, b"{}")
        )
        if damage == "missing":
            path.unlink()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert values(folder) == list(range(6))
        for warning in caught:
            assert "again: it was damaged (" in str(warning.message)
            assert "\n" not in str(warning.message)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert values(folder) == list(range(6))


def test_damaged_digits_are_prepared_again(folder):
    labels = Digits().load().labels
    (info,) = (folder.parent / "cache").rglob("dataset_info.json")
    info.write_text("{")
    with pytest.warns(UserWarning, match=r"prepared the data in '.*_digits' again"):
        np.testing.assert_array_equal(Digits().load().labels, labels)


def test_killed_preparations_are_removed(folder):
    values(folder)
    (data,) = (folder.parent / "cache").glob("folders/*/*/jaxdiff_folder/1.0.0")
    for i in range(3):
        shutil.copytree(data, data.with_name(f"1.0.0.incomplete{i}"))
    shutil.rmtree(data)
    values(folder)
    assert [path.name for path in data.parent.iterdir()] == ["1.0.0"]


def test_a_disk_that_fails_removes_nothing(folder, monkeypatch):
    values(folder)
    before = sorted(files(folder))

    def fails(*args, **options):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("jaxdiff.data.image_folder.read", fails)
    with pytest.raises(InputError, match=r"cannot use the cache .*: Input/output"):
        values(folder)
    assert sorted(files(folder)) == before


@pytest.fixture
def command(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["experiment.py"])

    def command(*args):
        main(CONFIG, "What it is.", args=["cache", *args])
        return capsys.readouterr().out.splitlines()

    return command


def test_the_command_prints_and_removes_entries(folder, command):
    root = folder.parent / "cache"
    assert command() == [f"{root}: 0 bytes"]
    values(folder)
    cache.save_arrays("classifiers/x", {"x": np.zeros(1000)})
    (root / "mine").mkdir()  # no part of the cache
    (root / "mine" / "file").touch()
    entry = cache.entries()[0]
    head, first, second = command()
    assert head.startswith(f"{root}: ")
    assert first.split()[0] == entry.name
    assert f"train split of '{folder}', size 2, channels 1" in first
    assert second.split() == [
        "classifiers",
        "8.3",
        "kB",
        *cache.PARTS["classifiers"].split(),
    ]
    assert entry.bytes > 1000
    (line,) = command("--remove", entry.name)
    assert line.startswith(f"removed {entry.name} (")
    assert len(command()) == 2
    values(folder)
    assert len(command("--remove", "all")) == 2
    assert cache.entries() == []
    assert [p.name for p in root.iterdir() if p.is_dir()] == ["folders", "mine"]


@pytest.mark.parametrize(
    "name", ["mine", "..", "folders", "/", "all,all", "folders/.."]
)
def test_only_entries_are_removed(folder, command, name, capsys):
    values(folder)
    (folder.parent / "cache" / "mine").mkdir()
    before = sorted(folder.parent.rglob("*"))
    with pytest.raises(SystemExit) as stop:
        command("--remove", name)
    assert stop.value.code == 2
    assert "error: there is no entry" in capsys.readouterr().err
    assert sorted(folder.parent.rglob("*")) == before


def test_data_that_is_being_prepared_is_not_removed(folder):
    values(folder)
    (entry,) = cache.entries()
    with (
        locked(cache.cache_folder() / entry.name),
        pytest.raises(InputError, match=r"another process prepares '.*'. Wait for it"),
    ):
        cache.remove(entry.name)


@pytest.mark.parametrize("text", ["", "[]", "{}"])
def test_an_entry_with_a_damaged_description_is_listed(folder, text):
    values(folder)
    (path,) = (folder.parent / "cache").rglob(cache.ABOUT)
    path.write_text(text)
    (entry,) = cache.entries()
    assert entry.about == cache.PARTS["folders"]
