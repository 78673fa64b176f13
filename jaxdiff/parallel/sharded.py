"""State split over a mesh of devices, by `jax.shard_map`."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from operator import itemgetter
from typing import Annotated, Any

import jax
import numpy as np
from annotated_types import Ge
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxdiff.checks import Checked
from jaxdiff.errors import InputError
from jaxdiff.parallel.base import (
    Everywhere,
    State,
    Step,
    Tree,
    first_devices,
)

ROWS = PartitionSpec(("data", "fsdp"))
"""Partition of a batch in `Sharded`: the first axis over all devices."""


SMALL = 1024
"""Number of elements below which arrays are not split: sending them costs more than
storing them."""


@dataclass(frozen=True, kw_only=True)
class Sharded(Checked, Everywhere):
    """Parameters, optimizer state and averages split over devices: for large models."""

    data: Annotated[int, Ge(1)] = 1
    """Number of device groups; each holds the whole state, split over its devices."""
    fsdp: Annotated[int, Ge(1)] | None = None
    """Number of devices per group; None divides all devices among the groups."""

    @property
    def devices(self) -> list[jax.Device]:
        """Devices of all processes."""
        return first_devices(self._asked[0])

    @property
    def _asked(self) -> tuple[int | None, int]:
        return None if self.fsdp is None else self.data * self.fsdp, self.data

    @cached_property
    def mesh(self) -> Mesh:
        """Mesh of the devices [data, fsdp]."""
        count = len(self.devices)
        if count % self.data:
            raise InputError(
                f"data must divide the {count} devices, got {self.data}. "
                f"Use {math.gcd(count, self.data)}, or set fsdp too."
            )
        # JAX chooses neighbours in the mesh by the machine's links.
        return jax.make_mesh(
            (self.data, count // self.data), ("data", "fsdp"),
            axis_types=(jax.sharding.AxisType.Auto,) * 2, devices=self.devices,
        )  # fmt: skip

    def step(self, fn: Step) -> Callable[[State, Any], tuple[State, Any]]:
        """Compiles `fn(state, batch, mean_of)`; see `Pmap.step`."""
        whole = NamedSharding(self.mesh, PartitionSpec())

        def run(state: State, batch: Any) -> tuple[State, Any]:
            state, metrics = fn(state, batch, self._mean_of)
            place = jax.lax.with_sharding_constraint
            return place(state, self.shardings(state)), place(metrics, whole)

        compiled = jax.jit(run, donate_argnums=0)
        return lambda state, batch: compiled(state, self.place(batch).batch)

    def shardings(self, state: State) -> State:
        """Returns shardings that split each array along its longest divisible axis."""
        mesh = self.mesh
        return jax.tree.map(lambda spec: NamedSharding(mesh, spec), self._specs(state))

    def localize(self, state: State) -> State:
        """Returns the state unchanged."""
        return state

    def globalize(self, state: State) -> State:
        """Returns the state unchanged."""
        return state

    def rows(self, size: int) -> np.ndarray:
        """Returns this process's rows of a global batch of `size` rows, in order."""
        self.check_batch_size(size)
        places = self._by_row.addressable_devices_indices_map((size,)).values()
        return np.unique(np.concatenate([np.arange(size)[place] for place in places]))

    def map(self, fn: Callable[[Any, Any], Tree]) -> Callable[[Any, Any], Tree]:
        """Compiles `fn(shared, batch) -> results`; see `Everywhere.map`."""
        whole = NamedSharding(self.mesh, PartitionSpec())

        def on_all(shared: Any, batch: Any) -> Tree:
            def on_each(shared: Any, batch: Any) -> Tree:
                return fn(self._gathered(shared, specs), batch)

            specs = self._specs(shared)
            return self._on_each(on_each, (specs, ROWS), ROWS)(shared, batch)

        compiled = jax.jit(on_all, out_shardings=whole)

        def run(shared: Any, batch: Any) -> Tree:
            rows = self.rows(len(jax.tree.leaves(batch)[0]))
            mine = jax.tree.map(itemgetter(rows), batch)
            return jax.device_get(compiled(shared, self._spread(mine)))

        return run

    def _mean_of(self, fn: Callable[[Any, Any], Tree], shared: Any, batch: Any) -> Tree:
        """Gathers split arrays of `shared`, applies `fn`, and splits the mean again."""
        count = len(self.devices)
        share = jax.tree.map(
            lambda a: jax.ShapeDtypeStruct((len(a) // count, *a.shape[1:]), a.dtype),
            batch,
        )
        given = self._specs(shared)
        wanted = self._specs(jax.eval_shape(fn, shared, share))

        def reduced(a: jax.Array, spec: PartitionSpec) -> jax.Array:
            if "fsdp" not in spec:
                return jax.lax.pmean(a, ("data", "fsdp"))
            axis = spec.index("fsdp")
            a = jax.lax.psum_scatter(a, "fsdp", scatter_dimension=axis, tiled=True)
            return (jax.lax.psum(a, "data") if self.data > 1 else a) / count

        def on_each(shared: Any, batch: Any) -> Tree:
            results = fn(self._gathered(shared, given), batch)
            return jax.tree.map(reduced, results, wanted)

        return self._on_each(on_each, (given, ROWS), wanted)(shared, batch)

    def _on_each(self, fn: Any, in_specs: Any, out_specs: Any) -> Any:
        """Maps `fn` over the devices, each with its own parts."""
        return jax.shard_map(
            fn, mesh=self.mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False
        )

    def _gathered(self, tree: Tree, specs: Any) -> Tree:
        """Returns whole arrays on each device, joined from the parts of its group."""

        def gathered(a: jax.Array, spec: PartitionSpec) -> jax.Array:
            if "fsdp" not in spec:
                return a
            return jax.lax.all_gather(a, "fsdp", axis=spec.index("fsdp"), tiled=True)

        return jax.tree.map(gathered, tree, specs)

    def _specs(self, tree: Tree) -> Tree:
        """Returns the partition of each array within a group of devices."""
        parts = self.mesh.shape["fsdp"]
        return jax.tree.map(lambda a: _split_axis(a.shape, parts), tree)

    @cached_property
    def _by_row(self) -> NamedSharding:
        return NamedSharding(self.mesh, ROWS)

    def _spread(self, batch: Tree) -> Tree:
        """Returns this process's rows of a batch as arrays of all processes."""
        return jax.make_array_from_process_local_data(self._by_row, batch)


def _split_axis(shape: tuple[int, ...], parts: int) -> PartitionSpec:
    """Returns the partition along the last of the longest axes that `parts` divides.

    Small arrays are not split.
    """
    whole = [size if size % parts == 0 else 0 for size in shape]
    if parts == 1 or math.prod(shape) < SMALL or not any(whole):
        return PartitionSpec()
    axis = max(range(len(shape)), key=lambda i: (whole[i], i))
    return PartitionSpec(*[None] * axis, "fsdp")
