"""The CPU: its name and its instructions, from /proc/cpuinfo."""

import functools
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
BFLOAT16 = ("avx512_bf16", "amx_bf16", "bf16")
"""Instructions of x86 and Arm that multiply matrices of bfloat16."""


@functools.cache
def multiplies_bfloat16() -> bool:
    """Returns True if the CPU has instructions for products in bfloat16."""
    return not instructions().isdisjoint(BFLOAT16)


@functools.cache
def has_wide_vectors() -> bool:
    """Returns True if the CPU has vectors of 512 bits (AVX-512)."""
    return "avx512f" in instructions()


def instructions() -> frozenset[str]:
    """Returns the names of the CPU's instruction sets; none outside Linux."""
    # x86 calls this line "flags", Arm "Features".
    return frozenset((entry("flags") or entry("Features")).split())


def entry(name: str) -> str:
    """Returns an entry of the first core; "" where there is none, as outside Linux."""
    return _entries(CPUINFO).get(name, "")


def _entries(path: Path) -> dict[str, str]:
    try:
        text = path.read_text(errors="replace")
    except OSError:
        return {}
    entries: dict[str, str] = {}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        entries.setdefault(name.strip(), value.strip())
    return entries
