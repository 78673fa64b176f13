"""Captions of datasets, and the captions in an image folder."""

import numpy as np
import pytest

from jaxdiff.data import from_arrays
from jaxdiff.data.captions import as_bytes, from_bytes
from jaxdiff.data.dataset import caption_choice
from jaxdiff.errors import InputError

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
