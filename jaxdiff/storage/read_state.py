"""Arrays of a checkpoint as a given structure, matched by name."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxdiff.errors import InputError, first_few


def read_state(
    ocp: Any, literal: Path, path: Path, template: Any, partial: bool
) -> Any:
    """Reads a state; see `Checkpoints.restore` for the template.

    Args:
        ocp: Orbax's module v1.
        literal: Literal path of the checkpoint; see `literal_path`.
        path: Path of the checkpoint for errors.
        template: Structure of the state.
        partial: If True, reads the template's leaves only.

    Raises:
        InputError: If the checkpoint holds a different state.
    """
    there = ocp.metadata(literal).metadata
    _check(path, there, template, partial)
    first = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

    def abstract(leaf: Any) -> jax.ShapeDtypeStruct:
        sharding = getattr(leaf, "sharding", None) or first
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    # Leaves are matched by name. Orbax would also compare the empty subtrees, whose
    # number may differ between versions.
    wanted = {name: abstract(leaf) for name, leaf in by_name(template).items()}
    skipped = ocp.PLACEHOLDER
    asked = jax.tree.map_with_path(
        lambda p, _: wanted.get(leaf_name(p), skipped), there
    )
    found = by_name(ocp.load(literal, asked))
    return with_names(template, found)


def _check(path: Path, metadata: Any, template: Any, partial: bool) -> None:
    """Raises an error for a different state: Orbax would cast dtypes silently."""
    there, here = _leaves(metadata), _leaves(template)
    if partial:
        there = {name: leaf for name, leaf in there.items() if name in here}
    differing = [
        f"{name}: {there.get(name, 'none')}, expected {here.get(name, 'none')}"
        for name in sorted({name for name, _ in there.items() ^ here.items()})
    ]
    if differing:
        raise InputError(
            f"the checkpoint '{path}' holds a different state "
            f"({first_few(differing)}). Use the configuration of the checkpoint."
        )


def _leaves(tree: Any) -> dict[str, str]:
    """Returns types by path, such as "params/dense/kernel": "float32[3, 4]"."""
    return {n: f"{leaf.dtype}{list(leaf.shape)}" for n, leaf in by_name(tree).items()}


def by_name(tree: Any) -> dict[str, Any]:
    """Returns the leaves of a tree by name."""
    return {leaf_name(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def with_names(template: Any, leaves: Mapping[str, Any]) -> Any:
    """Returns the tree of a template with the leaves of these names."""
    return jax.tree.map_with_path(lambda p, _: leaves[leaf_name(p)], template)


def leaf_name(path: Any) -> str:
    """Returns a leaf's path in its tree, such as "params/dense/kernel"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def digest(tree: Any) -> str:
    """Returns a hash of the name, type, shape and bytes of every leaf."""
    found = hashlib.sha256()
    for name, leaf in by_name(tree).items():
        array = np.asarray(leaf)
        found.update(f"{name} {array.dtype} {array.shape}\0".encode())
        found.update(array.tobytes())
    return found.hexdigest()[:16]
