"""Identity of a trained model: its step, and a checksum of its parameters."""

import hashlib
from pathlib import Path

from jaxdiff.errors import InputError
from jaxdiff.parallel.processes import broadcast_int, is_first
from jaxdiff.runs.folder import CHECKPOINTS, read_config
from jaxdiff.runs.parts import Parts, read_parts
from jaxdiff.storage.checkpoints import Checkpoints


def identity(workdir: Path, step: int | None = None) -> str:
    """Returns the step of a run's model, and a checksum of its parameters.

    Args:
        workdir: the run folder.
        step: step of the checkpoint; the newest by default.

    Raises:
        InputError: there is no run, or no such checkpoint.
    """
    read_config(workdir)
    parts = read_parts(workdir)
    if is_imported(workdir, parts):
        assert parts is not None
        return f"0 {parts.digest(parts.info.network)}"
    with Checkpoints(workdir / CHECKPOINTS) as checkpoints:
        step = newest_step(checkpoints) if step is None else step
        if step is None:
            raise InputError(f"there is no checkpoint in '{workdir}'")
        files = sorted(checkpoints.record(step)["files"].items())
        digest = hashlib.sha256(repr(files).encode()).hexdigest()
        return f"{step} {digest[:16]}"


def is_imported(workdir: Path, parts: Parts | None) -> bool:
    """Returns True if a run's network is among its published parts."""
    is_there = parts is not None and bool(parts.info.network)
    return is_there and not (workdir / CHECKPOINTS).exists()


def newest_step(checkpoints: Checkpoints) -> int | None:
    """Returns the step of the newest whole checkpoint that process 0 finds, or None."""
    newest = checkpoints.latest() if is_first() else None
    step = int(broadcast_int(-1 if newest is None else newest))
    return None if step < 0 else step
