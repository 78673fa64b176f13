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

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from operator import itemgetter
from typing import Any, NamedTuple, TypeAlias, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxdiff.errors import InputError

State = TypeVar("State")
Tree = TypeVar("Tree")
MeanOf = Callable[[Callable[[Any, Any], Any], Any, Any], Any]
Step = Callable[[State, Any, MeanOf], tuple[State, Any]]

AXIS = "devices"
ROWS = PartitionSpec(("data", "fsdp"))
"""How `Sharded` divides a batch: its first axis over all devices."""
SMALL = 1024
"""Arrays of fewer numbers are not split: sending them costs more than keeping them."""


class Placed(NamedTuple):
    """A process's rows of a batch on its devices; `Parallel.place` puts them there."""

    batch: Any


def alone(fn: Callable[[Any, Any], Tree], shared: Any, batch: Any) -> Tree:
    """The `mean_of` of a step on one device."""
    return fn(shared, batch)


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
        """
        return batch if isinstance(batch, Placed) else Placed(self._spread(batch))

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


@dataclass(frozen=True, kw_only=True)
class Pmap(Everywhere):
    """Data parallel by `jax.pmap`: every device holds the whole state."""

    num_devices: int | None = None
    """How many devices; all there are by default."""

    def __post_init__(self) -> None:
        """Refuses options out of range."""
        _check_positive("num_devices", self.num_devices)

    @property
    def devices(self) -> list[jax.Device]:
        """The devices, of all processes."""
        return _first_devices(self._asked[0])

    @property
    def _asked(self) -> tuple[int | None, int]:
        return self.num_devices, 1

    def step(self, fn: Step) -> Callable[[State, Any], tuple[State, Any]]:
        """Compiles `fn(state, batch, mean_of) -> (state, metrics)`.

        Args:
            fn: what it returns must be the same on each device, which is so if it looks
                at the batch through `mean_of` only; see the head of this file.

        Returns:
            A function of the state, which is donated, and of this process's `rows` of
            the batch, arrays with a leading axis, or what `place` made of them.
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
        """Where a state's arrays live: all of each on every device."""
        return _everywhere(self.devices, state)

    def enter(self, state: State) -> State:
        """The state as `step` takes it, from arrays in the place of `shardings`.

        `jax.pmap` keeps each process's copy as an array of its own.
        """
        return _relabel(state, _everywhere(_local(self.devices), state))

    def leave(self, state: State) -> State:
        """The reverse of `enter`: arrays of all processes, to save."""
        return _relabel(state, self.shardings(state))

    def rows(self, size: int) -> np.ndarray:
        """Which rows of a global batch of so many are this process's, in order."""
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
        mesh = Mesh(np.array(_local(self.devices)), (AXIS,))
        return NamedSharding(mesh, PartitionSpec(AXIS))

    def _spread(self, batch: Tree) -> Tree:
        """[rows, ...] to [local devices, rows / local devices, ...]."""
        split = self._by_device

        def spread(a: Any) -> jax.Array:
            parts = np.asarray(a).reshape(split.num_devices, -1, *a.shape[1:])
            return jax.device_put(parts, split)

        return jax.tree.map(spread, batch)


