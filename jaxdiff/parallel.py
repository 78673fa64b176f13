"""How a pure step runs on many devices; there is no diffusion in it.

`Pmap` is data parallel: every device has the whole state and its share of the batch.
The state carries no device axis: it goes in and comes out as one copy.
"""

from collections.abc import Callable
from operator import itemgetter
from typing import Any, TypeVar

import jax
import numpy as np

from jaxdiff.errors import InputError

State = TypeVar("State")
Tree = TypeVar("Tree")
Mean = Callable[[Any], Any]

AXIS = "devices"


class Pmap:
    """Runs functions on all local devices, or on those given, by `jax.pmap`.

    Attributes:
        devices: the devices, at least one.
    """

    def __init__(self, devices: list[jax.Device] | None = None):
        self.devices = devices or jax.local_devices()

    def step(
        self, fn: Callable[[State, Any, Mean], tuple[State, Any]]
    ) -> Callable[[State, Any], tuple[State, Any]]:
        """Compiles `fn(state, batch, mean) -> (state, metrics)`.

        Args:
            fn: takes its device's share of the batch, and `mean`, which averages a
                pytree over the devices; what it returns must be the same on each.

        Returns:
            A function of the state, which is donated, and of the whole batch, whose
            arrays have a leading axis that the devices divide.
        """

        def mean(tree: Any) -> Any:
            return jax.lax.pmean(tree, AXIS)

        mapped = jax.pmap(
            lambda state, batch: fn(state, batch, mean),
            axis_name=AXIS,
            in_axes=(None, 0),
            out_axes=None,
            devices=self.devices,
            donate_argnums=0,
        )
        return lambda state, batch: mapped(state, self._split(batch))

    def shardings(self, state: State) -> State:
        """Where a state's arrays live between steps: all of each on every device.

        A state that is made, or restored, in this place enters the first step as it
        enters all others, which saves compiling the step twice.
        """
        mesh = jax.sharding.Mesh(np.array(self.devices), (AXIS,))
        whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
        return jax.tree.map(lambda _: whole, state)

    def map(self, fn: Callable[[Any, Any], Tree]) -> Callable[[Any, Any], Tree]:
        """Compiles `fn(shared, batch) -> results`, a row of results for each of batch.

        Returns:
            A function of `shared`, which every device sees whole, and of the batch,
            which the devices divide; its results are NumPy arrays, joined.
        """
        mapped = jax.pmap(fn, in_axes=(None, 0), devices=self.devices)

        def run(shared: Any, batch: Any) -> Tree:
            results = jax.device_get(mapped(shared, self._split(batch)))
            return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), results)

        return run

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
        num = len(jax.tree.leaves(batch)[0])
        size = -(-min(num, chunk) // len(self.devices)) * len(self.devices)
        compiled = self.map(fn)
        results = []
        for start in range(0, num, size):
            # The last chunk is filled up with repetitions, which are cut off again.
            rows = np.minimum(np.arange(start, start + size), num - 1)
            results.append(compiled(shared, jax.tree.map(itemgetter(rows), batch)))
            on_chunk(min(start + size, num))
        return jax.tree.map(lambda *parts: np.concatenate(parts)[:num], *results)

    def check_batch_size(self, size: int) -> None:
        """Refuses a batch that the devices do not divide."""
        count = len(self.devices)
        if size % count:
            below = size // count * count
            near = [s for s in (below, below + count) if s > 0]
            raise InputError(
                f"batch size must be a multiple of the {count} devices; got {size}: "
                f"use {' or '.join(map(str, near))}"
            )

    def _split(self, batch: Tree) -> Tree:
        """[batch, ...] to [devices, batch / devices, ...]."""
        count = len(self.devices)

        def split(a: Any) -> Any:
            self.check_batch_size(a.shape[0])
            return np.asarray(a).reshape(count, -1, *a.shape[1:])

        return jax.tree.map(split, batch)
