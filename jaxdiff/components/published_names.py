"""Tensors of networks whose modules have the published names.

The kernel of the module "layers.0.fc1" is the tensor layers.0.fc1.weight. PyTorch
stores a matrix as [out, in], and a convolution as [out, in, height, width].
"""

import re
from collections.abc import Mapping
from typing import Any

import jax

from jaxdiff.components.places import Place
from jaxdiff.typing import Params

_WEIGHTS = ("kernel", "scale", "embedding")
TIME = {
    "time_1": "time_embedding.linear_1", "time_2": "time_embedding.linear_2",
    "class_1": "class_embedding.linear_1", "class_2": "class_embedding.linear_2",
    "label": "class_embedding",
}  # fmt: skip
"""Names of the layers that embed time and class."""
RESIDUAL = {
    "norm_1": "norm1", "norm_2": "norm2", "conv_1": "conv1", "conv_2": "conv2",
    "time": "time_emb_proj", "skip": "conv_shortcut",
}  # fmt: skip
"""Names of the layers of a residual block."""


def published_places(
    params: Params, names: Mapping[str, str] | None = None, convolutions: str = "(?!)"
) -> Any:
    """Returns a `Place` for each parameter, in a tree like `params`.

    Args:
        params: parameters, or their shapes.
        names: published names of modules that have other ones; "" for modules that are
            no part of a name.
        convolutions: pattern of the published modules whose matrices are 1x1
            convolutions.
    """
    names = names or {}

    def place(path: Any, leaf: Any) -> Place:
        *parts, last = (part.key for part in path)
        modules = [names.get(part, part) for part in parts]
        modules = [module for module in modules if module]
        end = "weight" if last in _WEIGHTS else last
        order = tuple(range(leaf.ndim))
        if last == "kernel":
            order = (3, 2, 0, 1) if leaf.ndim == 4 else (1, 0)
        shape = tuple(leaf.shape[axis] for axis in order)
        if last == "kernel" and re.fullmatch(convolutions, modules[-1]):
            shape += (1, 1)
        return Place(".".join([*modules, end]), shape, order)

    return jax.tree.map_with_path(place, params)
