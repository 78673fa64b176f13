"""Readers of attributes in the command `evaluate`, and the figures of what is read."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxdiff.cli.figures import Figure
from jaxdiff.cli.progress import bar
from jaxdiff.data import Dataset
from jaxdiff.data.attributes import Values, attribute_values
from jaxdiff.evaluation.feature_classifier import Recipe
from jaxdiff.evaluation.readers import (
    Reader,
    all_right,
    number_of_readers,
    readers_of,
)
from jaxdiff.parallel import Parallel


def values_of(
    steps: int, data: Any, splits: Mapping[str, Dataset]
) -> dict[str, Values]:
    """Returns the attributes of each split's images; {} of every split for 0 steps.

    Args:
        steps: number of training steps of each reader; 0 for no reader.
        data: options of the images.
        splits: images by the name of their split.
    """
    return {
        split: attribute_values(data, dataset, split) if steps else {}
        for split, dataset in splits.items()
    }


class Readers(NamedTuple):
    """Trained readers of all attributes of a dataset.

    Attributes:
        steps: number of training steps of each.
        each: the readers by attribute; {} if there is nothing to read.
        parallel: layout of devices.
    """

    steps: int
    each: dict[str, Reader]
    parallel: Parallel

    @classmethod
    def of(
        cls, steps: int, training: Dataset, values: Values, parallel: Parallel
    ) -> "Readers":
        """Returns the readers, with a progress bar while they are trained.

        Args:
            steps: number of training steps of each reader; 0 for no reader.
            training: training images.
            values: their attributes.
            parallel: layout of devices.
        """
        count = number_of_readers(values) if steps else 0
        if not count:
            return cls(steps, {}, parallel)
        with bar(count * steps, "readers", "step") as on_step:
            recipe = Recipe(num_steps=steps)
            return cls(
                steps, readers_of(training, values, recipe, parallel, on_step), parallel
            )

    def settings(self) -> dict[str, Any]:
        """Returns the entry of evaluation.json; {} without readers."""
        if not self.each:
            return {}
        return {
            "readers": {
                "steps": self.steps,
                "values": {name: len(one.values) for name, one in self.each.items()},
                "weights": {n: one.classifier.sha256() for n, one in self.each.items()},
            }
        }

    def figures(
        self,
        values: Values,
        places: np.ndarray,
        real: np.ndarray,
        rows: np.ndarray,
        images: np.ndarray,
        *,
        learned: bool,
        names: tuple[str, str],
        by: str,
    ) -> Iterator[Figure]:
        """Yields the share of images whose attributes are those of real ones.

        Args:
            values: attributes of all real images of the split.
            places: place of each given real image in the split, integers [count].
            real: given real images, uint8 [count, height, width, channels].
            rows: real image whose attributes each image must have, integers [num].
            images: images to read, uint8 [num, height, width, channels].
            learned: if True, the real images are those of the training split.
            names: names of a figure and of its baseline, with {} for the attribute.
            by: what the images are; the figures' notes begin with it.
        """
        found, of_real = {}, {}
        for one, reader in self.each.items():
            asked: Sequence[str | None] = [values[one][place] for place in places]
            wanted = [asked[row] for row in rows]
            found[one] = reader.right(images, wanted, self.parallel)
            of_real[one] = reader.right(real, asked, self.parallel)
        if len(found) > 1:
            found["all"], of_real["all"] = all_right(found), all_right(of_real)
        for one, right in found.items():
            count = int((~np.isnan(right)).sum())
            if not count:
                continue
            note = f"{by}, {count} with this attribute"
            share = float(np.nanmean(right))
            yield Figure(names[0].format(one), share, unit="share", note=note)
            baseline, note = float(np.nanmean(of_real[one])), "real held-out images"
            if learned:
                if one == "all":
                    continue
                baseline = self.each[one].accuracy
                note = "real training images that the reader has not seen"
            yield Figure(names[1].format(one), baseline, unit="share", note=note)
