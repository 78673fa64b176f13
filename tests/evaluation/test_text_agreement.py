"""Agreement of images and texts on vectors whose products are known."""

import numpy as np
import pytest

from jaxdiff.errors import InputError
from jaxdiff.evaluation.text_agreement import distinct, text_agreement

AXES = np.eye(4)


def test_every_image_finds_its_text():
    numbers = np.array([2, 0, 1, 2, 3])
    found = text_agreement(AXES[numbers], AXES, numbers)
    assert (found.texts, found.text_found, found.image_found) == (4, 1, 1)
    assert found.score.value == 1
    assert found.others.value == 0


def test_shares_and_scores_are_counted():
    """Image 1 looks like text 2, and text 1 finds no image of its own."""
    images = np.array([AXES[0], 0.6 * AXES[1] + 0.8 * AXES[2], AXES[2], AXES[0]])
    numbers = np.array([0, 1, 2, 0])
    found = text_agreement(images, AXES[:3], numbers)
    assert found.text_found == 3 / 4
    assert found.image_found == 1
    assert found.score.value == pytest.approx((1 + 0.6 + 1 + 1) / 4)
    assert found.others.value == pytest.approx(0.8 / 2 / 4)
    swapped = text_agreement(images, AXES[:3], np.array([1, 0, 2, 1]))
    assert swapped.text_found == 1 / 4
    assert swapped.image_found == 1 / 3


def test_texts_are_numbered():
    texts, numbers = distinct(["b", "a", "b"])
    assert texts == ["b", "a"]
    assert numbers.tolist() == [0, 1, 0]
    with pytest.raises(InputError, match="at least 2 different texts, got 1"):
        text_agreement(AXES[:2], AXES[:1], np.zeros(2, int))