@dataclass(frozen=True, kw_only=True)
class Sharded(Everywhere):
    """Parameters, optimiser state and averages split: models larger than one device."""

    data: int = 1
    """How many groups of devices; each holds the whole state, split among its own."""
    fsdp: int | None = None
    """The devices of a group; by default all that the groups leave."""

    def __post_init__(self) -> None:
        """Refuses options out of range."""
        _check_positive("data", self.data)
        _check_positive("fsdp", self.fsdp)

    @property
    def devices(self) -> list[jax.Device]:
        """The devices, of all processes."""
        return _first_devices(self._asked[0])

    @property
    def _asked(self) -> tuple[int | None, int]:
        return None if self.fsdp is None else self.data * self.fsdp, self.data

    @cached_property
    def mesh(self) -> Mesh:
        """The devices as [data, fsdp]."""
        count = len(self.devices)
        if count % self.data:
            raise InputError(
                f"data must divide the {count} devices; got {self.data}: "
                f"use {math.gcd(count, self.data)}, or give fsdp too"
            )
        # The links of the machine decide which devices are neighbours.
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
        """Where a state's arrays live: each split along its longest divisible axis."""
        mesh = self.mesh
        return jax.tree.map(lambda spec: NamedSharding(mesh, spec), self._specs(state))

    def enter(self, state: State) -> State:
        """The state as `step` takes it: as it is."""
        return state

    def leave(self, state: State) -> State:
        """The state to save: as it is."""
        return state

    def rows(self, size: int) -> np.ndarray:
        """Which rows of a global batch of so many are this process's, in order."""
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
        """What of `shared` is split is gathered; the mean is split again."""
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
        """`fn` on every device, of its own parts."""
        return jax.shard_map(
            fn, mesh=self.mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False
        )

    def _gathered(self, tree: Tree, specs: Any) -> Tree:
        """The whole of every array, on each device, from the parts of its group."""

        def gathered(a: jax.Array, spec: PartitionSpec) -> jax.Array:
            if "fsdp" not in spec:
                return a
            return jax.lax.all_gather(a, "fsdp", axis=spec.index("fsdp"), tiled=True)

        return jax.tree.map(gathered, tree, specs)

    def _specs(self, tree: Tree) -> Tree:
        """How each array is split within a group of devices."""
        parts = self.mesh.shape["fsdp"]
        return jax.tree.map(lambda a: _split_axis(a.shape, parts), tree)

    @cached_property
    def _by_row(self) -> NamedSharding:
        return NamedSharding(self.mesh, ROWS)

    def _spread(self, batch: Tree) -> Tree:
        """This process's rows of a batch, as arrays of all processes."""
        sharding = self._by_row
        size = len(jax.tree.leaves(batch)[0]) * jax.process_count()
        rows = self.rows(size)

        def spread(a: Any) -> jax.Array:
            def share(index: Any) -> np.ndarray:
                first, end, _ = index[0].indices(size)
                place = np.searchsorted(rows, first)
                return np.asarray(a)[place : place + end - first]

            shape = (size, *a.shape[1:])
            return jax.make_array_from_callback(shape, sharding, share)

        return jax.tree.map(spread, batch)


Parallel: TypeAlias = Pmap | Sharded
"""The ways to be parallel that the command line offers."""


def in_words(parallel: Parallel) -> str:
    """Its devices, such as "8 CPU devices of 2 processes"."""
    count, processes = len(parallel.devices), jax.process_count()
    kind = parallel.devices[0].device_kind.replace("cpu", "CPU")
    words = f"{count} {kind} device" + "s" * (count > 1)
    return words + (f" of {processes} processes" if processes > 1 else "")


def _first_devices(count: int | None) -> list[jax.Device]:
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


def _local(devices: list[jax.Device]) -> list[jax.Device]:
    return [d for d in devices if d.process_index == jax.process_index()]


def _everywhere(devices: list[jax.Device], tree: Tree) -> Tree:
    """The whole of every array on each of the devices."""
    whole = NamedSharding(Mesh(np.array(devices), (AXIS,)), PartitionSpec())
    return jax.tree.map(lambda _: whole, tree)


def _relabel(tree: Tree, shardings: Tree) -> Tree:
    """The same buffers, as arrays in the place of `shardings`; nothing moves."""

    def relabel(a: jax.Array, sharding: NamedSharding) -> jax.Array:
        if a.sharding == sharding:
            return a
        shards = [shard.data for shard in a.addressable_shards]
        return jax.make_array_from_single_device_arrays(a.shape, sharding, shards)

    return jax.tree.map(relabel, tree, shardings)


def _split_axis(shape: tuple[int, ...], parts: int) -> PartitionSpec:
    """Along the last of the longest axes that `parts` divides; small arrays stay."""
    whole = [size if size % parts == 0 else 0 for size in shape]
    if parts == 1 or math.prod(shape) < SMALL or not any(whole):
        return PartitionSpec()
    axis = max(range(len(shape)), key=lambda i: (whole[i], i))
    return PartitionSpec(*[None] * axis, "fsdp")


def _check_positive(name: str, value: int | None) -> None:
    if value is not None and value < 1:
        raise InputError(f"{name} must be at least 1; got {value}")
