"""Compiled programs, kept for the next start."""

import hashlib
import platform
import re
from pathlib import Path

import jax

from jaxdiff.storage.cache import cache_folder

CPUINFO = Path("/proc/cpuinfo")


def enable() -> None:
    """Lets JAX keep what it compiles in a folder of the cache, and find it there.

    Unless a folder was chosen before, as by JAX_COMPILATION_CACHE_DIR. JAX tells the
    programs of one version, device or source from another's, but not those of kinds of
    CPU, which have all the instructions that there were: each kind has its folder.
    """
    if jax.config.values["jax_compilation_cache_dir"] is None:
        folder = cache_folder() / "compiled" / kind_of_cpu()
        jax.config.update("jax_compilation_cache_dir", str(folder))
        # The many small programs of a start take some seconds together.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def kind_of_cpu() -> str:
    """A name that CPUs of the same instructions share."""
    try:
        text = CPUINFO.read_text()
    except OSError:
        text = ""
    # The line has this name on x86, and that on Arm.
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    features = sorted(found[1].split()) if found else [platform.processor()]
    names = " ".join([platform.machine(), *features])
    return f"{platform.machine()}-{hashlib.sha256(names.encode()).hexdigest()[:8]}"
