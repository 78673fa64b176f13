"""Data prepared by builders of TensorFlow Datasets, without TensorFlow."""

import json
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds

from jaxdiff.data import TFDS, Dataset, batch, from_arrays, tfds_prepare, tfds_reader
from jaxdiff.data.streaming import Records
from jaxdiff.errors import InputError

LABELS = np.array([2, 0, 1, 2, 0, 1, 1])


def pixels(split: str, shape: tuple[int, ...] = (7, 6, 5, 3)) -> np.ndarray:
    """Returns random images, different for each split."""
    return np.random.default_rng(len(split)).integers(0, 256, shape, np.uint8)


class TinyUnknown(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Builder outside TFDS's registry; TFDS finds its data only by the files."""

    VERSION = tfds.core.Version("1.0.0")
    image = tfds.features.Image(shape=(6, 5, 3))
    sizes = (6,) * 7

    def _info(self):
        label = tfds.features.ClassLabel(names=["a", "b", "c"])
        size = tfds.features.Scalar(np.int64)
        text = tfds.features.Text()
        texts = tfds.features.Sequence(tfds.features.Text())
        features = {"image": self.image, "label": label, "size": size}
        features |= {"text": text, "texts": texts}
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(features),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split) for split in ("train", "test")}

    def _generate_examples(self, split):
        channels = self.image.shape[-1]
        for i, image in enumerate(pixels(split)):
            cut = image[: self.sizes[i], :, :channels]
            example = {"image": cut, "label": LABELS[i], "size": i}
            yield i, example | {"text": f"número {i}", "texts": ["雪"] * i}


class TinyPng(TinyUnknown):
    pass


class TinyGrey(TinyUnknown):
    image = tfds.features.Image(shape=(6, 5, 1))


class TinyTensor(TinyUnknown):
    image = tfds.features.Tensor(shape=(6, 5, 3), dtype=np.uint8)


class TinyUneven(TinyUnknown):
    image = tfds.features.Image(shape=(None, 5, 3))
    sizes = (6, 6, 5, 6, 6, 6, 6)


def tiny(folder: Path, name: str = "tiny_png", **options: Any) -> TFDS:
    return TFDS(name=name, data_dir=str(folder), **options)


@pytest.mark.parametrize("name", ["tiny_png", "tiny_grey", "tiny_tensor"])
def test_tfds_prepares_and_reads(name, tmp_path):
    channels = 1 if name == "tiny_grey" else 3
    for _ in range(2):  # the first pass prepares, the second reads
        for split in ("train", "test"):
            data = tiny(tmp_path, name).load(split)
            assert np.array_equal(data.images, pixels(split)[..., :channels])
            assert np.array_equal(data.labels, LABELS)  # type: ignore[arg-type]
            assert data.class_names == ("a", "b", "c")
    assert "tensorflow" not in sys.modules


def test_tfds_reads_jpeg(tmp_path, monkeypatch):
    image = tfds.features.Image(shape=(6, 5, 3), encoding_format="jpeg")
    monkeypatch.setattr(TinyPng, "image", image)
    smooth = np.broadcast_to(
        np.arange(7, dtype=np.uint8)[:, None, None, None], (7, 6, 5, 3)
    )
    monkeypatch.setattr(sys.modules[__name__], "pixels", lambda split: smooth.copy())
    images = np.asarray(tiny(tmp_path).load().images)
    assert np.abs(images.astype(int) - smooth).max() <= 2


def test_tfds_selects_splits_and_features(tmp_path):
    tiny(tmp_path).load()
    data = tiny(tmp_path, train_split="train[2:5]", test_split="train[-1:]").load()
    assert np.array_equal(data.images, pixels("train")[2:5])
    assert data.labels is not None
    assert data.labels.tolist() == LABELS[2:5].tolist()
    data = tiny(tmp_path, test_split="train[-1:]").load("test")
    assert np.array_equal(data.images, pixels("train")[-1:])
    assert tiny(tmp_path, label_key=None).load().labels is None
    numbers = tiny(tmp_path, label_key="size").load()
    assert (numbers.num_classes, numbers.class_names) == (7, None)


def test_tfds_reads_files_without_their_builder(tmp_path):
    with pytest.raises(InputError, match="has no dataset 'tiny_unknown'"):
        tiny(tmp_path, "tiny_unknown").load()
    tfds_prepare.prepared(lambda: TinyUnknown(data_dir=tmp_path))
    data = tiny(tmp_path, "tiny_unknown").load()
    assert np.array_equal(data.images, pixels("train"))


