"""Image folders as data sets: their files, classes and splits."""

import dataclasses
import os
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jaxdiff import plots
from jaxdiff.cli.flags import parse
from jaxdiff.data import ImageFolder, streaming, tfds_reader
from jaxdiff.data.image_folder import is_held_out
from jaxdiff.errors import InputError
from jaxdiff.serialization import from_dict, to_dict
from jaxdiff.training.experiment import Experiment


def put(folder: Path, name: str, value: int = 0) -> Path:
    """Writes a grey image of one value, and returns its path."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (4, 4), value).save(path)
    return path


def folder(path: Path, **options: Any) -> ImageFolder:
    return ImageFolder(path=str(path), **{"size": 2, "channels": 1, **options})


def values(options: ImageFolder, split: str = "train") -> list[int]:
    """Returns the value of each image of a split."""
    images = np.asarray(options.load(split).images)
    assert (images == images[:, :1, :1]).all()
    return images[:, 0, 0, 0].tolist()


def test_images_are_in_the_order_of_their_names(tmp_path):
    names = ["b/z.png", "a.PNG", "b/a/x.bmp", "b.gif", "c.JPeG", "d.webp", "b/y.jpg"]
    for value, name in enumerate(names):
        put(tmp_path, name, value * 10)
    for size, channels in ((2, 1), (8, 3)):
        data = folder(tmp_path, size=size, channels=channels, held_out=0.0).load()
        assert data.images.shape == (7, size, size, channels)
        assert data.images.dtype == np.uint8
        assert (data.labels, data.class_names) == (None, None)
    order = sorted(range(7), key=lambda i: Path(names[i]).parts)
    found = np.array(values(folder(tmp_path, held_out=0.0)))
    assert np.abs(found - np.array(order) * 10).max() <= 2  # the error of JPEG and WebP


def test_other_files_are_passed_over_quietly(tmp_path, recwarn):
    put(tmp_path, "a.png", 1)
    put(tmp_path, "sub/.hidden.png", 2)
    put(tmp_path, ".git/b.png", 3)
    for name in ("Thumbs.db", "notes.txt", "c.png.part", "png"):
        (tmp_path / name).write_text("no image")
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    assert values(folder(tmp_path, held_out=0.0)) == [1]
    assert not recwarn.list


def test_images_of_other_extensions_are_counted(tmp_path):
    put(tmp_path, "a.png", 1)
    for name in ("b.tiff", "sub/c.TIFF", "d.heic", ".hidden.tiff"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    counted = r"3 image files of other extensions \(1 \.heic, 2 \.tiff\)"
    with pytest.warns(UserWarning, match=f"skipped {counted} in '.*Convert them"):
        assert values(folder(tmp_path, held_out=0.0)) == [1]
    (tmp_path / "a.png").unlink()
    with pytest.raises(InputError, match=f"is no image in '.*' \\({counted} are skip"):
        folder(tmp_path).load()


def test_jpeg_files_of_rare_extensions_are_read(tmp_path, recwarn):
    """Windows and browsers write .jfif."""
    for number, name in enumerate(("a.jfif", "b.JPE")):
        Image.new("RGB", (8, 8), (100 * number,) * 3).save(tmp_path / name, "JPEG")
    assert values(folder(tmp_path, held_out=0.0)) == [0, 100]
    assert not recwarn.list


@pytest.mark.parametrize("names", [("test", "train"), ("Train", "Val")])
def test_splits_as_classes_are_named_in_a_warning(tmp_path, names):
    for name in names:
        for number in range(8):
            put(tmp_path, f"{name}/{number}.png")
    train = str(tmp_path / next(name for name in names if name.lower() == "train"))
    with pytest.warns(
        UserWarning, match=f"{', '.join(names)} of .* as classes"
    ) as told:
        # A run loads both.
        loaded = [folder(tmp_path, held_out=0.5).load(s) for s in ("train", "test")]
    assert [data.class_names for data in loaded] == [names, names]
    assert len(told) == 1
    assert f"set --data.path to {train!r}" in str(told[0].message)


def test_some_splits_among_the_classes_are_classes(tmp_path, recwarn):
    put(tmp_path, "train/1.png")  # a railway
    put(tmp_path, "ship/1.png")
    assert folder(tmp_path, held_out=0.0).load().num_classes == 2
    assert not recwarn.list


@pytest.mark.parametrize("stream", [False, True])
def test_names_of_classes_that_cannot_be_printed_are_escaped(tmp_path, stream):
    for value, name in enumerate((b"caf\xe9", b"two\nlines")):
        os.mkdir(os.fsencode(tmp_path) + b"/" + name)
        put(tmp_path / os.fsdecode(name), "1.png", value)
    data = folder(tmp_path, held_out=0.0, stream=stream).load()
    assert data.class_names == (r"caf\udce9", r"two\nlines")
    assert data.labels is not None
    assert data.labels.tolist() == np.asarray(data.images)[:, 0, 0, 0].tolist()


def test_links_are_not_followed(tmp_path):
    put(tmp_path, "secret/s.png", 9)
    inside = tmp_path / "images"
    put(inside, "a.png", 1)
    (inside / "out.png").symlink_to(tmp_path / "secret" / "s.png")
    (inside / "out").symlink_to(tmp_path / "secret")
    (inside / "loop").symlink_to(inside)
    (inside / "broken.png").symlink_to("nothing")
    assert values(folder(inside, held_out=0.0)) == [1]
    (tmp_path / "link").symlink_to(inside)  # the path itself may be a link
    assert values(folder(tmp_path / "link", held_out=0.0)) == [1]


def test_sub_folders_are_classes(tmp_path):
    for value, name in enumerate(
        ["cat/1.png", "ant/x/2.png", "cat/3.png", "bee/4.png"]
    ):
        put(tmp_path, name, value)
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").touch()
    data = folder(tmp_path, held_out=0.0).load()
    assert data.class_names == ("ant", "bee", "cat")
    assert data.labels is not None
    assert data.labels.tolist() == [0, 1, 2, 2]
    assert data.images[:, 0, 0, 0].tolist() == [1, 3, 0, 2]
    put(tmp_path, "top.png")
    assert folder(tmp_path, held_out=0.0).load().class_names is None


def test_names_of_classes_may_have_any_character(tmp_path):
    """They are stored, and drawn beside samples, with escaped characters."""
    latin = os.fsdecode(b"latin-\xe9")
    for i, name in enumerate(["a\nb", "\x1b[31m", latin, "图"]):
        put(tmp_path, f"{name}/new\nline-{latin}.png", i)
    for _ in range(2):  # prepared, then read from the cache
        data = folder(tmp_path, held_out=0.0).load()
        assert data.class_names == ("\\x1b[31m", "a\\nb", "latin-\\udce9", "图")
        assert data.images[:, 0, 0, 0].tolist() == [1, 0, 2, 3]
        assert data.labels is not None
        assert data.labels.tolist() == [0, 1, 2, 3]
    picture = tmp_path / "samples.png"
    images = np.zeros((4, 8, 8, 1), np.uint8)
    plots.save_samples(picture, images, np.arange(4), data.class_names, 1)
    picture.unlink()
    put(tmp_path, "a\\nb/1.png")
    with pytest.raises(InputError, match=r"must differ, got two .* as a.nb\. Rename"):
        folder(tmp_path, held_out=0.0).load()


def test_one_sub_folder_is_no_class(tmp_path):
    put(tmp_path, "all/1.png")
    put(tmp_path, "all/b/2.png")
    assert folder(tmp_path, held_out=0.0).load().labels is None


def test_both_splits_number_the_classes_alike(tmp_path):
    """Classes that one split lacks, or with unreadable files, also have a number."""
    for i in range(20):
        put(tmp_path, f"b/{i}.png", i)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "bad.png").touch()
    put(tmp_path, "c/1.png", 99)
    found: dict[int, int] = {}
    for split in ("train", "test"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data = folder(tmp_path, held_out=0.5).load(split)
        assert data.class_names == ("a", "b", "c")
        assert data.num_classes == 3
        assert data.labels is not None
        found |= dict(zip(data.images[:, 0, 0, 0].tolist(), data.labels, strict=True))
    assert found == {**dict.fromkeys(range(20), 1), 99: 2}


def test_the_splits_are_disjoint_and_together_everything(tmp_path):
    for i in range(100):
        put(tmp_path, f"{i}.png", i)
    for share in (0.1, 0.5):
        train, test = (
            values(folder(tmp_path, held_out=share), split)
            for split in ("train", "test")
        )
        assert sorted(train + test) == list(range(100))
        assert abs(len(test) - 100 * share) <= 15


def test_one_more_file_moves_no_other(tmp_path):
    for i in range(30):
        put(tmp_path, f"{i}.png", i)
    before = {split: set(values(folder(tmp_path, held_out=0.3), split))
              for split in ("train", "test")}  # fmt: skip
    put(tmp_path, "0a.png", 200)
    put(tmp_path, "new/b.png", 201)
    for split, old in before.items():
        assert set(values(folder(tmp_path, held_out=0.3), split)) - {200, 201} == old


def test_the_split_is_the_same_on_every_machine(tmp_path):
    """The hash decides; a larger share only adds files to the held-out set."""
    files = [Path(f"a/{i}.png") for i in range(1000)]
    held = [{f for f in files if is_held_out(f, share)} for share in (0, 0.1, 0.4, 1)]
    assert not held[0]
    assert held[0] < held[1] < held[2] < held[3] == set(files)
    assert [int(is_held_out(Path(f"{i}.png"), 0.5)) for i in range(12)] == [
        int(c) for c in "101000111011"
    ]


@pytest.fixture
def spoilt(tmp_path):
    """Folder of ten images, five of them unreadable."""
    for i in range(10):
        path = put(tmp_path, f"{i}.png", i)
        if i % 2:
            path.write_bytes(path.read_bytes()[: 5 * (i - 1)])
    return tmp_path


def test_files_that_cannot_be_read_are_told_in_one_warning(spoilt):
    with pytest.warns(UserWarning, match="5 of 10 images") as caught:
        assert values(folder(spoilt, held_out=0.0)) == [0, 2, 4, 6, 8]
    (warning,) = caught
    text = str(warning.message)
    assert "\n" not in text
    assert "1.png': it is empty" in text
    assert "3.png'" in text
    assert "5.png'" in text
    assert "7.png'" not in text
    assert text.endswith("; and 2 more")
    assert warning.filename == __file__


def test_a_file_that_cannot_be_read_stops_the_run_if_wanted(spoilt):
    with pytest.raises(InputError, match=r"1\.png': it is empty\. Set bad_files"):
        folder(spoilt, held_out=0.0, bad_files="stop").load()


def test_a_folder_of_bad_files_alone_is_refused(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.png").write_text("no image")
    with pytest.raises(InputError, match=r"none of the 2 images .* can be read: .*a\."):
        folder(tmp_path, held_out=0.0).load()


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("", "path must name a folder, got ''. Set --data.path"),
        ("none", "there is no folder 'none'. Check --data.path"),
        ("file", r"there is no folder 'file' \(it is a file\)"),
        ("a\0b", "there is no folder"),
        ("x" * 300, "there is no folder"),
        (
            "empty",
            "no image in 'empty'. Give a folder of files with the extensions .png",
        ),
        (
            "one",
            r"none of the 1 images in 'one' falls into the test split\. Change held",
        ),
    ],
)
def test_a_wrong_folder_is_refused(tmp_path, monkeypatch, path, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    put(tmp_path, "one/1.png")
    with pytest.raises(InputError, match=message) as error:
        ImageFolder(path=path, held_out=0.0).load("test")
    assert str(error.value).isprintable()


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch):
    put(tmp_path, "a/1.png")
    scan = os.scandir

    def refuse(path: Any) -> Any:
        if Path(path).name == "a":
            raise PermissionError(13, "Permission denied")  # also for root
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(InputError, match=r"cannot list the folder .*a': Permission"):
        folder(tmp_path).load()


def test_more_images_than_memory_are_refused(tmp_path, monkeypatch):
    put(tmp_path, "1.png")

    def fail(*args: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(
        tfds_reader, "np", SimpleNamespace(**{**vars(np), "empty": fail})
    )
    with pytest.raises(InputError, match=r"1 images of shape \(2, 2, 1\) do not fit"):
        folder(tmp_path, held_out=0.0).load()


def test_images_that_would_fill_the_memory_stay_on_disk(tmp_path, monkeypatch):
    for i in range(5):
        put(tmp_path, f"{'ab'[i % 2]}/{i}.png", i)
    options = folder(tmp_path, held_out=0.0)
    held = options.load()
    assert isinstance(held.images, np.ndarray)
    assert held.labels is not None
    monkeypatch.setattr(streaming, "memory", lambda: 5 * 2 * 2 * 2 - 1)
    for _ in range(2):  # the second pass uses the cache
        stays = options.load()
        assert isinstance(stays.images, streaming.Records)
        assert stays.labels is not None
        assert stays.labels.tolist() == held.labels.tolist() == [0, 0, 0, 1, 1]
        assert stays.class_names == held.class_names
        assert stays.fingerprint() == held.fingerprint()
        assert np.array_equal(stays.images, held.images)
        monkeypatch.setattr(tfds_reader, "_shown", lambda *_: pytest.fail("again"))
    monkeypatch.setattr(streaming, "memory", lambda: 5 * 2 * 2 * 2)
    monkeypatch.undo()
    assert isinstance(options.load().images, np.ndarray)


def test_images_are_prepared_once(tmp_path, monkeypatch):
    """Images are prepared again only if a file or an option changes."""
    path = put(tmp_path, "1.png", 7)
    put(tmp_path, "2.png", 8)
    options = folder(tmp_path, held_out=0.0)
    with monkeypatch.context() as patch:
        assert values(options) == [7, 8]
        patch.setattr("jaxdiff.data.image_folder.read_image", None)
        assert values(options) == [7, 8]
    assert values(dataclasses.replace(options, size=3)) == [7, 8]
    put(tmp_path, "1.png", 9)
    os.utime(path, ns=(0, 1))
    assert values(options) == [9, 8]
    path.unlink()
    assert values(options) == [8]


def test_a_cache_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    put(tmp_path, "1.png")
    (tmp_path / "file").touch()
    monkeypatch.setenv("JAXDIFF_CACHE", str(tmp_path / "file"))
    with pytest.raises(InputError, match=r"cache folder .*file.*Set JAXDIFF_CACHE"):
        folder(tmp_path, held_out=0.0).load()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, r"size must lie in 1\.\.4096, got 0"),
        ({"channels": 2}, "channels must be 1 or 3, got 2"),
        ({"bad_files": "ask"}, "bad_files must be 'skip' or 'stop', got 'ask'"),
        ({"held_out": 1.0}, r"held_out must lie in \[0, 1\), got 1"),
        ({"held_out": -0.1}, r"held_out must lie in \[0, 1\), got -0.1"),
        ({"held_out": float("nan")}, "held_out .* got nan"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        ImageFolder(**options)


def test_another_split_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"split must .* got 'valid'"):
        folder(tmp_path).load("valid")


def test_progress_is_shown_on_a_terminal_only(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("jaxdiff.data.image_folder_builder._BIG", 1)
    put(tmp_path, "1.png")
    folder(tmp_path, held_out=0.0).load()
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    folder(tmp_path, held_out=0.0, size=3).load()
    out, err = capsys.readouterr()
    assert out == ""
    assert "train: 100%" in err


def test_flags_and_configurations_choose_a_folder():
    line = "--data folder --data.path here --data.size 16 --data.channels 1"
    (experiment,) = parse([Experiment()], line.split(), "program", "What it is.")
    assert experiment.data == ImageFolder(path="here", size=16, channels=1)
    assert from_dict(Experiment, to_dict(experiment)) == experiment
    for wrong in (2, True, "1", 1.0, [1]):
        data = to_dict(experiment)
        data["data"]["channels"] = wrong
        with pytest.raises(InputError, match="channels"):
            from_dict(Experiment, data)
