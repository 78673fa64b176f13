"""Layouts of a pure step on many devices and hosts, independent of diffusion.

    Pmap      every device holds the whole state, and its share of the batch
    Sharded   the state is split too: on a mesh of data x fsdp devices, each device has
              1 / fsdp of every large array (ZeRO: Rajbhandari et al. 2020; FSDP: Zhao
              et al. 2023), and its share of the batch

Both layouts take one global batch, whose rows the devices divide. A process reads and
passes only the `rows` of its own devices. The results are the same in all processes.

A step needs one operation over all devices: `mean_of(fn, shared, batch)`, the mean over
the devices of `fn(shared, its share of the batch)`. Each of N devices sends the
following number of bytes for this mean. P is the number of bytes of `shared`, and of
the mean:

    Pmap      2 (N - 1)/N P                 an all-reduce of the results
    Sharded   2 (fsdp - 1)/fsdp P           an all-gather of `shared`, and a
                                            reduce-scatter of the results
              + 2 (data - 1)/data P/fsdp    an all-reduce of these between the groups
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from operator import itemgetter
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxdiff.errors import InputError

State = TypeVar("State")
Tree = TypeVar("Tree")
MeanOf = Callable[[Callable[[Any, Any], Any], Any, Any], Any]
Step = Callable[[State, Any, MeanOf], tuple[State, Any]]

AXIS = "devices"


class Placed(NamedTuple):
    """Batch rows of a process on its devices, as returned by `Everywhere.place`."""

    batch: Any


def alone(fn: Callable[[Any, Any], Tree], shared: Any, batch: Any) -> Tree:
    """Returns `fn(shared, batch)`: the `mean_of` of a step on one device."""
    return fn(shared, batch)


@lru_cache(maxsize=64)
def map_by_value(
    parallel: "Everywhere", fn: Callable[[Any, Any], Any]
) -> Callable[[Any, Any], Any]:
    """Returns `parallel.map(fn)`; equal functions and layouts share compiled programs.

    Args:
        parallel: Layout of the devices.
        fn: Function that is compared and hashed by value, such as a frozen dataclass
            with `__call__`. A cache holds the function, so large arrays belong in
            `shared`.
    """
    return parallel.map(fn)


@dataclass(frozen=True, kw_only=True)
class Everywhere:
    """Base of the layouts: a global batch over all devices of all processes."""

    @property
    def devices(self) -> list[jax.Device]:
        """Devices of all processes."""
        raise NotImplementedError

    def usable(self, most: int, rows: int = 0) -> int:
        """Returns the number of devices to use.

        The number is the requested one, or `most` if that is smaller. Without a request
        it is the largest number that divides `rows`, if possible a multiple of the
        groups.

        Args:
            most: Largest possible number of devices.
            rows: Number of rows of a batch, which the devices must divide; 0 for any
                number.
        """
        asked, groups = self._asked
        if asked is not None:
            return min(asked, most)
        counts = [n for n in range(most, 0, -1) if rows % n == 0]
        return next((n for n in counts if n % groups == 0), counts[0])

    @property
    def _asked(self) -> tuple[int | None, int]:
        """Requested number of devices or None, and the number that must divide it."""
        raise NotImplementedError

    def place(self, batch: Any) -> Placed:
        """Puts this process's rows of a batch on its devices, without waiting.

        Args:
            batch: Arrays with a leading axis, or a result of this method.

        Raises:
            InputError: If the devices do not divide the rows.
        """
        if isinstance(batch, Placed):
            return batch
        self.check_batch_size(len(jax.tree.leaves(batch)[0]) * jax.process_count())
        return Placed(self._spread(batch))

    def _spread(self, batch: Tree) -> Tree:
        """Returns this process's rows of a batch in the form that the step takes."""
        raise NotImplementedError

    def map(self, fn: Callable[[Any, Any], Tree]) -> Callable[[Any, Any], Tree]:
        """Compiles `fn(shared, batch) -> results`, one row of results per batch row.

        Returns:
            A function of `shared` and the batch. Every device sees the whole of
            `shared`. Every process passes the whole batch, whose rows the devices
            divide. The results are joined NumPy arrays, the same in every process.
        """
        raise NotImplementedError

    def map_chunks(
        self,
        fn: Callable[[Any, Any], Any],
        shared: Any,
        batch: Any,
        chunk: int,
        on_chunk: Callable[[int], None] = lambda done: None,
    ) -> Any:
        """Returns the results of `map` for a batch of any length, computed in chunks.

        Args:
            fn: Function as for `map`.
            shared: Data that every device sees whole.
            batch: NumPy arrays of one length.
            chunk: Number of rows per chunk over all devices, rounded up to a multiple
                of the number of devices.
            on_chunk: Function called after each chunk with the number of finished rows.
        """
        return self.chunks(self.map(fn), shared, batch, chunk, on_chunk)

    def chunks(
        self,
        mapped: Callable[[Any, Any], Any],
        shared: Any,
        batch: Any,
        chunk: int,
        on_chunk: Callable[[int], None] = lambda done: None,
    ) -> Any:
        """Returns the results of a function that `map` returned, computed in chunks.

        This function compiles once for many calls; see `map_chunks` for the arguments.
        """
        num, count = len(jax.tree.leaves(batch)[0]), len(self.devices)
        size = -(-min(num, chunk) // count) * count
        results = []
        for start in range(0, num, size):
            # Repeated rows fill up the last chunk; their results are cut off.
            rows = np.minimum(np.arange(start, start + size), num - 1)
            results.append(mapped(shared, jax.tree.map(itemgetter(rows), batch)))
            on_chunk(min(start + size, num))
        return jax.tree.map(lambda *parts: np.concatenate(parts)[:num], *results)

    def check_batch_size(self, size: int, parts: int = 1) -> None:
        """Raises an error unless the devices times `parts` divide the batch size."""
        count = len(self.devices) * parts
        if size % count:
            below = size // count * count
            near = [s for s in (below, below + count) if s > 0]
            times = f" times {parts} accumulated parts" if parts > 1 else ""
            raise InputError(
                f"batch size must be a multiple of the {len(self.devices)} devices"
                f"{times}, got {size}. Use {' or '.join(map(str, near))}."
            )


def first_devices(count: int | None) -> list[jax.Device]:
    """Returns the first `count` devices; several processes must use all devices."""
    devices = jax.devices()
    if count is None or count == len(devices):
        return devices
    if count > len(devices) or jax.process_count() > 1:
        raise InputError(
            f"the layout is for {count} devices, got {len(devices)}. "
            "Change its size, or leave the size open."
        )
    return devices[:count]


def local_devices(devices: list[jax.Device]) -> list[jax.Device]:
    """Returns the devices that this process drives."""
    return [d for d in devices if d.process_index == jax.process_index()]


def replicated(devices: list[jax.Device], tree: Tree) -> Tree:
    """Returns shardings that put the whole of every array on each device."""
    whole = NamedSharding(Mesh(np.array(devices), (AXIS,)), PartitionSpec())
    return jax.tree.map(lambda _: whole, tree)


def relabelled(tree: Tree, shardings: Tree) -> Tree:
    """Returns the same buffers as arrays of these shardings, without moving data."""

    def relabel(a: jax.Array, sharding: NamedSharding) -> jax.Array:
        if a.sharding == sharding:
            return a
        shards = [shard.data for shard in a.addressable_shards]
        return jax.make_array_from_single_device_arrays(a.shape, sharding, shards)

    return jax.tree.map(relabel, tree, shardings)
