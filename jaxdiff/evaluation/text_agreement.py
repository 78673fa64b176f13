"""Agreement of images with their texts, by two towers.

    (1)  score = mean over images i of u_i . v_t(i)
    (2)  text found: share of images i with t(i) = argmax_k u_i . v_k
    (3)  image found: share of texts k with t(argmax_i u_i . v_k) = k

u_i is the vector of image i, v_k the vector of text k, and t(i) the text of image i.
Equation (1) is the score of Hessel et al. 2021 (CLIPScore) without its factor 2.5, and
(2) and (3) are the retrieval R@1. All texts k differ.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from jaxdiff.errors import InputError
from jaxdiff.evaluation.mean import Mean
from jaxdiff.runs.towers import TowersRun


class Agreement(NamedTuple):
    """Agreement of images with their texts.

    Attributes:
        texts: number of different texts.
        score: equation (1).
        others: mean of u_i . v_k over the texts k of other images: the chance.
        text_found: equation (2); its chance is 1 / texts.
        image_found: equation (3); its chance is 1 / texts too.
    """

    texts: int
    score: Mean
    others: Mean
    text_found: float
    image_found: float


def text_agreement(
    images: np.ndarray, texts: np.ndarray, numbers: np.ndarray
) -> Agreement:
    """Returns the agreement of vectors of images with vectors of texts.

    Args:
        images: vectors of images [num, features], of length 1.
        texts: vectors of the different texts [count, features], of length 1.
        numbers: text of each image, integers [num] below count. Each text has at least
            one image.

    Raises:
        InputError: there are fewer than two texts.
    """
    count = len(texts)
    check_texts(count)
    products = np.asarray(images, np.float64) @ np.asarray(texts, np.float64).T
    own = products[np.arange(len(images)), numbers]
    others = (products.sum(axis=1) - own) / (count - 1)
    best = numbers[products.argmax(axis=0)]
    return Agreement(
        texts=count,
        score=Mean.of(own),
        others=Mean.of(others),
        text_found=float(np.mean(products.argmax(axis=1) == numbers)),
        image_found=float(np.mean(best == np.arange(count))),
    )


def check_texts(count: int) -> None:
    """Raises `InputError` for fewer than two different texts."""
    if count < 2:
        raise InputError(
            f"captions must have at least 2 different texts, got {count}. Take more "
            "images."
        )


def distinct(texts: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """Returns the different texts, and the number of each given one, [num]."""
    number = {text: i for i, text in enumerate(dict.fromkeys(texts))}
    return list(number), np.array([number[text] for text in texts])


def agreement_of(
    towers: TowersRun,
    images: np.ndarray,
    texts: Sequence[str],
    on_chunk: Callable[[int], None] = lambda done: None,
) -> Agreement:
    """Returns the agreement of images with one text each; see `text_agreement`.

    Args:
        towers: trained towers.
        images: uint8 [num, height, width, channels].
        texts: text of each image.
        on_chunk: called with the number of finished images.
    """
    different, numbers = distinct(texts)
    vectors = towers.images(images, on_chunk)
    return text_agreement(vectors, towers.texts(different), numbers)
