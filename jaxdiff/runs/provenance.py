"""Provenance of a run: versions, code and devices of each start."""

import functools
import hashlib
import importlib.metadata
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax

PACKAGES = (
    "jaxdiff",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "numpy",
    "orbax-checkpoint",
    "tensorflow-datasets",
)
"""Packages whose version may change the result of a run."""


@functools.cache
def versions() -> dict[str, str]:
    """Returns the versions of Python and of the installed `PACKAGES`."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@functools.cache
def code() -> dict[str, str]:
    """Returns a hash of the package's Python files, and the commit of a checkout.

    The commit has the suffix " with changes" if git reports modified files here.
    """
    root = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0")
        digest.update(path.read_bytes() + b"\0")
    found = {"source": digest.hexdigest()[:16]}
    commit = _git(root, "rev-parse", "HEAD")
    if commit and _git(root, "ls-files", "--error-unmatch", __file__):
        changed = _git(root, "status", "--porcelain", "--untracked-files=no", ".")
        found["commit"] = commit + (" with changes" if changed else "")
    return found


def start() -> dict[str, Any]:
    """Returns the entries of a start event: time, command, versions, devices, machine.

    Call it after the processes have connected. The devices of all processes count.
    """
    kinds = sorted({device.device_kind for device in jax.devices()})
    return {
        "time": now(),
        "command": sys.argv,
        "code": code(),
        "versions": versions(),
        "devices": {
            "backend": jax.default_backend(),
            "kind": ", ".join(kinds),
            "count": jax.device_count(),
            "processes": jax.process_count(),
        },
        "machine": {"system": platform.platform(), "processor": platform.machine()},
    }


def now() -> str:
    """Returns the time in UTC by the machine's clock, in ISO 8601."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _git(folder: Path, *words: str) -> str:
    """Returns the output of a git command; empty if it fails or git is missing."""
    try:
        done = subprocess.run(
            ["git", *words], cwd=folder, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
