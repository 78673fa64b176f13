"""Places of parameters in published files, and reading them from there."""

import itertools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import jax
import ml_dtypes
import numpy as np

from jaxdiff.components.weights import Tensor, check_tensors
from jaxdiff.errors import InputError
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

    @property
    def places(self) -> "tuple[Place, ...]":
        """Places of all tensors, here one."""
        return (self,)

    def read(
        self, tensors: Mapping[str, Tensor], shape: tuple[int, ...], dtype: Any
    ) -> np.ndarray:
        """Reads the parameter of this shape and type."""
        return self.ours(tensors[self.name].read(), shape, dtype)

    def write(self, parameter: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the tensors of the parameter by name."""
        return {self.name: self.theirs(parameter)}


class Stack(NamedTuple):
    """Places of equal parameters that are stacked along a first axis.

    Attributes:
        places: place of each.
    """

    places: tuple[Place, ...]

    def read(
        self, tensors: Mapping[str, Tensor], shape: tuple[int, ...], dtype: Any
    ) -> np.ndarray:
        """Reads the parameter of this shape and type."""
        return np.stack([one.read(tensors, shape[1:], dtype) for one in self.places])

    def write(self, parameter: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the tensors of the parameter by name."""
        pairs = zip(self.places, parameter, strict=True)
        return {place.name: place.theirs(part) for place, part in pairs}


class Copies(NamedTuple):
    """Places of one parameter that a file repeats.

    Attributes:
        places: place of each copy.
    """

    places: tuple[Place, ...]

    def read(
        self, tensors: Mapping[str, Tensor], shape: tuple[int, ...], dtype: Any
    ) -> np.ndarray:
        """Reads the parameter of this shape and type.

        Raises:
            InputError: the copies differ.
        """
        first, *others = (place.name for place in self.places)
        known = tensors[first].read()
        for name in others:
            if not np.array_equal(tensors[name].read(), known):
                raise InputError(
                    f"{name} must equal {first}, because all blocks share the "
                    "embeddings of time and class, got other numbers"
                )
        return self.places[0].ours(known, shape, dtype)

    def write(self, parameter: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the tensors of the parameter by name."""
        tensor = self.places[0].theirs(parameter)
        return {place.name: tensor for place in self.places}


AnyPlace: TypeAlias = Place | Stack | Copies


def wanted_tensors(places: Any) -> dict[str, tuple[int, ...]]:
    """Returns the tensors' shapes by name, of a tree of places."""
    every = (place.places for place in flat_places(places))
    return {place.name: place.shape for place in itertools.chain.from_iterable(every)}


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
        places: place of each parameter, in a tree like `shapes`.
        tensors: tensors of the files, by name.
        where: folder of the files, for messages.
        dtype: type of the parameters.
        shardings: tree of shardings like the parameters; None for the first device.

    Raises:
        InputError: names, shapes or types of the tensors do not match, or copies of a
            tensor differ.
    """
    tensors = with_new_names(tensors)
    check_tensors(tensors, wanted_tensors(places), where)
    kind: Any = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
    leaves, tree = jax.tree.flatten(shapes)
    targets = [None] * len(leaves) if shardings is None else jax.tree.leaves(shardings)
    found = []
    for leaf, place, target in zip(leaves, flat_places(places), targets, strict=True):
        try:
            array = place.read(tensors, leaf.shape, kind)
        except InputError as error:
            raise InputError(f"'{where}': {error}") from None
        found.append(jax.device_put(array, target))
    return jax.tree.unflatten(tree, found)


def tensors_of(params: Params, places: Any) -> dict[str, np.ndarray]:
    """Returns the tensors of parameters, by name, in the parameters' types."""
    pairs = zip(jax.tree.leaves(params), flat_places(places), strict=True)
    found: dict[str, np.ndarray] = {}
    for leaf, place in pairs:
        found |= place.write(np.asarray(leaf))
    return found


def flat_places(places: Any) -> list[AnyPlace]:
    """Returns the places of a tree, in the order of its parameters."""
    return jax.tree.leaves(places, is_leaf=lambda x: isinstance(x, AnyPlace))


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