@pytest.mark.parametrize("split", ["train", "train[3:5]"])
def test_tfds_reads_tfrecords(split, tmp_path):
    """TFRecord is the default format of TFDS if TensorFlow is installed."""
    expected = tiny(tmp_path, train_split=split).load()
    folder = tmp_path / "tiny_png" / "1.0.0"
    builder = tfds.builder("tiny_png", data_dir=tmp_path)
    for name in ("train", "test"):
        with open(folder / f"tiny_png-{name}.tfrecord-00000-of-00001", "wb") as file:
            for record in builder.as_data_source(name).data_source:
                length = struct.pack("<Q", len(record))
                file.write(length + b"cksm" + record + b"cksm")
        (folder / f"tiny_png-{name}.array_record-00000-of-00001").unlink()
    info = json.loads((folder / "dataset_info.json").read_text())
    info["fileFormat"] = "tfrecord"
    (folder / "dataset_info.json").write_text(json.dumps(info))
    data = tiny(tmp_path, train_split=split).load()
    assert np.array_equal(data.images, expected.images)
    assert np.array_equal(data.labels, expected.labels)  # type: ignore[arg-type]
    info["fileFormat"] = "riegeli"
    (folder / "dataset_info.json").write_text(json.dumps(info))
    with pytest.raises(InputError, match="prepared as array_record, got riegeli"):
        tiny(tmp_path, train_split=split).load()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_split": "valid"}, "no split 'valid'. Choose from test, train"),
        ({"train_split": "train[x:]"}, r"no split 'train\[x:\]'"),
        ({"train_split": "train[:0]"}, "no examples in split"),
        ({"image_key": "picture"}, "no feature 'picture'. Choose from"),
        ({"image_key": "size"}, "'size' of tiny_png must be a uint8 image"),
        ({"label_key": "class"}, "no feature 'class'. Choose from"),
        ({"label_key": "text"}, "'text' of tiny_png must be an integer class"),
        ({"name": "tiny_uneven"}, r"one size, got \(6, 5, 3\) and \(5, 5, 3\)"),
        (
            {"name": "tiny_pgn"},
            r"Similar names: .*tiny_png.*Prepared in .*: tiny_png\.$",
        ),
        ({"name": "cifar1"}, r"Similar names: cifar10, .*Prepared in .*: tiny_png\.$"),
        ({"name": "tiny_png:7.0.0"}, "cannot build 'tiny_png:7.0.0'"),
        (
            {"name": "not a name"},
            "name must be .*, got 'not a name'. Give name, name/config",
        ),
    ],
)
def test_tfds_refuses(options, message, tmp_path):
    tiny(tmp_path).load()
    with pytest.raises(InputError, match=message) as caught:
        tiny(tmp_path, **options).load()
    assert "\n" not in str(caught.value)


def test_tfds_refuses_another_split_and_a_bad_folder(tmp_path):
    with pytest.raises(InputError, match=r"split must .* got 'train2'"):
        tiny(tmp_path).load("train2")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot prepare dataset 'tiny_png' in"):
        tiny(tmp_path / "file").load()


@pytest.mark.parametrize(
    "name",
    [
        "huggingface:mnist",
        "kaggle:mnist/config:1.0.0",
        "my_space:tiny_png",
        "a:b",
        "tiny_png/a=1",
        "tiny_png/config/a=True,b=3",
        "tiny_png:1.0.0/a=1",
        "tiny_png/..",
        "tiny_png/../x",
        "../tiny_png",
        "/tiny_png",
        "tiny_png\n",
        "tiny_pn\u0261",
        "tiny_png:latest",
        "tiny_png:1.0",
        "1",
        "",
        "\0",
    ],
)
def test_a_name_that_is_more_than_a_name_never_reaches_tfds(
    name, tmp_path, monkeypatch
):
    monkeypatch.setattr(tfds, "builder", lambda *_, **__: pytest.fail("asked"))
    with pytest.raises(
        InputError, match=r"name must be .*\. Give name, name/config"
    ) as e:
        tiny(tmp_path, name).load()
    assert str(e.value).isprintable()


@pytest.mark.parametrize(
    "name", ["a", "Tiny_png", "a/b", "a:1.2.3", "a/b-c.d+e:1.2.3", "a:1.*.*", "c4/en.x"]
)
def test_every_kind_of_name_reaches_tfds(name, tmp_path, monkeypatch):
    asked = []

    def builder(name, **options):
        asked.append(name)
        raise InputError("stop")

    monkeypatch.setattr(tfds, "builder", builder)
    with pytest.raises(InputError, match="stop"):
        tiny(tmp_path, name).load()
    assert asked == [name]


