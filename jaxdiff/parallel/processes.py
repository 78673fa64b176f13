"""Several processes that work as one: how they find each other, and how they part.

A launcher starts the same command in every process, and says in the environment how
they find each other, in one of two ways:

    JAX_COORDINATOR_ADDRESS   host:port of process 0, which the others look for,
    JAX_NUM_PROCESSES         how many processes there are,
    JAX_PROCESS_ID            and which of them this one is, from 0

    JAXDIFF_CLUSTER           `slurm` or `tpu`: JAX finds all this out by itself

Without them a process works alone.
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
"""JAX's own name for each; it tells the kinds of TPU apart by itself."""
HEARTBEAT_S = 30
"""A process that is silent for so long counts as dead, and the others stop."""
PEER_LOST = 3
"""The exit code of a process that stops because another one did."""


def join(environ: Mapping[str, str] = os.environ) -> None:
    """Joins the other processes, if the launcher's environment tells of any.

    Call it before anything else of JAX: it cannot join when its devices are known.

    Raises:
        InputError: the environment is incomplete or cannot be right.
    """
    given = {name: environ[name] for name in GIVEN if environ.get(name)}
    cluster = environ.get(CLUSTER)
    if cluster:
        if cluster not in CLUSTERS:
            raise InputError(
                f"{CLUSTER} must be one of {', '.join(CLUSTERS)}; got {cluster!r}"
            )
        try:
            jax.distributed.initialize(
                cluster_detection_method=CLUSTERS[cluster],
                heartbeat_timeout_seconds=HEARTBEAT_S,
            )
        except (KeyError, ValueError) as error:  # a variable that JAX looks for
            raise InputError(
                f"{CLUSTER} is {cluster!r}, but JAX finds none here ({error}): start "
                f"through launch/{cluster}, or unset it"
            ) from error
    elif given:
        address, count, process = _checked(given)
        # Where the others do not come, JAX ends the process, in words of its own.
        print(
            f"process {process} of {count}: meets the others at {address}",
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
    """Address, number of processes and this one's place among them."""
    missing = [name for name in GIVEN if name not in given]
    if missing:
        raise InputError(
            f"{' and '.join(given)} without {' and '.join(missing)}: set all three, "
            "or none for a single process"
        )
    address, *numbers = (given[name] for name in GIVEN)
    if not address.rpartition(":")[2].isdecimal():
        raise InputError(f"{GIVEN[0]} must be host:port; got {address!r}")
    for name, text in zip(GIVEN[1:], numbers, strict=True):
        if not text.isdecimal():
            raise InputError(f"{name} must be an integer; got {text!r}")
    count, process = map(int, numbers)
    if not process < count:
        raise InputError(
            f"{GIVEN[2]} must lie below {GIVEN[1]}, which is {count}; got {process}"
        )
    return address, count, process


def is_first() -> bool:
    """Whether this process is the one that writes logs and pictures."""
    # One that works alone is, which is known before JAX has looked for its devices.
    return not jax.distributed.is_initialized() or jax.process_index() == 0


def first_then_others(make: Callable[[], Result]) -> Result:
    """What `make` gives: process 0 makes it before the others begin.

    For what is prepared once on a disk that processes may share.
    """
    if jax.process_count() == 1:
        return make()
    from jax.experimental import multihost_utils

    made = make() if is_first() else None
    multihost_utils.sync_global_devices("first before others")
    return make() if made is None else made


def broadcast(tree: Tree) -> Tree:
    """Process 0's arrays, in all; each gives a tree of the same shapes."""
    if jax.process_count() == 1:
        return tree
    from jax.experimental import multihost_utils

    return multihost_utils.broadcast_one_to_all(tree)


def broadcast_int(number: int) -> int:
    """Process 0's number, in all: what is read from a disk may differ for a moment."""
    return int(broadcast(np.int64(number)))


def exit_process(code: int) -> NoReturn:
    """Ends the process, at once where others may wait for it in vain.

    A process of several would wait for the others at its end, as they may for this one.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    if jax.distributed.is_initialized():
        os._exit(code)
    sys.exit(code)


def lost(error: Exception) -> str | None:
    """What to say where an error looks as if another process was lost, else None."""
    if not jax.distributed.is_initialized() or jax.process_count() == 1:
        return None
    reason = str(error).strip().splitlines()[0]
    return (
        f"process {jax.process_index()} stops: its work with the other "
        f"{jax.process_count() - 1} failed, most likely because one of them ended; see "
        f"their output ({reason:.150}); the same command goes on from the newest "
        "checkpoint"
    )
