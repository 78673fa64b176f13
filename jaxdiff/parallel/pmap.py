"""Data parallelism by `jax.pmap`: every device holds the whole state."""

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
from jaxdiff.parallel.base import (
    AXIS,
    Everywhere,
    State,
    Step,
    Tree,
    first_devices,
    local_devices,
    relabelled,
    replicated,
)


@dataclass(frozen=True, kw_only=True)
class Pmap(Checked, Everywhere):
    """Data parallelism by `jax.pmap`: every device holds the whole state."""

    num_devices: Annotated[int, Ge(1)] | None = None
    """Number of devices; None uses all devices."""

    @property
    def devices(self) -> list[jax.Device]:
        """Devices of all processes."""
        return first_devices(self._asked[0])

    @property
    def _asked(self) -> tuple[int | None, int]:
        return self.num_devices, 1

    def step(self, fn: Step) -> Callable[[State, Any], tuple[State, Any]]:
        """Compiles `fn(state, batch, mean_of) -> (state, metrics)`.

        Args:
            fn: Function whose results must be the same on each device. They are if `fn`
                uses the batch through `mean_of` only; see base.py.

        Returns:
            A function of the state, which is donated, and of this process's `rows` of
            the batch: arrays with a leading axis, or the result of `place`.
        """

        def mean_of(fn: Callable[[Any, Any], Tree], shared: Any, batch: Any) -> Tree:
            return jax.lax.pmean(fn(shared, batch), AXIS)

        mapped = jax.pmap(
            lambda state, batch: fn(state, batch, mean_of),
            axis_name=AXIS,
            in_axes=(None, 0),
            out_axes=None,
            devices=self._pmap_devices,
            donate_argnums=0,
        )
        return lambda state, batch: mapped(state, self.place(batch).batch)

    def shardings(self, state: State) -> State:
        """Returns shardings that put the whole of a state on every device."""
        return replicated(self.devices, state)

    def localize(self, state: State) -> State:
        """Converts a state placed by `shardings` to the form that `step` takes.

        `jax.pmap` stores each process's copy as an array of its own.
        """
        return relabelled(state, replicated(local_devices(self.devices), state))

    def globalize(self, state: State) -> State:
        """Reverses `localize`: returns arrays of all processes, to save."""
        return relabelled(state, self.shardings(state))

    def rows(self, size: int) -> np.ndarray:
        """Returns this process's rows of a global batch of `size` rows, in order."""
        self.check_batch_size(size)
        return np.arange(size).reshape(jax.process_count(), -1)[jax.process_index()]

    def map(self, fn: Callable[[Any, Any], Tree]) -> Callable[[Any, Any], Tree]:
        """Compiles `fn(shared, batch) -> results`; see `Everywhere.map`."""
        mapped = jax.pmap(fn, in_axes=(None, 0), devices=self._pmap_devices)

        def run(shared: Any, batch: Any) -> Tree:
            rows = self.rows(len(jax.tree.leaves(batch)[0]))
            mine = self._spread(jax.tree.map(itemgetter(rows), batch))
            results = jax.device_get(mapped(shared, mine))
            joined = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), results)
            if jax.process_count() == 1:
                return joined
            from jax.experimental import multihost_utils

            return multihost_utils.process_allgather(joined, tiled=True)

        return run

    @property
    def _pmap_devices(self) -> list[jax.Device] | None:
        return self.devices if jax.process_count() == 1 else None

    @cached_property
    def _by_device(self) -> NamedSharding:
        mesh = Mesh(np.array(local_devices(self.devices)), (AXIS,))
        return NamedSharding(mesh, PartitionSpec(AXIS))

    def _spread(self, batch: Tree) -> Tree:
        """Reshapes [rows, ...] to [local devices, rows / local devices, ...]."""
        split = self._by_device

        def spread(a: Any) -> jax.Array:
            parts = np.asarray(a).reshape(split.num_devices, -1, *a.shape[1:])
            return jax.device_put(parts, split)

        return jax.tree.map(spread, batch)
