"""Orbax: paths that it reads literally, and the proof that it reads a checkpoint back.

Only this file loads Orbax.

Orbax looks for its files by a pattern that contains the whole path, and takes some
paths for addresses of a cloud storage. What the pattern does not match, Orbax leaves
out of the checkpoint without an error.
"""

import logging
import re
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxdiff.errors import InputError, first_line, require
from jaxdiff.storage.files import error_number

AT_ONCE = 2**28
"""Bytes of arrays that are read back at a time; larger arrays are read one by one."""
# Characters of a pattern, of no text in UTF-8, or of an address, and the folders that
# stand for an address.
_MISREAD = re.compile(r"[*?\[\]\\\n\ud800-\udfff]|:/|^/(gs|s3|az|hf)(/|$)")


def orbax() -> Any:
    """Loads Orbax, and returns its module v1."""
    v1 = require("orbax.checkpoint").v1
    logging.getLogger("absl").addFilter(_is_worth_saying)
    return v1


def _is_worth_saying(record: logging.LogRecord) -> bool:
    """Returns False for Orbax's log messages: its errors are raised as well."""
    return "orbax" not in record.pathname


def literal_path(directory: Path, owner: Any) -> Path:
    """Returns a path of the folder that Orbax reads literally.

    This is the folder itself, or a link to it in a temporary folder.

    Args:
        directory: Absolute path of the folder, which need not exist.
        owner: Object that uses the path. The link is removed with this object.

    Raises:
        InputError: If the path needs a link and there can be none.
    """
    if not _MISREAD.search(str(directory)):
        return directory
    why = f"the path '{directory}' must have no * ? [ ] \\ :/ or line break"
    if jax.distributed.is_initialized():  # Orbax compares the paths of all processes
        raise InputError(f"{why} with several processes. Choose another --workdir.")
    try:
        folder = tempfile.mkdtemp(prefix="jaxdiff-")
        weakref.finalize(owner, shutil.rmtree, folder, ignore_errors=True)
        link = Path(folder, "checkpoints")
        link.symlink_to(directory)
    except OSError as error:
        raise InputError(
            f"{why}, because no link can be written to the temporary folder "
            f"({error.strerror}). Choose another --workdir, or set TMPDIR."
        ) from error
    if _MISREAD.search(folder):
        raise InputError(f"{why}, nor must TMPDIR. Choose another --workdir.")
    return link


def read_back(path: Path, shapes: Any) -> None:
    """Reads every array of a checkpoint, as a restore does, in this process alone.

    It calls the handler of arrays, because Orbax numbers the calls of its `load` and
    waits until all processes are at the same number.

    Args:
        path: Literal path of the checkpoint.
        shapes: Saved state, with the shape and type of each array.

    Raises:
        InputError: If an array is missing or cannot be read.
        OSError: If the disk fails.
    """
    ocp = require("orbax.checkpoint")
    leaves, structure = jax.tree.flatten(shapes)
    handler = ocp.PyTreeCheckpointHandler()
    for chosen in _groups(leaves):
        asked = jax.tree.unflatten(
            structure,
            [leaf if i in chosen else ocp.PLACEHOLDER for i, leaf in enumerate(leaves)],
        )
        numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), asked)
        try:
            (written,) = path.glob("*/_METADATA")
            handler.restore(
                written.parent,
                args=ocp.args.PyTreeRestore(item=asked, restore_args=numpy),
            )
        except Exception as error:  # Orbax raises many types
            if error_number(error) is not None:
                raise
            reason = first_line(error).partition(" [tensorstore_spec")[0]
            raise InputError(
                f"the new checkpoint cannot be read back: {reason}. Choose another "
                "--workdir."
            ) from error


def _groups(leaves: list[Any]) -> Iterator[set[int]]:
    """Yields the indices of arrays to read at a time, first of the first one alone.

    A path that Orbax misreads lacks every array. TensorStore prints a traceback for
    each further one that it is reading when the first one fails.
    """
    if leaves:
        yield {0}
    group: set[int] = set()
    size = 0
    for i, leaf in enumerate(leaves[1:], 1):
        count = int(np.prod(leaf.shape, dtype=object)) * np.dtype(leaf.dtype).itemsize
        if group and size + count > AT_ONCE:
            yield group
            group, size = set(), 0
        group.add(i)
        size += count
    if group:
        yield group
