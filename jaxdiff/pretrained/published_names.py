"""Tensors of networks whose modules have the published names.

The kernel of the module "layers.0.fc1" is the tensor layers.0.fc1.weight. PyTorch
stores a matrix as [out, in], and a convolution as [out, in, height, width].
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np

from jaxdiff.pretrained.parameter_names import Place, with_new_names
from jaxdiff.pretrained.weights import Tensor, check_tensors
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


def wanted_tensors(shapes: Params) -> dict[str, tuple[int, ...]]:
    """Returns the tensors' shapes by name."""
    return {place.name: place.shape for place in _flat(published_places(shapes))}


def read_params(
    shapes: Params,
    tensors: Mapping[str, Tensor],
    where: Path,
    dtype: str = "float32",
    shardings: Any = None,
) -> Params:
    """Reads parameters tensor by tensor, each to its devices.

    Args:
        shapes: shapes of the parameters.
        tensors: tensors of the files, by name.
        where: folder of the files, for messages.
        dtype: type of the parameters.
        shardings: tree of shardings like the parameters; None for the first device.

    Raises:
        InputError: names, shapes or types of the tensors do not match.
    """
    tensors = with_new_names(tensors)
    check_tensors(tensors, wanted_tensors(shapes), where)
    kind: Any = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
    leaves, tree = jax.tree.flatten(shapes)
    targets = jax.tree.leaves(shardings) if shardings is not None else [None]
    found = []
    for i, (leaf, place) in enumerate(
        zip(leaves, _flat(published_places(shapes)), strict=True)
    ):
        array = place.ours(tensors[place.name].read(), leaf.shape, kind)
        found.append(jax.device_put(array, targets[i % len(targets)]))
    return jax.tree.unflatten(tree, found)


def tensors_of(params: Params) -> dict[str, np.ndarray]:
    """Returns the tensors of parameters, by name, in the parameters' types."""
    return {
        place.name: place.theirs(np.asarray(leaf))
        for leaf, place in zip(
            jax.tree.leaves(params), _flat(published_places(params)), strict=True
        )
    }


def _flat(tree: Any) -> list[Place]:
    return jax.tree.leaves(tree, is_leaf=lambda x: isinstance(x, Place))
