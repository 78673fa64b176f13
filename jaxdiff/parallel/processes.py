"""Several processes that work as one: start, exchange and exit.

A launcher starts the same command in every process. The environment describes the
processes in one of two ways:

    JAX_COORDINATOR_ADDRESS   host:port of process 0, to which the others connect
    JAX_NUM_PROCESSES         number of processes
    JAX_PROCESS_ID            number of this process, from 0

    JAXDIFF_CLUSTER           `slurm` or `tpu`: JAX finds the processes by itself

Without these variables a process works alone.
"""

import os
import sys
from collections.abc import Callable, Mapping
from typing import NoReturn, TypeVar

import jax
import numpy as np

from jaxdiff.errors import InputError

Result = TypeVar("Result")
Tree = TypeVar("Tree")

GIVEN = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
CLUSTER = "JAXDIFF_CLUSTER"
CLUSTERS = {"slurm": "slurm", "tpu": None}
"""JAX's name of each cluster; with None, JAX detects the kind of TPU."""
HEARTBEAT_S = 30
"""Silence after which a process counts as dead and the others stop, in seconds."""
PEER_LOST = 3
"""Exit code of a process that stops because another one did."""


def join(environ: Mapping[str, str] = os.environ) -> None:
    """Joins the other processes, if the launcher's environment names any.

    Call this function before any other use of JAX: after JAX has found its devices, a
    process cannot join.

    Raises:
        InputError: If the environment is incomplete or invalid.
    """
    given = {name: environ[name] for name in GIVEN if environ.get(name)}
    cluster = environ.get(CLUSTER)
    if cluster:
        if cluster not in CLUSTERS:
            raise InputError(
                f"{CLUSTER} must be one of {', '.join(CLUSTERS)}, got {cluster!r}"
            )
        try:
            jax.distributed.initialize(
                cluster_detection_method=CLUSTERS[cluster],
                heartbeat_timeout_seconds=HEARTBEAT_S,
            )
        except (KeyError, ValueError) as error:  # a variable is missing
            raise InputError(
                f"{CLUSTER} is {cluster!r}, but JAX finds no such cluster ({error}). "
                f"Start through launch/{cluster}, or unset {CLUSTER}."
            ) from error
    elif given:
        address, count, process = _checked(given)
        # If the others do not connect, JAX ends the process with a message of its own.
        print(
            f"process {process} of {count}: connects to {address}",
            file=sys.stderr,
            flush=True,
        )
        jax.distributed.initialize(
            address,
            count,
            process,
            cluster_detection_method="deactivate",
            heartbeat_timeout_seconds=HEARTBEAT_S,
        )


def _checked(given: Mapping[str, str]) -> tuple[str, int, int]:
    missing = [name for name in GIVEN if name not in given]
    if missing:
        raise InputError(
            f"{' and '.join(given)} must come with {' and '.join(missing)}. "
            "Set all three, or none for a single process."
        )
    address, *numbers = (given[name] for name in GIVEN)
    if not address.rpartition(":")[2].isdecimal():
        raise InputError(f"{GIVEN[0]} must be host:port, got {address!r}")
    for name, text in zip(GIVEN[1:], numbers, strict=True):
        if not text.isdecimal():
            raise InputError(f"{name} must be an integer, got {text!r}")
    count, process = map(int, numbers)
    if not process < count:
        raise InputError(
            f"{GIVEN[2]} must be below {GIVEN[1]}, which is {count}, got {process}"
        )
    return address, count, process


def is_first() -> bool:
    """Returns True in process 0, which writes logs and pictures."""
    # A process alone is process 0; this check does not start JAX's devices.
    return not jax.distributed.is_initialized() or jax.process_index() == 0


def first_then_others(make: Callable[[], Result]) -> Result:
    """Returns the result of `make`, which process 0 runs before the other processes.

    Use this function to prepare data once on a disk that processes may share.
    """
    if jax.process_count() == 1:
        return make()
    made = make() if is_first() else None
    wait_for_all("first before others")
    return make() if made is None else made


def wait_for_all(name: str) -> None:
    """Waits until every process is at this place, which has a name."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)


def broadcast(tree: Tree) -> Tree:
    """Returns process 0's arrays in all processes, which pass trees of equal shapes."""
    if jax.process_count() == 1:
        return tree
    from jax.experimental import multihost_utils

    return multihost_utils.broadcast_one_to_all(tree)


def broadcast_int(number: int) -> int:
    """Returns process 0's number in all processes.

    Numbers read from a shared disk may differ between processes for a moment.
    """
    return int(broadcast(np.int64(number)))


def exit_process(code: int) -> NoReturn:
    """Ends the process, at once if other processes might wait for it.

    A normal exit of one of several processes would wait for the others.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    if jax.distributed.is_initialized():
        os._exit(code)
    sys.exit(code)


def lost(error: Exception) -> str | None:
    """Returns a message if an error suggests the loss of another process, or None."""
    if not jax.distributed.is_initialized() or jax.process_count() == 1:
        return None
    reason = str(error).strip().splitlines()[0]
    return (
        f"process {jax.process_index()} stops: its work with the other "
        f"{jax.process_count() - 1} failed, most likely because one of them ended "
        f"({reason:.150}). See their output; repeat the command to resume from the "
        "newest checkpoint."
    )
