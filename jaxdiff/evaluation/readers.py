"""Readers of attributes: classifiers of a tone, a role or a colour, on real pictures.

A reader is trained on nine tenths of the training pictures that have its attribute. Its
accuracy on the other tenth, and on held-out pictures, is the baseline of samples.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from jaxdiff.data import Dataset, order
from jaxdiff.data.attributes import Values
from jaxdiff.evaluation.feature_classifier import Recipe, Trained, classifier_of
from jaxdiff.parallel import Parallel

LEAST = 5
"""Number of training pictures from which a value of an attribute is read."""
HELD_OUT = 10
"""Number of pictures per picture that a reader is not trained on."""


class Reader(NamedTuple):
    """Reader of an attribute.

    Attributes:
        name: name of the attribute.
        values: values that it distinguishes.
        classifier: the network, whose classes are the values.
        accuracy: share of the pictures left out of its training that it reads right.
    """

    name: str
    values: tuple[str, ...]
    classifier: Trained
    accuracy: float

    def read(self, images: np.ndarray, parallel: Parallel) -> list[str]:
        """Returns the value that each image shows.

        Args:
            images: uint8 [num, height, width, channels].
            parallel: layout of devices.
        """
        _, classes = self.classifier.read(images, parallel)
        return [self.values[i] for i in classes]

    def right(
        self,
        images: np.ndarray,
        asked: Sequence[str | None],
        parallel: Parallel,
    ) -> np.ndarray:
        """Returns 1 for images read as asked, 0 for others, float64 [num].

        Images that ask for no value, or for one that the reader has not learned, are
        nan.
        """
        read = self.read(images, parallel)
        return np.array(
            [
                float(found == wanted) if wanted in self.values else np.nan
                for found, wanted in zip(read, asked, strict=True)
            ]
        )


def read_values(values: Sequence[str | None]) -> tuple[str, ...]:
    """Returns the values of an attribute that enough pictures have; () if one at most.

    Args:
        values: value of each training picture; None for none.
    """
    counts = Counter(value for value in values if value is not None)
    found = tuple(sorted(value for value, n in counts.items() if n >= LEAST))
    return found if len(found) > 1 else ()


def readers_of(
    training: Dataset,
    values: Values,
    recipe: Recipe,
    parallel: Parallel,
    on_step: Callable[[int], None] = lambda step: None,
) -> dict[str, Reader]:
    """Returns a reader of each attribute: trained now, or read from the cache.

    Args:
        training: training pictures.
        values: their attributes.
        recipe: options of the training, with a number of steps.
        parallel: layout of devices for the accuracies.
        on_step: called with the number of steps done, of all readers together.

    Raises:
        InputError: a reader cannot be cached.
    """
    found: dict[str, Reader] = {}
    for name, of_pictures in values.items():
        known = read_values(of_pictures)
        if not known:
            continue
        number = {value: i for i, value in enumerate(known)}
        places = np.array([i for i, v in enumerate(of_pictures) if v in number])
        labels = np.array([number[str(of_pictures[i])] for i in places], np.int32)
        shuffled = order(0, 0, len(places))
        count = max(1, len(places) // HELD_OUT)
        left, kept = np.sort(shuffled[:count]), np.sort(shuffled[count:])
        images = np.asarray(training.images[places[kept]])
        classifier = classifier_of(
            Dataset(images, labels[kept], known), recipe,
            partial(_from, on_step, len(found) * recipe.steps),
        )  # fmt: skip
        reader = Reader(name, known, classifier, np.nan)
        others = np.asarray(training.images[places[left]])
        right = reader.right(others, [known[i] for i in labels[left]], parallel)
        found[name] = reader._replace(accuracy=float(right.mean()))
    return found


def _from(on_step: Callable[[int], None], before: int, step: int) -> None:
    on_step(before + step)


def number_of_readers(values: Values) -> int:
    """Returns the number of attributes that can be read."""
    return sum(bool(read_values(one)) for one in values.values())


def all_right(shares: Mapping[str, np.ndarray]) -> np.ndarray:
    """Returns 1 for images of which every attribute is right, float64 [num].

    Args:
        shares: results of `Reader.right` by attribute. Attributes that an image does
            not ask for are ignored.
    """
    rows = np.stack(list(shares.values()))
    asked = ~np.isnan(rows)
    right = np.where(asked, rows, 1.0).min(axis=0)
    return np.where(asked.any(axis=0), right, np.nan)
