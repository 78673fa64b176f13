"""How a pure step runs on many devices and hosts; there is no diffusion in it.

    Pmap      every device has the whole state, and its share of the batch
    Sharded   the state is split too: a mesh of data x fsdp devices, of which each has
              1 / fsdp of every large array (ZeRO: Rajbhandari et al. 2020; FSDP: Zhao
              et al. 2023), and its share of the batch

Both are told of one global batch, whose rows the devices divide. A process gives, and
so reads, only the `rows` of its own devices; what comes back is the same in all.

A step asks one thing of all devices together: `mean_of(fn, shared, batch)`, the mean
over the devices of `fn(shared, its share of the batch)`. For it each of N devices sends
as many bytes as follow, where P are the bytes of `shared`, and of the mean:

    Pmap      2 (N - 1)/N P                 an all-reduce of the results
    Sharded   2 (fsdp - 1)/fsdp P           an all-gather of `shared`, and a
                                            reduce-scatter of the results
              + 2 (data - 1)/data P/fsdp    an all-reduce of that between the groups
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
    """A process's rows of a batch on its devices; `Parallel.place` puts them there."""

    batch: Any


def alone(fn: Callable[[Any, Any], Tree], shared: Any, batch: Any) -> Tree:
    """The `mean_of` of a step on one device."""
    return fn(shared, batch)


@lru_cache(maxsize=64)
def map_by_value(
    parallel: "Everywhere", fn: Callable[[Any, Any], Any]
) -> Callable[[Any, Any], Any]:
    """Returns `parallel.map(fn)`; equal functions and layouts share what is compiled.

    Args:
        parallel: the layout.
        fn: a function that is compared and hashed by value, such as a frozen dataclass
            with `__call__`. It is kept: what is large belongs into `shared`.
    """
    return parallel.map(fn)


@dataclass(frozen=True, kw_only=True)
class Everywhere:
    """What the two have in common: a global batch over all devices of all processes."""

    @property
    def devices(self) -> list[jax.Device]:
        """The devices, of all processes."""
        raise NotImplementedError

    def usable(self, most: int, rows: int = 0) -> int:
        """How many of so many devices to use: what is asked for, else all that fit.

        Args:
            most: there can be so many.
            rows: of a batch, which the devices must divide; 0 where they need not.
        """
        asked, groups = self._asked
        if asked is not None:
            return min(asked, most)
        counts = [n for n in range(most, 0, -1) if rows % n == 0]
        return next((n for n in counts if n % groups == 0), counts[0])

    @property
    def _asked(self) -> tuple[int | None, int]:
        """How many devices are asked for, if any, and what must divide them."""
        raise NotImplementedError

    def place(self, batch: Any) -> Placed:
        """Puts this process's rows of a batch on its devices, and waits for nothing.

        Args:
            batch: arrays with a leading axis, or what this function gave.

        Raises:
            InputError: the devices do not divide the rows.
        """
        if isinstance(batch, Placed):
            return batch
        self.check_batch_size(len(jax.tree.leaves(batch)[0]) * jax.process_count())
        return Placed(self._spread(batch))

    def _spread(self, batch: Tree) -> Tree:
        """This process's rows of a batch, as the step takes them."""
        raise NotImplementedError

    def map(self, fn: Callable[[Any, Any], Tree]) -> Callable[[Any, Any], Tree]:
        """Compiles `fn(shared, batch) -> results`, a row of results for each of batch.

        Returns:
            A function of `shared`, which every device sees whole, and of the batch,
            the whole of it in every process, which the devices divide; its results are
            NumPy arrays, joined, and the same in every process.
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
        """The rows of `map`'s results for a batch of any length, a chunk at a time.

        Args:
            fn: as for `map`.
            shared: what every device sees whole.
            batch: NumPy arrays of one length.
            chunk: rows at a time, over all devices; rounded up to a multiple of them.
            on_chunk: called with the number of rows done after each chunk.
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
        """As `map_chunks`, of what `map` gave: compiled once for many calls."""
        num, count = len(jax.tree.leaves(batch)[0]), len(self.devices)
        size = -(-min(num, chunk) // count) * count
        results = []
        for start in range(0, num, size):
            # The last chunk is filled up with repetitions, which are cut off again.
            rows = np.minimum(np.arange(start, start + size), num - 1)
            results.append(mapped(shared, jax.tree.map(itemgetter(rows), batch)))
            on_chunk(min(start + size, num))
        return jax.tree.map(lambda *parts: np.concatenate(parts)[:num], *results)

    def check_batch_size(self, size: int, parts: int = 1) -> None:
        """Refuses a batch that the devices, and their `parts` of it, do not divide."""
        count = len(self.devices) * parts
        if size % count:
            below = size // count * count
            near = [s for s in (below, below + count) if s > 0]
            times = f" times {parts} accumulated parts" if parts > 1 else ""
            raise InputError(
                f"batch size must be a multiple of the {len(self.devices)} devices"
                f"{times}; got {size}: use {' or '.join(map(str, near))}"
            )


def first_devices(count: int | None) -> list[jax.Device]:
    """The first `count` devices; of several processes, all must take part."""
    devices = jax.devices()
    if count is None or count == len(devices):
        return devices
    if count > len(devices) or jax.process_count() > 1:
        raise InputError(
            f"the layout is for {count} devices, but there are {len(devices)}: "
            "change it, or leave its size open"
        )
    return devices[:count]


def local_devices(devices: list[jax.Device]) -> list[jax.Device]:
    """Those of the devices that this process drives."""
    return [d for d in devices if d.process_index == jax.process_index()]


def replicated(devices: list[jax.Device], tree: Tree) -> Tree:
    """The whole of every array on each of the devices."""
    whole = NamedSharding(Mesh(np.array(devices), (AXIS,)), PartitionSpec())
    return jax.tree.map(lambda _: whole, tree)


def relabelled(tree: Tree, shardings: Tree) -> Tree:
    """The same buffers, as arrays in the place of `shardings`; nothing moves."""

    def relabel(a: jax.Array, sharding: NamedSharding) -> jax.Array:
        if a.sharding == sharding:
            return a
        shards = [shard.data for shard in a.addressable_shards]
        return jax.make_array_from_single_device_arrays(a.shape, sharding, shards)

    return jax.tree.map(relabel, tree, shardings)
