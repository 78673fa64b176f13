"""How a pure step runs on many devices and hosts; there is no diffusion in it.

    Pmap      every device has the whole state, and its share of the batch
    Sharded   the state is split too: a mesh of data x fsdp devices, of which each has
              1 / fsdp of every large array (ZeRO: Rajbhandari et al. 2020; FSDP: Zhao
              et al. 2023), and its share of the batch

Both are told of one global batch, whose rows the devices divide. A process gives, and
so reads, only the `rows` of its own devices; what comes back is the same in all.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, TypeAlias, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxdiff.errors import InputError

State = TypeVar("State")
Tree = TypeVar("Tree")
Mean = Callable[[Any], Any]
Step = Callable[[State, Any, Mean], tuple[State, Any]]

AXIS = "devices"
SMALL = 1024
"""Arrays of fewer numbers are not split: sending them costs more than keeping them."""


@dataclass(frozen=True, kw_only=True)
class Everywhere:
    """What the two have in common: a global batch over all devices of all processes."""

    @property
    def devices(self) -> list[jax.Device]:
        """The devices, of all processes."""
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
        num, count = len(jax.tree.leaves(batch)[0]), len(self.devices)
        size = -(-min(num, chunk) // count) * count
        compiled = self.map(fn)
        results = []
        for start in range(0, num, size):
            # The last chunk is filled up with repetitions, which are cut off again.
            rows = np.minimum(np.arange(start, start + size), num - 1)
            results.append(compiled(shared, jax.tree.map(itemgetter(rows), batch)))
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
        return _first_devices(self.num_devices)

    def step(self, fn: Step) -> Callable[[State, Any], tuple[State, Any]]:
        """Compiles `fn(state, batch, mean) -> (state, metrics)`.

        Args:
            fn: takes its device's share of the batch, and `mean`, which averages a
                pytree over the devices; what it returns must be the same on each.

        Returns:
            A function of the state, which is donated, and of this process's `rows` of
            the batch, arrays with a leading axis.
        """

        def mean(tree: Any) -> Any:
            return jax.lax.pmean(tree, AXIS)

        mapped = jax.pmap(
            lambda state, batch: fn(state, batch, mean),
            axis_name=AXIS,
            in_axes=(None, 0),
            out_axes=None,
            devices=self._pmap_devices,
            donate_argnums=0,
        )
        return lambda state, batch: mapped(state, self._split(batch))

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
            mine = self._split(jax.tree.map(itemgetter(rows), batch))
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

    def _split(self, batch: Tree) -> Tree:
        """[rows, ...] to [local devices, rows / local devices, ...]."""
        count = len(_local(self.devices))
        return jax.tree.map(
            lambda a: np.asarray(a).reshape(count, -1, *a.shape[1:]), batch
        )


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
        return _first_devices(None if self.fsdp is None else self.data * self.fsdp)

    @property
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
        """Compiles `fn(state, batch, mean)`; see `Pmap.step`.

        Here `fn` sees the whole batch, and the compiler divides the work: `mean` has
        nothing left to average.
        """
        whole = NamedSharding(self.mesh, PartitionSpec())

        def run(state: State, batch: Any) -> tuple[State, Any]:
            state, metrics = fn(state, batch, lambda tree: tree)
            place = jax.lax.with_sharding_constraint
            return place(state, self.shardings(state)), place(metrics, whole)

        compiled = jax.jit(run, donate_argnums=0)
        return lambda state, batch: compiled(state, self._spread(batch))

    def shardings(self, state: State) -> State:
        """Where a state's arrays live: each split along its longest divisible axis."""
        mesh = self.mesh

        def place(a: Any) -> NamedSharding:
            return NamedSharding(mesh, _split_axis(a.shape, mesh.shape["fsdp"]))

        return jax.tree.map(place, state)

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
        compiled = jax.jit(fn, out_shardings=whole)

        def run(shared: Any, batch: Any) -> Tree:
            rows = self.rows(len(jax.tree.leaves(batch)[0]))
            mine = jax.tree.map(itemgetter(rows), batch)
            return jax.device_get(compiled(shared, self._spread(mine)))

        return run

    @property
    def _by_row(self) -> NamedSharding:
        return NamedSharding(self.mesh, PartitionSpec(("data", "fsdp")))

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
    if math.prod(shape) < SMALL or not any(whole):
        return PartitionSpec()
    axis = max(range(len(shape)), key=lambda i: (whole[i], i))
    return PartitionSpec(*[None] * axis, "fsdp")


def _check_positive(name: str, value: int | None) -> None:
    if value is not None and value < 1:
        raise InputError(f"{name} must be at least 1; got {value}")
