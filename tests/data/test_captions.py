"""Captions of datasets, and the captions in an image folder."""

import json
import os
import unicodedata
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jaxdiff.cli.train import summary
from jaxdiff.data import Dataset, ImageFolder, from_arrays
from jaxdiff.data.captions import as_bytes, from_bytes
from jaxdiff.data.dataset import caption_choice
from jaxdiff.data.folder_files import image_files
from jaxdiff.errors import InputError
from jaxdiff.runs.trainer import Trainer
from tests.helpers.captioned_folder import LAYOUTS, captioned_folder
from tests.helpers.runs import TINY

IMAGES = np.arange(12, dtype=np.uint8).reshape(3, 2, 2, 1)

# Captions of a dataset


def test_captions_of_arrays():
    data = from_arrays(IMAGES, captions=["a cat", ["a dog", "ein Hund"], ""])
    assert data.captions == (("a cat",), ("a dog", "ein Hund"), ("",))
    assert from_arrays(IMAGES).captions is None


@pytest.mark.parametrize(
    ("captions", "message"),
    [
        (["a", "b"], "captions must have one entry per image, 3 in all, got 2"),
        ("abc", "captions must have one entry per image, 3 in all, got a text"),
        (["a", [], "c"], r"at least one per image, got \[\] for image 1"),
        (["a", "b", 3], "captions must be texts, .* got 3 for image 2"),
        (["a", ["b", None], "c"], r"got \['b', None\] for image 1"),
        (["a", "\udc80", "c"], r"captions must be Unicode text, got .* for image 1"),
    ],
)
def test_captions_of_arrays_must_fit(captions, message):
    with pytest.raises(InputError, match=message):
        from_arrays(IMAGES, captions=captions)


def test_fingerprint_depends_on_every_caption():
    plain = from_arrays(IMAGES)
    assert plain.fingerprint() == "1648cf299982bf5c"  # of versions without captions
    captioned: list[list[str | list[str]]] = [
        ["a", "b", "c"], ["a", "c", "b"], ["a", ["b", "b"], "c"], ["a", "b", "ç"],
        ["", "", ""],
    ]  # fmt: skip
    prints = [from_arrays(IMAGES, captions=some).fingerprint() for some in captioned]
    assert len({plain.fingerprint(), *prints}) == len(captioned) + 1


def test_captions_survive_their_form_as_bytes():
    captions = (("", "日本 \n\x00\ud7ff🧑🏿‍🚒"), ('"',), ("x" * 10_000,))
    assert from_bytes(as_bytes(captions)) == captions


def test_summary_counts_the_captions_that_are_texts():
    images = np.zeros((3, 8, 8, 1), np.uint8)
    data = from_arrays(images, captions=["a cat", ["a dog", "ein Hund"], ""])
    text = "; ".join(summary(Trainer.of(TINY, dataset=data)))
    assert "data: 3 images of 8x8x1 to train on, none held out; no classes" in text
    assert "no classes; 3 captions, not used" in text
    assert "captions" not in summary(Trainer.of(TINY, dataset=from_arrays(images)))[0]


# Choice of a caption


def test_choice_is_a_function_of_the_position():
    counts = np.array([5, 1, 7, 2, 3, 5])
    rows = np.arange(6)
    whole = caption_choice(3, 7, 6, counts, rows)
    assert np.array_equal(whole, caption_choice(3, 7, 6, counts, rows))
    some = np.array([4, 0])
    assert np.array_equal(whole[some], caption_choice(3, 7, 6, counts[some], some))
    # Steps of 6 and of 3 examples pass the same positions.
    halves = [caption_choice(3, 14 + i, 3, counts[rows[3 * i : 3 * i + 3]], rows[:3])
              for i in range(2)]  # fmt: skip
    assert np.array_equal(whole, np.concatenate(halves))
    assert not np.array_equal(whole, caption_choice(4, 7, 6, counts, rows))


def test_choice_is_fair():
    size = 60_000
    for count in (1, 2, 3, 5):
        drawn = caption_choice(0, 0, size, np.full(size, count), np.arange(size))
        found = np.bincount(drawn, minlength=count)
        assert len(found) == count
        # 5 standard deviations of a binomial count
        assert np.abs(found - size / count).max() <= 5 * np.sqrt(size / count)


# Captions in a folder


