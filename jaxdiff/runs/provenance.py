"""Where a run comes from: the versions, the code and the devices that made it."""

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
"""Those whose version may change what a run computes."""


@functools.cache
def versions() -> dict[str, str]:
    """The version of Python and of each of the packages that is installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@functools.cache
def code() -> dict[str, str]:
    """What tells this package's code from any other: a hash of it, and its commit."""
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
    """What a run records when it starts, or goes on: time, command, versions, devices.

    Call it when the processes have met; of the devices it tells those of all.
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
    """The time in UTC, by the machine's clock."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _git(folder: Path, *words: str) -> str:
    """What git says of the folder; nothing where it is no clone, or there is no git."""
    try:
        done = subprocess.run(
            ["git", *words], cwd=folder, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
