"""Number of JAX's CPU devices, chosen before JAX starts.

XLA runs the element-wise work of a CPU device in one thread, so one device leaves most
cores idle. JAX can create several CPU devices, which share a batch as GPUs do.
"""

import contextlib
import os
import re
from collections.abc import MutableMapping
from pathlib import Path

import jax

from jaxdiff.parallel.allocator import keep_memory

XLA_FLAG = re.compile(r"--xla_force_host_platform_device_count=(\d+)")
"""Older option for the number of CPU devices, in XLA_FLAGS."""


def available() -> int:
    """Returns the number of cores that this process may use.

    The number respects the process's CPU affinity and the quota of a container.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    count = len(affinity(0)) if affinity else os.cpu_count() or 1
    # Quota of Docker or Kubernetes; "max" means no limit.
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        count = min(count, max(1, int(quota) // int(period)))
    return count


def use(count: int, environ: MutableMapping[str, str] = os.environ) -> None:
    """Makes JAX start with `count` CPU devices, unless the number is already chosen.

    JAX_NUM_CPU_DEVICES, XLA_FLAGS and launchers of several processes choose the number.
    It is also fixed once JAX has found its devices. The process keeps its memory from
    here on; see `allocator`.
    """
    keep_memory(environ)
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
    # Devices wait for each other in threads, of which XLA has one per core. Too few
    # threads wait for ever, and too many are slow. One thread per device is sometimes
    # too few: a waiting device can block another one's work.
    if count > available():
        environ.setdefault("NPROC", str(4 * count + 16))
    elif count > 1:
        environ.setdefault("NPROC", str(2 * count))
