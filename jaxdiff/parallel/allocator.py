"""Memory that a process keeps, so that the CPU's programs run faster.

Each call of a program on the CPU allocates its arrays. The C library returns large ones
to the system when they are free, so that the next call gets new pages, which the system
must find and clear. This can take a third of a training step.
"""

import contextlib
import ctypes
import os
from collections.abc import Mapping
from platform import libc_ver

GIVEN = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")
"""Beginnings of the environment variables of settings that a user has chosen."""
SETTINGS = {-8: 1, -4: 0, -1: -1, -2: 64 << 20}
"""Values of `mallopt` by its parameter: one heap (M_ARENA_MAX), which large arrays
share (M_MMAP_MAX), which does not shrink (M_TRIM_THRESHOLD), and which grows by 64 MiB
at a time (M_TOP_PAD)."""


def keep_memory(environ: Mapping[str, str] = os.environ) -> bool:
    """Makes this process keep the memory that it has used, for its next arrays.

    It works for GNU's C library, which Linux has, and leaves the settings of the
    environment as they are. Call it before JAX starts its threads.

    Args:
        environ: environment variables.

    Returns:
        True if the process keeps its memory.
    """
    if any(name.startswith(GIVEN) and environ[name] for name in environ):
        return False
    if libc_ver()[0] != "glibc":
        return False
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        return all(mallopt(name, value) == 1 for name, value in SETTINGS.items())
    return False
