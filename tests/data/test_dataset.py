"""Data sets from arrays, the order of their examples and their batches."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.data import Dataset, batch, from_arrays, order, to_float, to_uint8
from jaxdiff.errors import InputError

LABELS = np.array([2, 0, 1, 2, 0, 1, 1])


def numbered(size: int) -> Dataset:
    """Returns images of 1x2 pixels; the left pixel and the label are the index."""
    images = np.zeros((size, 1, 2, 1), np.uint8)
    images[:, 0, 0, 0] = np.arange(size)
    return from_arrays(images, np.arange(size))


def visited(
    size: int, batch_size: int, count: int, *, seed: int = 0, first: int = 0
) -> list[int]:
    """Returns the indices of `count` examples in the order of the batches."""
    data = numbered(size)
    steps = range(first, first - (-count // batch_size))
    found = [np.asarray(batch(data, seed, s, batch_size).labels) for s in steps]
    return np.concatenate(found).tolist()[:count]


# Datasets from arrays


def test_from_arrays_describes_the_data():
    images = np.zeros((7, 4, 5, 3), np.uint8)
    data = from_arrays(images, LABELS.astype(np.uint8), ["a", "b", "c", "d"])
    assert len(data) == 7
    assert data.image_shape == (4, 5, 3)
    assert data.num_classes == 4
    assert data.class_names == ("a", "b", "c", "d")
    assert data.labels is not None
    assert data.labels.dtype == np.int32
    assert from_arrays(images, LABELS).num_classes == 3
    unlabelled = from_arrays(images)
    assert unlabelled.num_classes is None
    assert unlabelled.labels is None


@pytest.mark.parametrize(
    ("images", "labels", "names", "message"),
    [
        (np.zeros((7, 4, 5, 3)), None, None, "images must be uint8 .* got float64"),
        (np.zeros((7, 4, 5), np.uint8), None, None, r"shape .*, got \(7, 4, 5\)"),
        (np.zeros((0, 4, 5, 3), np.uint8), None, None, "at least one image"),
        (None, LABELS[:3], None, r"labels must have shape \(7,\), got \(3,\)"),
        (None, LABELS[:, None], None, r"labels must have .*, got \(7, 1\)"),
        (None, LABELS * 1.0, None, "labels must be integers .* got float64"),
        (None, LABELS - 1, None, "labels must be at least 0, got -1"),
        (None, LABELS, ["a", "b"], "labels must be below 2, got 2"),
        (None, LABELS + 2**31, None, "labels must be below .* got 2147483650"),
        (None, None, ["a"], "no labels"),
    ],
)
def test_from_arrays_refuses(images, labels, names, message):
    if images is None:
        images = np.zeros((7, 4, 5, 3), np.uint8)
    with pytest.raises(InputError, match=message):
        from_arrays(images, labels, names)


def test_floats_and_bytes_are_inverses():
    values = np.arange(256, dtype=np.uint8)
    floats = to_float(values)
    assert floats.dtype == np.float32
    assert floats[0] == -1
    assert floats[255] == 1
    assert np.array_equal(to_uint8(floats), values)
    assert np.array_equal(to_uint8(jnp.asarray(floats)), values)


def test_to_uint8_rounds_and_clips():
    step = 2 / 255
    floats = np.array([-7, -1 + 0.4 * step, -1 + 0.6 * step, 1.5], np.float32)
    assert to_uint8(floats).tolist() == [0, 0, 1, 255]


# The order of the examples


@pytest.mark.parametrize("size", [1, 2, 10, 1797])
def test_order_is_a_permutation(size):
    for epoch in range(3):
        places = order(5, epoch, size)
        assert places.dtype == np.int64
        assert sorted(places.tolist()) == list(range(size))


def test_order_depends_on_seed_and_epoch():
    orders = [(0, 0), (0, 1), (1, 0), (1, 1), (2**64 - 1, 0)]
    assert len({tuple(order(*which, 100)) for which in orders}) == len(orders)


def test_order_is_the_sorting_of_philox_words():
    """Philox4x64-10 as in its paper, in Python integers."""
    mask = 2**64 - 1

    def block(counter: int, key: tuple[int, int]) -> list[int]:
        c0, c1, c2, c3 = counter, 0, 0, 0
        k0, k1 = key
        for _ in range(10):
            p0, p1 = 0xD2E7470EE14C6C93 * c0, 0xCA5A826395121157 * c2
            c0, c1, c2, c3 = (
                p1 >> 64 ^ c1 ^ k0,
                p1 & mask,
                p0 >> 64 ^ c3 ^ k1,
                p0 & mask,
            )
            k0 = k0 + 0x9E3779B97F4A7C15 & mask
            k1 = k1 + 0xBB67AE8584CAA73B & mask
        return [c0, c1, c2, c3]

    # NumPy increments the counter first, so the first block has counter 1.
    words = [word for i in range(1, 6) for word in block(i, (42, 3))]
    expected = sorted(range(20), key=words.__getitem__)
    assert order(42, 3, 20).tolist() == expected


def test_order_cannot_be_changed_by_its_user():
    with pytest.raises(ValueError, match="read-only"):
        order(0, 0, 5)[0] = 3


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_order_refuses_a_seed(seed):
    with pytest.raises(InputError, match=f"seed must .* got {seed}"):
        order(seed, 0, 5)


# Batches


@pytest.mark.parametrize("batch_size", [1, 3, 10, 16, 25])
def test_batches_walk_through_the_epochs(batch_size):
    """No example is lost or repeated, even if a batch straddles epochs."""
    expected = [int(i) for epoch in range(5) for i in order(0, epoch, 10)]
    assert visited(10, batch_size, 50) == expected


def test_batch_is_pure_and_depends_on_the_seed():
    late = visited(10, 4, 4, first=7)
    visited(10, 4, 40)
    order.cache_clear()
    assert visited(10, 4, 4, first=7) == late
    assert late == visited(10, 4, 32)[28:]
    assert visited(100, 100, 100, seed=1) != visited(100, 100, 100)


def test_batch_has_the_right_types():
    data = numbered(10)
    images, labels, index, deviation = batch(data, 0, 3, 4)
    assert deviation is None
    assert isinstance(images, np.ndarray)
    assert isinstance(labels, np.ndarray)
    assert isinstance(index, np.ndarray)
    assert (images.dtype, labels.dtype, index.dtype) == ("float32", "int32", "int32")
    assert index.tolist() == [0, 1, 2, 3]
    assert np.array_equal(images, to_float(data.images[labels]))
    assert batch(from_arrays(np.asarray(data.images)), 0, 3, 4).labels is None


def test_flips_are_fair_mirror_images():
    data = numbered(200)
    plain, mirrored = batch(data, 0, 1, 4000), batch(data, 0, 1, 4000, flip=True)
    assert mirrored.labels is not None
    images, others = np.asarray(plain.images), np.asarray(mirrored.images)
    assert np.array_equal(plain.labels, mirrored.labels)  # type: ignore[arg-type]
    same = (others == images).all(axis=(1, 2, 3))
    assert np.array_equal(others[~same], images[~same][:, :, ::-1])
    assert abs(same.mean() - 0.5) < 4 * 0.5 / np.sqrt(4000)


def test_flips_are_pure_in_the_position():
    data = numbered(11)
    whole = np.asarray(batch(data, 3, 0, 60, flip=True).images)
    for batch_size in (1, 2, 5, 6):
        steps = range(60 // batch_size)
        parts = [batch(data, 3, i, batch_size, flip=True).images for i in steps]
        assert np.array_equal(np.concatenate(parts), whole)
    other = batch(data, 4, 0, 60, flip=True)
    assert not np.array_equal(np.asarray(other.images), whole)


def test_flips_do_not_repeat_the_words_of_the_order():
    images = np.tile(np.array([[0], [9]], np.uint8), (100, 1, 1, 1))
    data = from_arrays(images)
    flipped = np.asarray(batch(data, 3, 0, 100, flip=True).images)[:, 0, 0, 0] > -0.99
    words = np.random.Philox(key=np.array([3, 0], np.uint64)).random_raw(100)
    assert 25 < np.sum(flipped == (words >> np.uint64(63) == 1)) < 75


def test_batch_refuses_a_size():
    with pytest.raises(InputError, match=r"batch_size must .* got 0"):
        batch(numbered(3), 0, 0, 0)
