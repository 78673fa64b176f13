"""Attributes of the pictures of a dataset, such as a colour, to measure samples by.

A dataset's options give them with a method `attribute_values`; `Emoji` has one. Data
with classes have the attribute "class".
"""

from typing import Any, TypeAlias

from jaxdiff.data.dataset import Dataset

Values: TypeAlias = dict[str, list[str | None]]
"""Value of each picture, in the split's order, by the attribute's name; or None."""


def attribute_values(data: Any, dataset: Dataset, split: str) -> Values:
    """Returns the attributes of a split's pictures; {} if there are none.

    Args:
        data: Options of the dataset, such as `Emoji`.
        dataset: Pictures of the split.
        split: Name of the split.

    Raises:
        EmptySplit: If no picture falls into this split.
    """
    values = getattr(data, "attribute_values", None)
    if values is not None:
        found: Values = values(split)
        return found
    if dataset.labels is None:
        return {}
    names = dataset.class_names
    return {
        "class": [
            str(i) if names is None else names[i] for i in dataset.labels.tolist()
        ]
    }
