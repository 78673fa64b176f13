"""Aspect-ratio buckets: their sizes, the order of their images, and folders."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import jaxdiff as jd
from jaxdiff.data import Buckets, ImageFolder
from jaxdiff.data.buckets import bucket_sizes, nearest_size
from jaxdiff.data.sequence import bucket_draw
from jaxdiff.errors import InputError

SIZES = (5, 23, 12)


def numbered(sizes: tuple[int, ...] = SIZES) -> jd.data.Dataset:
    """Returns images of 1xK pixels in bucket K - 1; the label is the index."""
    first = np.cumsum([0, *sizes])
    parts = [
        np.broadcast_to(
            np.arange(start, start + size, dtype=np.uint8)[:, None, None, None],
            (size, 1, i + 1, 1),
        )
        for i, (start, size) in enumerate(zip(first, sizes, strict=False))
    ]
    captions = [[f"{i}", f"{i}!"] for i in range(sum(sizes))]
    return jd.data.from_arrays(Buckets(parts), np.arange(sum(sizes)), captions=captions)


def visits(data: jd.data.Dataset, steps: range, batch_size: int, seed: int = 0):
    """Returns the indices of each step's examples."""
    return [data.examples(seed, step, batch_size) for step in steps]


# Sizes


@pytest.mark.parametrize(("size", "step"), [(64, 8), (64, 16), (1024, 64), (60, 20)])
def test_buckets_are_the_largest_of_their_ratio_by_exhaustive_search(size, step):
    found = bucket_sizes(size, step)
    sides = range(step, 2 * size + 1, step)
    allowed = {
        (h, w)
        for h, w in itertools.product(sides, sides)
        if h * w <= size**2 and max(h, w) <= 2 * min(h, w)
    }
    assert set(found) <= allowed
    assert (size, size) in found
    assert set(found) == {(w, h) for h, w in found}
    for h, w in allowed:  # no allowed size has more pixels on both sides
        bigger = [b for b in found if b[0] >= h and b[1] >= w]
        assert bigger, (h, w)


def test_an_image_goes_to_the_nearest_ratio():
    sizes = bucket_sizes(64, 16)
    assert sizes == ((32, 64), (48, 80), (64, 64), (80, 48), (64, 32))
    ratios = [math.log(h / w) for h, w in sizes]
    for height, width in [(100, 100), (100, 130), (130, 100), (9, 900), (900, 9)]:
        wanted = np.abs(np.array(ratios) - math.log(height / width)).argmin()
        assert nearest_size(height, width, sizes) == sizes[wanted]
    between = math.sqrt((48 / 80) * 1.0)  # a step to either side of the middle
    assert nearest_size(1000, round(1000 / between * 1.01), sizes) == (48, 80)
    assert nearest_size(1000, round(1000 / between / 1.01), sizes) == (64, 64)


# Order


def test_a_batch_has_one_bucket_and_epochs_visit_each_image_once():
    data, batch_size = numbered(), 4
    first = np.cumsum([0, *SIZES])
    seen: dict[int, list[int]] = {0: [], 1: [], 2: []}
    for chosen in visits(data, range(3 * sum(SIZES)), batch_size):
        (bucket,) = set(np.searchsorted(first, chosen, "right") - 1)
        seen[int(bucket)] += chosen.tolist()
    for bucket, size in enumerate(SIZES):
        assert len(seen[bucket]) == 3 * batch_size * size  # in proportion to the sizes
        epochs = np.array(seen[bucket]).reshape(-1, size)
        wanted = np.arange(first[bucket], first[bucket + 1])
        assert (np.sort(epochs, axis=1) == wanted).all()
        assert len({tuple(epoch) for epoch in epochs}) > 1


def test_buckets_of_one_size_have_orders_of_their_own():
    data = numbered((12, 12))
    found = np.concatenate(visits(data, range(24), 4))
    a, b = found[found < 12][:12], found[found >= 12][:12] - 12
    assert (np.sort(a) == np.sort(b)).all()
    assert (a != b).any()


def test_the_order_depends_on_seed_and_step_alone():
    data = numbered()
    forward = visits(data, range(90), 4, seed=7)
    again = [numbered().examples(7, step, 4) for step in reversed(range(90))][::-1]
    assert np.array_equal(forward, again)
    assert not np.array_equal(forward, visits(data, range(90), 4, seed=8))
    rounds = [[bucket_draw(SIZES, 0, step)[0] for step in range(i, i + 40)]
              for i in (0, 40)]  # fmt: skip
    assert rounds[0] != rounds[1]


def test_one_bucket_has_the_order_of_a_dataset_without_buckets():
    plain = jd.data.from_arrays(np.zeros((9, 1, 1, 1), np.uint8))
    bucketed = jd.data.from_arrays(Buckets([np.zeros((9, 1, 1, 1), np.uint8)]))
    for step in (0, 3, 50):
        wanted = plain.examples(3, step, 4)
        assert np.array_equal(bucketed.examples(3, step, 4), wanted)


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_read_parts_of_one_batch(processes):
    data, batch_size = numbered(), 8
    for step in range(20):
        whole = jd.data.batch(data, 1, step, batch_size, flip=True)
        rows = np.split(np.arange(batch_size), processes)
        parts = [jd.data.batch(data, 1, step, batch_size, flip=True, rows=one)
                 for one in rows]  # fmt: skip
        for name in ("images", "condition", "indices"):
            joined = np.concatenate([getattr(part, name) for part in parts])
            assert np.array_equal(joined, getattr(whole, name))


