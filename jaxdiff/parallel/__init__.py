"""Devices and processes: layouts that run a pure step on many of them."""

from typing import TypeAlias

import jax

from jaxdiff.parallel.allocator import keep_memory as keep_memory
from jaxdiff.parallel.base import MeanOf as MeanOf
from jaxdiff.parallel.base import Placed as Placed
from jaxdiff.parallel.base import Step as Step
from jaxdiff.parallel.base import alone as alone
from jaxdiff.parallel.base import map_by_value as map_by_value
from jaxdiff.parallel.pmap import Pmap as Pmap
from jaxdiff.parallel.preemption import Terminated as Terminated
from jaxdiff.parallel.sharded import Sharded as Sharded

Parallel: TypeAlias = Pmap | Sharded
"""Layouts that the command line offers."""


def describe_devices(parallel: Parallel) -> str:
    """Returns the devices as text, such as "8 CPU devices of 2 processes"."""
    count, processes = len(parallel.devices), jax.process_count()
    kind = parallel.devices[0].device_kind.replace("cpu", "CPU")
    words = f"{count} {kind} device" + "s" * (count > 1)
    return words + (f" of {processes} processes" if processes > 1 else "")