def put(root: Path, name: str, value: int = 0) -> Path:
    """Writes a grey image of one value, and returns its path."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (2, 2), value).save(path)
    return path


def load(
    root: Path, captions: Any = "auto", split: str = "train", **options
) -> Dataset:
    known = {"size": 2, "channels": 1, "held_out": 0.0, **options}
    return ImageFolder(path=str(root), captions=captions, **known).load(split)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_500_captioned_pictures(layout, tmp_path):
    known = captioned_folder(tmp_path, layout)
    names = [str(name) for name in image_files(tmp_path)[0]]
    with pytest.warns(UserWarning, match="empty caption for 72 of 500 .* '000.png'"):
        data = load(tmp_path, size=8, channels=3)
    wanted = [[unicodedata.normalize("NFC", text) for text in known[name]]
              for name in names]  # fmt: skip
    if layout == "files":  # a caption ends at the end of its line
        wanted = [list(filter(None, texts)) or [""] for texts in wanted]
    assert data.captions == tuple(map(tuple, wanted))
    plain = load(tmp_path, "none", size=8, channels=3)
    assert plain.captions is None
    assert np.array_equal(plain.images, data.images)
    assert plain.fingerprint() == from_arrays(np.asarray(data.images)).fingerprint()
    assert plain.fingerprint() != data.fingerprint()


def test_both_splits_have_the_captions_of_their_images(tmp_path):
    for i in range(40):
        put(tmp_path, f"{i}.png", i).with_suffix(".txt").write_text(f"number {i}")
    for split in ("train", "test"):
        for stream in (False, True):
            data = load(tmp_path, split=split, held_out=0.5, stream=stream)
            values = np.asarray(data.images)[:, 0, 0, 0]
            assert data.captions == tuple((f"number {i}",) for i in values)


def test_sources_in_the_order_of_their_preference(tmp_path):
    for name in ("two_cats/a.png", "dogs/b.png"):
        put(tmp_path, name).with_suffix(".txt").write_text("file")
    rows = [{"file_name": f"dogs/{name}.png", "text": "line"} for name in "b"]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    by = {
        "metadata": (("line",), ("",)),
        "files": (("file",), ("file",)),
        "classes": (("dogs",), ("two cats",)),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for source, wanted in by.items():
            data = load(tmp_path, source)
            assert data.captions == wanted
            assert data.class_names == ("dogs", "two_cats")
        assert load(tmp_path).captions == by["metadata"]
        (tmp_path / "metadata.jsonl").unlink()
        assert load(tmp_path).captions == by["files"]
        (tmp_path / "dogs/b.txt").unlink()
        (tmp_path / "two_cats/a.txt").unlink()
        assert load(tmp_path).captions == by["classes"]


def test_metadata_of_sub_folders_are_relative_to_them(tmp_path):
    for name in ("a/1.png", "b/c/2.png", "3.png"):
        put(tmp_path, name)
    (tmp_path / "a/metadata.csv").write_text("text,file_name\none,./1.png\n")
    (tmp_path / "b/metadata.jsonl").write_text('{"file_name":"c/2.png","text":null}')
    (tmp_path / "metadata.csv").write_text('file_name, text\n\n3.png,"a ""3"",\nx"\n')
    assert load(tmp_path).captions == (('a "3",\nx',), ("one",), ("",))


def test_names_match_in_any_normal_form(tmp_path):
    put(tmp_path, unicodedata.normalize("NFD", "é.png"))
    row = {"file_name": unicodedata.normalize("NFC", "é.png"), "text": "e\u0301"}
    (tmp_path / "metadata.jsonl").write_text(json.dumps(row))
    assert load(tmp_path).captions == (("é",),)


LINE = '{"file_name": "a.png", "text": "x"}'
WRONG: dict[str, list[tuple[Any, str]]] = {
    "metadata.jsonl": [
        (f"{LINE}\n{{'file_name': 1}}", "line 2 of .* be JSON, .* column 2.. Corr"),
        (f"\n{LINE}\n[1]", r"line 3 of .* must be a JSON object, got \[1\]"),
        (f"{LINE[:-1]}", "line 1 of .* must be JSON"),
        ("[" * 100_000, "line 1 of .* nested too deeply"),
        (f"{LINE}\n{LINE}", "once, got 'a.png' in line 2 of .* and in line 1 of"),
        ('{"file_name": "a.png", "caption": "x"}', "line 1 .* field 'text', got"),
        ('{"file_name": 3, "text": "x"}', "file_name must be a text, got 3 in line 1"),
        ('{"file_name": "a.png", "text": 3}', "text must be .*, got 3 in line 1 of"),
        ('{"file_name": "a.png", "text": ["x", null]}', "got .*None.* in line 1 of"),
        (r'{"file_name": "a.png", "text": "\ud800"}', r"got '\\ud800' in line 1 of"),
        (f"{LINE}\n\xff".encode("latin1"), r"line 2 of .* UTF-8, got b'\\xff'"),
        (LINE.encode("utf-16"), "line 1 of .* must be UTF-8"),
        (LINE.replace("a.png", "b.png"), "got 'b.png' in line 1 of"),
        (LINE.replace("a.png", "../a.png"), "got '../a.png' in line 1 of"),
        (LINE.replace("a.png", "/etc/passwd"), "got '/etc/passwd' in line 1 of"),
        ("", "got no entry"),
    ],
    "metadata.csv": [
        ("file_name,caption\na.png,x", "line 1 of .* the field 'text', got"),
        ("file_name;text\na.png;x", "line 1 of .* the field 'file_name', got"),
        ("file_name,text\na.png,x,y", "line 2 of .* must have 2 values, .* got 3"),
        ('file_name,text\na.png,"x\nb.png,y', "line 2 of .* must be CSV: unexpected"),
        ("file_name,text\n,x", "file_name must be a text, got '' in line 2"),
        ("file_name,text\na.png," + "x" * 200_000, "line 2 of .* field larger than"),
        ('file_name,text\na.png,"x\ny"\na.png,z', "got 'a.png' in line 4 .* line 2 of"),
        ("file_name,text\na.png,\xff".encode("latin1"), "line 2 of .* must be UTF-8"),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_metadata_are_one_line_with_their_place(name, tmp_path):
    put(tmp_path, "a.png")
    for content, message in WRONG[name]:
        data = content if isinstance(content, bytes) else content.encode()
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError, match=message) as caught:
            load(tmp_path)
        assert "\n" not in str(caught.value)
        assert name in str(caught.value)
        assert load(tmp_path, "none").captions is None


def test_captions_without_an_image_are_counted(tmp_path):
    put(tmp_path, "a.png")
    lines = [LINE, *(LINE.replace("a.png", f"{i}.png") for i in range(3))]
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    first = "the first is '0.png' in line 2 of"
    for _ in range(2):
        with pytest.warns(UserWarning, match=f"skipped 3 captions .* {first}"):
            assert load(tmp_path).captions == (("x",),)


@pytest.mark.parametrize("source", ["auto", "metadata", "files", "classes"])
def test_a_folder_without_captions_is_refused(source, tmp_path):
    put(tmp_path, "a.png")
    (tmp_path / "README.txt").write_text("no caption")
    (tmp_path / "old_metadata.csv").write_text("no metadata")
    put(tmp_path, "b.png")
    (tmp_path / ".b.txt").write_text("hidden")
    (tmp_path / "a.txt").symlink_to("README.txt")
    os.mkfifo(tmp_path / "b.txt")
    (tmp_path / "metadata.jsonl").mkdir()
    with pytest.raises(InputError, match=f"must be in .*, got none .*'{source}'"):
        load(tmp_path, source)


def test_text_files_that_cannot_be_read_leave_their_image_out(tmp_path):
    for i, content in enumerate((b"good", b"good\n\xff", b"x" * (2**20 + 1), b"")):
        put(tmp_path, f"{i}.png", i).with_suffix(".txt").write_bytes(content)
    reasons = r"2 of 4 .*line 2 of .*1.txt' must be UTF-8.*2.txt': it has .* at most"
    with pytest.warns(UserWarning, match=f"skipped {reasons}"):
        data = load(tmp_path)
    assert data.captions == (("good",), ("",))
    assert np.asarray(data.images)[:, 0, 0, 0].tolist() == [0, 3]
    with pytest.raises(InputError, match=r"1\.txt' must be UTF-8.*Set bad_files"):
        load(tmp_path, bad_files="stop")


def test_changed_captions_are_read_again(tmp_path):
    text = put(tmp_path, "a.png").with_suffix(".txt")
    put(tmp_path, "b.png").with_suffix(".txt").write_text("b")
    for content in ("one", "three", "five\nsix"):
        text.write_text(content)
        assert load(tmp_path).captions == (tuple(content.split()), ("b",))
    (tmp_path / "a.caption").write_text("not read")
    assert load(tmp_path).captions == (("five", "six"), ("b",))
    text.unlink()
    assert load(tmp_path).captions == (("not read",), ("b",))
    table = tmp_path / "metadata.jsonl"
    for content in ("x", "y"):
        table.write_text("\n".join(LINE.replace("a.png", f"{n}.png") for n in "ab")
                         .replace('"x"', f'"{content}"'))  # fmt: skip
        assert load(tmp_path).captions == ((content,), (content,))


def test_prepared_captions_are_read_from_the_cache(tmp_path, monkeypatch):
    put(tmp_path, "a.png").with_suffix(".txt").write_text("one")
    assert load(tmp_path).captions == (("one",),)
    monkeypatch.setattr("jaxdiff.data.folder_captions.read_captions", None)
    monkeypatch.setattr("jaxdiff.data.image_folder.read_image", None)
    assert load(tmp_path).captions == (("one",),)
