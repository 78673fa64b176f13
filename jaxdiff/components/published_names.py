"""Tensors of networks whose modules have the published names.

The kernel of the module "layers.0.fc1" is the tensor layers.0.fc1.weight. PyTorch
stores a matrix as [out, in], and a convolution as [out, in, height, width].
"""

from typing import Any

import jax

from jaxdiff.components.places import Place
from jaxdiff.typing import Params

_WEIGHTS = ("kernel", "scale", "embedding")


def published_places(params: Params) -> Any:
    """Returns a `Place` for each parameter, in a tree like `params`.

    Args:
        params: parameters, or their shapes.
    """

    def place(path: Any, leaf: Any) -> Place:
        *modules, last = (part.key for part in path)
        end = "weight" if last in _WEIGHTS else last
        order = tuple(range(leaf.ndim))
        if last == "kernel":
            order = (3, 2, 0, 1) if leaf.ndim == 4 else (1, 0)
        shape = tuple(leaf.shape[axis] for axis in order)
        return Place(".".join([*modules, end]), shape, order)

    return jax.tree.map_with_path(place, params)
