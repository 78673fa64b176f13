"""Fashion-MNIST's IDX files: their contents, and errors for damaged files."""

import gzip
import struct

import numpy as np
import pytest
import tensorflow_datasets as tfds

from jaxdiff.data import TFDS, FashionMNIST
from jaxdiff.data.fashion_mnist import CLASSES, FIRST_LABELS, read_idx
from jaxdiff.errors import InputError


def idx(array):
    """Returns an array as an IDX file, by LeCun's page on MNIST."""
    sizes = struct.pack(f">{array.ndim}I", *array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()


def labels_of(split, size):
    """Returns the first labels of Fashion-MNIST, and others after them."""
    first = FIRST_LABELS[split]
    return np.array([*first, *range(size - len(first))], np.uint8) % 10


@pytest.fixture
def folder(tmp_path):
    """Folder of a small set: the training files are compressed, the test files not."""
    rng = np.random.default_rng(0)
    for prefix, split, size, write in (
        ("train", "train", 30, lambda name, data: (tmp_path / f"{name}.gz").write_bytes(
            gzip.compress(data))),
        ("t10k", "test", 20, lambda name, data: (tmp_path / name).write_bytes(data)),
    ):  # fmt: skip
        images = rng.integers(0, 256, (size, 28, 28), np.uint8)
        write(f"{prefix}-images-idx3-ubyte", idx(images))
        write(f"{prefix}-labels-idx1-ubyte", idx(labels_of(split, size)))
    return tmp_path


@pytest.mark.parametrize(("split", "size"), [("train", 30), ("test", 20)])
def test_splits(folder, split, size):
    dataset = FashionMNIST(path=str(folder)).load(split)
    assert dataset.image_shape == (28, 28, 1)
    assert (len(dataset), dataset.num_classes) == (size, 10)
    assert dataset.class_names == CLASSES
    np.testing.assert_array_equal(dataset.labels, labels_of(split, size))


def test_other_images_in_the_same_format_have_no_names_of_clothes(folder):
    """MNIST and KMNIST have files of the same names."""
    mnist = np.array([7, 2, 1, 0, 4, 1, 4, 9, 5, 9, *range(10)], np.uint8)
    (folder / "t10k-labels-idx1-ubyte").write_bytes(idx(mnist))
    with pytest.warns(UserWarning, match=r"^named the classes 0 to 9: the test files"):
        dataset = FashionMNIST(path=str(folder)).load("test")
    assert dataset.class_names == tuple("0123456789")
    np.testing.assert_array_equal(dataset.labels, mnist)


def test_pixels_are_the_files(folder):
    images = np.random.default_rng(0).integers(0, 256, (30, 28, 28), np.uint8)
    dataset = FashionMNIST(path=str(folder)).load()
    np.testing.assert_array_equal(dataset.images[..., 0], images)


def test_a_name_in_the_catalogue_too():
    """TFDS has the same data set, if there is network access."""
    builder = tfds.builder_cls(TFDS(name="fashion_mnist").name)
    assert builder.__name__ == "FashionMNIST"


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda data: b"", "not an IDX file"),
        (lambda data: b"\0\0\x0d" + data[3:], "not an IDX file of unsigned bytes"),
        (lambda data: data[:3] + b"\xff" + data[4:], "not an IDX file"),
        (lambda data: data[:10], "damaged header"),
        (lambda data: data[:4] + b"\xff" * 12 + data[16:], "damaged header"),
        (lambda data: data[:-1], "got 784"),
        (lambda data: data + b"0", "got more"),
        (lambda data: gzip.compress(data)[:-9], "cannot read"),
        (lambda data: b"\x1f\x8b" + data, "cannot read"),
    ],
)
def test_damaged_files(tmp_path, damage, words):
    path = tmp_path / "file"
    data = idx(np.zeros((785, 1, 1), np.uint8))
    path.write_bytes(damage(data))
    with pytest.raises(InputError, match=words):
        read_idx(path)


def test_mistakes(folder, tmp_path):
    with pytest.raises(InputError, match="dataset-fashion-mnist"):
        FashionMNIST(path=str(tmp_path / "none")).load()
    with pytest.raises(InputError, match=r"split must .* got 'val'"):
        FashionMNIST(path=str(folder)).load("val")
    labels = folder / "t10k-labels-idx1-ubyte"
    labels.write_bytes(idx(np.zeros(19, np.uint8)))
    with pytest.raises(InputError, match=r"must hold images .*, got shapes"):
        FashionMNIST(path=str(folder)).load("test")
    labels.write_bytes(idx(np.full(20, 10, np.uint8)))
    with (
        pytest.warns(UserWarning, match="not Fashion-MNIST's"),
        pytest.raises(InputError, match="labels must be below 10, got 10"),
    ):
        FashionMNIST(path=str(folder)).load("test")
