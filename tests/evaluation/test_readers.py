"""Readers of attributes: which values, which pictures, and what counts as right."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from jaxdiff.data import from_arrays
from jaxdiff.data.attributes import Values, attribute_values
from jaxdiff.data.colours import colour_families
from jaxdiff.evaluation import readers
from jaxdiff.evaluation.feature_classifier import Recipe
from jaxdiff.evaluation.readers import Reader, all_right, read_values, readers_of
from jaxdiff.parallel import Pmap


class Brightness:
    """Classifier whose class is the brightness of an image, in steps of 100."""

    def read(self, images, parallel):
        del parallel
        return None, images[:, 0, 0, 0] // 100


def grey(*levels):
    return np.array(levels, np.uint8)[:, None, None, None] * np.ones(
        (1, 2, 2, 1), np.uint8
    )


READER = Reader("shade", ("black", "grey", "white"), Brightness(), 1.0)  # type: ignore[arg-type]


def test_right_is_read_as_asked():
    asked = ["black", "white", "grey", None, "pink"]
    found = READER.right(grey(0, 100, 100, 0, 0), asked, Pmap())
    np.testing.assert_array_equal(found, [1, 0, 1, np.nan, np.nan])


def test_all_right_ignores_what_is_not_asked():
    nan = np.nan
    shares = {"a": np.array([1, 1, nan, nan]), "b": np.array([1, 0, 1, nan])}
    np.testing.assert_array_equal(all_right(shares), [1, 0, 1, nan])


def test_rare_values_are_not_read():
    values: list[str | None] = ["a"] * 5 + ["b"] * 5 + ["c"] * 4 + [None] * 9
    assert read_values(values) == ("a", "b")
    assert read_values([*values[:5], None]) == ()


def test_a_reader_has_not_seen_the_pictures_of_its_accuracy(monkeypatch):
    """Pictures number themselves; the classifier reads a seen one right, others not."""
    seen: set[int] = set()

    def classifier_of(dataset: Any, recipe: Any, on_step: Any) -> Any:
        seen.update(np.asarray(dataset.images)[:, 0, 0, 0].tolist())
        assert dataset.class_names == ("even", "odd")
        assert (dataset.labels == dataset.images[:, 0, 0, 0] % 2).all()
        on_step(recipe.steps)

        def read(images, parallel):
            numbers = images[:, 0, 0, 0]
            return None, (numbers + ~np.isin(numbers, list(seen))) % 2

        return SimpleNamespace(read=read)

    monkeypatch.setattr(readers, "classifier_of", classifier_of)
    training, steps = from_arrays(grey(*range(40))), list[int]()
    parity: list[str | None] = ["odd" if i % 2 else "even" for i in range(40)]
    parity[7] = None
    values: Values = {"parity": parity, "none": [None] * 40}
    found = readers_of(training, values, Recipe(num_steps=3), Pmap(), steps.append)
    assert list(found) == ["parity"]
    assert found["parity"].accuracy == 0
    assert len(seen) == 36
    assert 7 not in seen
    assert steps == [3]


def test_attributes_are_of_the_options_or_the_classes():
    dataset = from_arrays(grey(0, 9), labels=np.array([1, 0]), class_names=["a", "b"])
    assert attribute_values(object(), dataset, "train") == {"class": ["b", "a"]}
    own = SimpleNamespace(attribute_values=lambda split: {"split": [split]})
    assert attribute_values(own, dataset, "test") == {"split": ["test"]}
    assert attribute_values(object(), from_arrays(grey(0)), "train") == {}


@pytest.mark.parametrize("channels", [3, 4])
def test_colour_families(channels):
    """Most pixels are white or skin; the family is that of the others."""
    images = np.full((3, 10, 10, channels), 255, np.uint8)
    images[:, 2:8, 2:8, :3] = (155, 100, 61)
    images[0, :2, :2, :3] = (210, 47, 40)
    images[0, 9, 7:, :3] = (20, 80, 160)
    images[1, :2, 0, :3] = (210, 47, 39)  # 2 of 100 pixels
    images[2, :2, :, :3] = (180, 200, 60)
    if channels == 4:
        images[2, :2, 5:, :3] = (30, 80, 160)
        images[2, :2, 5:, 3] = 0
    assert colour_families(images) == ["red", None, "green"]
