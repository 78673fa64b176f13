"""Cache of compiled programs for the next start."""

import hashlib
import os
import platform
from pathlib import Path

import jax

from jaxdiff.errors import InputError
from jaxdiff.parallel import processor
from jaxdiff.storage.cache import cache_folder


def enable() -> None:
    """Makes JAX cache its compiled programs on disk, in the cache folder.

    A folder chosen earlier, such as by JAX_COMPILATION_CACHE_DIR, remains in use. JAX
    separates the programs of different versions, devices and sources, but not of
    different CPUs. Programs use all instructions of their CPU, so each kind of CPU has
    its own folder. Without a folder that can be written, no program is cached.
    """
    if jax.config.values["jax_compilation_cache_dir"] is None:
        try:
            folder = cache_folder() / "compiled" / kind_of_cpu()
        except InputError:
            return
        if not _is_writable(folder):  # JAX would warn at each program
            return
        jax.config.update("jax_compilation_cache_dir", str(folder))
        # Also caches the many small programs of a start, which take seconds together.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def _is_writable(folder: Path) -> bool:
    """Returns True if files can be written to a folder, which need not exist yet."""
    while not os.path.lexists(folder):
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)


def kind_of_cpu() -> str:
    """Returns a name that all CPUs with the same instructions share."""
    features = sorted(processor.instructions()) or [platform.processor()]
    names = " ".join([platform.machine(), *features])
    return f"{platform.machine()}-{hashlib.sha256(names.encode()).hexdigest()[:8]}"
