"""Places of parameters in published files, and reading them from there."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import ml_dtypes
import numpy as np

from jaxdiff.components.weights import Tensor, check_tensors
from jaxdiff.typing import Params

_OLD = {
    "query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"
}  # fmt: skip


class Place(NamedTuple):
    """Place of a parameter in a file.

    Attributes:
        name: name of the tensor.
        shape: shape of the tensor.
        order: the parameter's axes in the order of the tensor's axes.
    """

    name: str
    shape: tuple[int, ...]
    order: tuple[int, ...]

    def ours(
        self, tensor: np.ndarray, shape: tuple[int, ...], dtype: Any = np.float32
    ) -> np.ndarray:
        """Converts the tensor to the parameter of this shape and type."""
        permuted = tuple(shape[axis] for axis in self.order)
        inverse = np.argsort(self.order)
        return (
            np.asarray(tensor)
            .astype(dtype, copy=False)
            .reshape(permuted)
            .transpose(inverse)
        )

    def theirs(self, parameter: np.ndarray) -> np.ndarray:
        """Converts the parameter to the tensor."""
        return np.asarray(parameter).transpose(self.order).reshape(self.shape)


def wanted_tensors(places: Any) -> dict[str, tuple[int, ...]]:
    """Returns the tensors' shapes by name, of a tree of places."""
    return {place.name: place.shape for place in flat_places(places)}


def read_params(
    shapes: Params,
    places: Any,
    tensors: Mapping[str, Tensor],
    where: Path,
    dtype: str = "float32",
    shardings: Any = None,
) -> Params:
    """Reads parameters tensor by tensor, each to its devices.

    Args:
        shapes: shapes of the parameters.
        places: `Place` of each parameter, in a tree like `shapes`.
        tensors: tensors of the files, by name.
        where: folder of the files, for messages.
        dtype: type of the parameters.
        shardings: tree of shardings like the parameters; None for the first device.

    Raises:
        InputError: names, shapes or types of the tensors do not match.
    """
    tensors = with_new_names(tensors)
    check_tensors(tensors, wanted_tensors(places), where)
    kind: Any = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
    leaves, tree = jax.tree.flatten(shapes)
    targets = [None] * len(leaves) if shardings is None else jax.tree.leaves(shardings)
    found = []
    for leaf, place, target in zip(leaves, flat_places(places), targets, strict=True):
        array = place.ours(tensors[place.name].read(), leaf.shape, kind)
        found.append(jax.device_put(array, target))
    return jax.tree.unflatten(tree, found)


def tensors_of(params: Params, places: Any) -> dict[str, np.ndarray]:
    """Returns the tensors of parameters, by name, in the parameters' types."""
    pairs = zip(jax.tree.leaves(params), flat_places(places), strict=True)
    return {place.name: place.theirs(np.asarray(leaf)) for leaf, place in pairs}


def flat_places(places: Any) -> list[Place]:
    """Returns the places of a tree, in the order of its parameters."""
    return jax.tree.leaves(places, is_leaf=lambda x: isinstance(x, Place))


def with_new_names(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Renames the tensors of attention to today's names: query becomes to_q."""

    def new(name: str) -> str:
        return re.sub(
            r"(\.attentions\.\d+\.)(query|key|value|proj_attn)(\.\w+)$",
            lambda found: f"{found[1]}{_OLD[found[2]]}{found[3]}",
            name,
        )

    renamed = {new(name): tensor for name, tensor in tensors.items()}
    # In a file with both names, the old name stays and raises as unknown.
    return renamed if len(renamed) == len(tensors) else dict(tensors)
