"""The cores of a machine as devices of JAX: how many, chosen before JAX starts.

XLA does the element-wise work of a CPU device in one thread, so that one device leaves
most cores idle. JAX can be told to make several, which share a batch like GPUs.
"""

import contextlib
import os
import re
from collections.abc import MutableMapping
from pathlib import Path

import jax

XLA_FLAG = re.compile(r"--xla_force_host_platform_device_count=(\d+)")
"""The older way to ask for CPU devices, in XLA_FLAGS."""


def available() -> int:
    """How many cores this process may use, as its affinity and its container say."""
    affinity = getattr(os, "sched_getaffinity", None)
    count = len(affinity(0)) if affinity else os.cpu_count() or 1
    # What Docker and Kubernetes leave of them; "max" is no limit, and no number.
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        count = min(count, max(1, int(quota) // int(period)))
    return count


def use(count: int, environ: MutableMapping[str, str] = os.environ) -> None:
    """Lets JAX start with so many CPU devices, unless their number was chosen before.

    That is so by JAX_NUM_CPU_DEVICES or XLA_FLAGS, by a launcher of several processes,
    and where JAX has found its devices already.
    """
    if jax.distributed.is_initialized():
        return
    asked = XLA_FLAG.search(environ.get("XLA_FLAGS", ""))
    chosen = jax.config.values["jax_num_cpu_devices"]
    if chosen >= 0:  # from the environment, or by `jax.config.update`
        count = chosen
    elif asked:
        count = int(asked[1])
    else:
        try:
            jax.config.update("jax_num_cpu_devices", count)
        except RuntimeError:  # JAX has started
            return
    # Devices wait for each other in threads, of which XLA has one a core: with too few
    # they would wait for ever, and with more than it needs it is slower. As many as
    # devices are too few now and then: one that waits can hold back another's work.
    if count > available():
        environ.setdefault("NPROC", str(4 * count + 16))
    elif count > 1:
        environ.setdefault("NPROC", str(2 * count))