def test_a_batch_has_the_labels_of_its_images():
    data = numbered()
    shapes = set()
    for step in range(40):
        found = jd.data.batch(data, 0, step, 4)
        pixels = jd.data.to_uint8(found.images)
        assert (pixels == np.asarray(found.labels)[:, None, None, None]).all()
        shapes.add(pixels.shape[1:])
    assert shapes == {(1, 1, 1), (1, 2, 1), (1, 3, 1)}


def test_a_bucket_is_a_dataset():
    data = numbered()
    assert data.image_shape == (1, 2, 1)  # the bucket with the most images
    assert [len(part) for part in data.buckets] == list(SIZES)
    part = data.of_shape((1, 3, 1))
    assert part.labels is not None
    assert part.captions is not None
    assert part.labels.tolist() == list(range(28, 40))
    assert part.captions[0] == ("28", "28!")
    assert len(data.of_shape((7, 7, 1))) == 0
    plain = jd.data.from_arrays(np.zeros((9, 1, 1, 1), np.uint8))
    assert plain.of_shape((7, 7, 1)) is plain
    assert (
        len({numbered().fingerprint(), *(p.fingerprint() for p in data.buckets)}) == 4
    )


@pytest.mark.parametrize("parts", [
    [], [np.zeros((0, 2, 2, 1), np.uint8)],
    [np.zeros((1, 2, 2, 1), np.uint8), np.zeros((1, 2, 3, 3), np.uint8)],
    [np.zeros((1, 2, 2, 1), np.uint8), np.zeros((1, 2, 3, 1), np.float32)],
])  # fmt: skip
def test_buckets_refuse(parts):
    with pytest.raises(InputError, match="parts must be images of one number"):
        Buckets(parts)


def test_images_of_two_buckets_are_no_array():
    images = Buckets(
        [np.zeros((2, 1, 1, 1), np.uint8), np.ones((3, 1, 2, 1), np.uint8)]
    )
    assert images[2:4].shape == (2, 1, 2, 1)
    assert images[np.array([4, 2])].mean() == 1
    with pytest.raises(InputError, match="images must be of one bucket, got 2"):
        images[:]


# Folders


def ramp(path: Path, height: int, width: int, axis: int) -> None:
    """Writes a picture whose grey value is the row (axis 0) or column (axis 1)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.indices((height, width))[axis].astype(np.uint8)
    Image.fromarray(values).save(path)


def folder(path: Path, **options) -> ImageFolder:
    return ImageFolder(
        **{"path": str(path), "size": 64, "buckets": 16, "channels": 1,
           "held_out": 0.0, **options}
    )  # fmt: skip


def test_pictures_are_cropped_and_scaled_to_their_bucket(tmp_path):
    ramp(tmp_path / "wide.png", 64, 192, 1)  # ratio 3: the central 128 columns
    ramp(tmp_path / "tall.png", 192, 64, 0)
    ramp(tmp_path / "square.png", 128, 130, 1)
    data = folder(tmp_path).load()
    shapes = [part.image_shape for part in data.buckets]
    assert shapes == [(32, 64, 1), (64, 32, 1), (64, 64, 1)]
    wide, tall, square = (part.images[0][..., 0].astype(float) for part in data.buckets)
    # A linear ramp, reduced by 2, has the values at the middles of pairs of pixels.
    middles = 2 * np.arange(64) + 0.5
    inner = slice(4, -4)
    np.testing.assert_allclose(wide[0, inner], (32 + middles)[inner], atol=0.51)
    np.testing.assert_allclose(tall[inner, 0], (32 + middles)[inner], atol=0.51)
    np.testing.assert_allclose(square[0, inner], (1 + middles)[inner], atol=0.51)
    assert np.ptp(wide, axis=0).max() == 0


def test_a_rotated_photograph_goes_to_the_bucket_as_it_is_shown(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees
    Image.new("L", (100, 60)).save(tmp_path / "a.jpg", exif=exif)
    assert folder(tmp_path).load().image_shape == (80, 48, 1)


@pytest.mark.parametrize("stream", [False, True])
def test_labels_and_captions_stay_with_their_pictures(tmp_path, stream):
    sides = [(40, 40), (24, 48), (48, 24), (40, 41), (25, 50), (40, 39), (30, 50)]
    for i, (height, width) in enumerate(sides):
        path = tmp_path / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("L", (width, height), 10 * i).save(path)
        path.with_suffix(".txt").write_text(f"picture {10 * i}")
    data = folder(tmp_path, captions="files", stream=stream).load()
    assert len(data) == 7
    assert data.class_names == ("a", "b")
    assert isinstance(data.images, Buckets)
    assert isinstance(data.images.parts[0], np.ndarray) != stream
    found = []
    for part in data.buckets:
        assert part.labels is not None
        assert part.captions is not None
        for i in range(len(part)):
            value = int(part.images[i].max())
            assert part.captions[i] == (f"picture {value}",)
            assert part.labels[i] == value // 10 % 2
            found.append(value)
    assert sorted(found) == [0, 10, 20, 30, 40, 50, 60]
    other = folder(tmp_path, captions="files", stream=not stream).load()
    assert other.fingerprint() == data.fingerprint()
    again = folder(tmp_path, captions="files", stream=stream).load()
    assert again.fingerprint() == data.fingerprint()
    squares = folder(tmp_path, captions="files", buckets=0).load()
    assert squares.fingerprint() != data.fingerprint()
    assert np.asarray(squares.images).shape == (7, 64, 64, 1)


@pytest.mark.parametrize(("buckets", "message"), [
    (24, r"buckets must divide size \(64\), got 24\. Use 8, or change size"),
    (128, r"buckets must divide size \(64\), got 128\. Use 64"),
    (-8, "buckets must be at least 0, got -8"),
])  # fmt: skip
def test_a_step_that_does_not_fit_is_refused(buckets, message):
    with pytest.raises(InputError, match=message):
        folder(Path(), buckets=buckets)