@pytest.mark.parametrize("nested", [False, True])
def test_a_feature_of_prepared_data_imports_no_module(nested, tmp_path, monkeypatch):
    builder = TinyUnknown(data_dir=tmp_path)
    tfds_prepare.prepared(lambda: builder)
    path = builder.data_path / "features.json"
    features = json.loads(path.read_text())
    evil = "evil_module.Feature"
    if nested:
        features["featuresDict"]["features"]["text"]["pythonClassName"] = evil
    else:
        features["pythonClassName"] = evil
    path.write_text(json.dumps(features))
    (tmp_path / "evil_module.py").write_text("raise SystemExit('it ran')")
    monkeypatch.syspath_prepend(tmp_path)
    before = tfds.features.FeatureConnector.cls_from_name
    with pytest.raises(InputError, match=r"class 'evil_module.Feature', which TFDS"):
        tiny(tmp_path, "tiny_unknown").load()
    assert tfds.features.FeatureConnector.cls_from_name == before
    with pytest.raises(SystemExit, match="it ran"):  # TFDS alone imports the module
        tfds.builder("tiny_unknown", data_dir=tmp_path)


@pytest.mark.parametrize("label_key", ["label", "size", None])
def test_streamed_images_are_those_in_memory(label_key, tmp_path):
    held = tiny(tmp_path, label_key=label_key).load()
    stays = tiny(tmp_path, label_key=label_key, stream=True).load()
    assert isinstance(stays.images, Records)
    assert (len(stays), stays.image_shape) == (7, (6, 5, 3))
    assert (stays.num_classes, stays.class_names) == (
        held.num_classes, held.class_names
    )  # fmt: skip
    assert stays.fingerprint() == held.fingerprint()
    for places in (3, slice(1, 4), [5, 0, 5], np.array([[1, 2], [3, -1]]), slice(0, 0)):
        assert np.array_equal(stays.images[places], held.images[places])
    with pytest.raises(IndexError):
        stays.images[7]
    for step in range(4):
        for ours, theirs in zip(
            batch(stays, 1, step, 5, flip=True), batch(held, 1, step, 5, flip=True),
            strict=True,
        ):  # fmt: skip
            assert np.array_equal(ours, theirs)  # type: ignore[arg-type]


def test_what_is_known_of_streamed_images_follows_the_split(tmp_path):
    tiny(tmp_path, stream=True).load()
    part = tiny(tmp_path, stream=True, train_split="train[2:5]").load()
    assert np.array_equal(part.images, pixels("train")[2:5])
    assert part.labels is not None
    assert part.labels.tolist() == LABELS[2:5].tolist()


def test_what_cannot_be_streamed_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"one size, got \(6, 5, 3\) and \(5, 5, 3\)"):
        tiny(tmp_path, "tiny_uneven", stream=True).load()
    good = tiny(tmp_path, stream=True).load()
    (file,) = (tmp_path / "tiny_png" / "1.0.0").glob("*train.array_record*")
    content = bytearray(file.read_bytes())
    middle = len(content) // 2
    content[middle - 200 : middle + 200] = bytes(400)
    file.write_bytes(content)
    with pytest.raises(InputError, match="cannot read the examples 0 to 6 of the"):
        good.images[:]


# Captions


@pytest.mark.parametrize("stream", [False, True])
def test_captions_are_a_text_or_several(stream, tmp_path):
    builder = tfds_prepare.prepared(lambda: TinyPng(data_dir=tmp_path))

    def read(key: str | None) -> Dataset:
        return tfds_reader.read(
            builder, "train", image_key="image", label_key="label", caption_key=key,
            stream=stream,
        )  # fmt: skip

    for _ in range(2):  # the second reads the cached arrays of a stream
        assert read("text").captions == tuple((f"número {i}",) for i in range(7))
        data = read("texts")
        assert data.captions == (("",), *(("雪",) * i for i in range(1, 7)))
        assert read(None).captions is None
    in_memory = from_arrays(pixels("train"), LABELS, ["a", "b", "c"], data.captions)
    assert data.fingerprint() == in_memory.fingerprint()
    with pytest.raises(InputError, match="'size' of tiny_png must be a text or a seq"):
        read("size")
