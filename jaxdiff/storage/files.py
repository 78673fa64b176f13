"""Atomic writes, safe reads, JSON files, and errors of a full or read-only disk."""

import errno
import json
import os
import re
import shutil
import stat
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, BinaryIO

import jax

from jaxdiff.errors import InputError

LARGEST = 2**25
"""Most bytes of a JSON file or a picture that is read."""
FULL = (errno.ENOSPC, errno.EDQUOT)
"""Numbers of the errors of a full disk."""
_OF_DISKS = (*FULL, errno.EROFS, errno.EIO, errno.EACCES, errno.EMFILE)
_LONGEST = 140
"""Length of the longest path below a run folder, in characters."""
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


def expanded(path: str | os.PathLike[str], instead: str = "") -> Path:
    """Returns a path with the home folder for ~, or for ~name.

    Args:
        path: Path from the user.
        instead: Remedy next to setting HOME; by default a path without ~.

    Raises:
        InputError: If there is no such home folder, as for a user without an account.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise InputError(
            f"there is no home folder for {str(path)!r}. Set HOME, or "
            f"{instead or 'write the path without ~'}."
        ) from error


def write_json_atomic(path: str | os.PathLike[str], data: dict[str, Any]) -> None:
    """Writes `data` as JSON; a crash leaves the old file or the new one."""
    write_atomic(path, json.dumps(data, indent=2, allow_nan=False) + "\n")


def write_atomic(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Writes text or bytes through to the disk, and replaces the old file at once."""
    with replacing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def _errors_of(path: Path) -> Iterator[None]:
    """Turns errors of a failing disk in the block, also libraries', into one line."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # libraries have their own types
        if not isinstance(error, OSError) and error_number(error) is None:
            raise
        raise cannot_write(path, error) from error


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Opens a new file, which replaces the file at `path` at the end of the block.

    The new file has a temporary name in the same folder until it is on the disk. After
    an error or a crash, the old file is complete. A link at `path` is replaced, and the
    file behind it remains.

    Raises:
        InputError: If the file cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with _errors_of(path):
            temporary.unlink(missing_ok=True)
            with open(temporary, "xb") as file:  # "x" follows no link
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            flush_folder(path.parent)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def check_new_folder(path: Path) -> None:
    """Checks that a folder does not exist, or is empty.

    Raises:
        InputError: If the path is of a file, or of a folder with contents.
    """
    try:
        taken = path.exists() and (not path.is_dir() or any(path.iterdir()))
    except OSError as error:
        raise cannot_read(path, error) from error
    if taken:
        raise InputError(f"'{path}' must be a new or empty folder. Choose another.")


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yields a name beside `path` for a folder, which gets this name at the end.

    The block makes the folder and fills it. If it fails, nothing is left.

    Raises:
        InputError: If the disk fails.
    """
    writing = path.with_name(f".{path.name}.{os.getpid()}.writing")
    try:
        with _errors_of(path):
            yield writing
            writing.replace(path)
    finally:
        shutil.rmtree(writing, ignore_errors=True)


def open_regular(path: str | os.PathLike[str], most: int | None = None) -> IO[bytes]:
    """Opens a regular file to read bytes.

    Reading a pipe would block, and a device may have no end.

    Args:
        path: Path of the file; a link is followed.
        most: Largest number of bytes of the file; None for any.

    Raises:
        OSError: If the path is not of a regular file, or the file is too large.
    """
    status = os.stat(path)
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file", path)
    if most is not None and status.st_size > most:
        reason = f"it has {size(status.st_size)}, of at most {size(most)}"
        raise OSError(errno.EFBIG, reason, path)
    return open(path, "rb")


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Returns the dictionary in a JSON file.

    Raises:
        InputError: If the file is missing or too large, or holds anything else.
    """
    try:
        with open_regular(path, LARGEST) as file:
            data = json.loads(file.read().decode("utf-8"))
    except OSError as error:
        raise cannot_read(path, error) from error
    except ValueError as error:  # invalid JSON or UTF-8
        raise InputError(f"'{path}' is not a JSON file: {error}") from error
    except RecursionError as error:
        raise InputError(f"'{path}' is nested too deeply to be read") from error
    if not isinstance(data, dict):
        raise InputError(f"'{path}' must hold a JSON object, got {type(data).__name__}")
    return data


def ensure_writable(directory: str | os.PathLike[str], flag: str = "--workdir") -> None:
    """Creates the folder, and raises an `InputError` if it is not writable.

    The folder must be local, and its path short enough for the files of a run.
    """
    if _URL.match(os.fspath(directory)):  # Python would create a folder "gs:"
        raise InputError(
            f"the folder must be a local path, got '{directory}'. Mount the storage, "
            f"and name the mounted folder with {flag}."
        )
    # Another host may have a process with the same id.
    name = f".writable.{jax.process_index()}.{os.getpid()}"
    probe = Path(directory) / name
    try:
        with suppress(FileNotFoundError, NotADirectoryError):
            os.lstat(Path(directory) / ("x" * _LONGEST))
        probe.parent.mkdir(parents=True, exist_ok=True)
        probe.unlink(missing_ok=True)
        with open(probe, "xb") as file:  # "x" follows no link
            file.write(b"x")
        probe.unlink()
    except (OSError, ValueError) as error:  # a ValueError for a NUL in the path
        why = getattr(error, "strerror", None) or error
        reason = f"cannot write to the folder '{directory}': {why}"
        raise InputError(f"{reason}. Choose another with {flag}.") from error


def flush_folder(folder: str | os.PathLike[str]) -> None:
    """Flushes a folder, so that created and renamed files survive a power cut."""
    if sys.platform == "win32":  # Windows cannot open a folder
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def error_number(error: BaseException) -> int | None:
    """Returns the system's error number, or None; also reads libraries' messages."""
    for one in (error, error.__cause__):
        if isinstance(one, OSError):
            return one.errno
    found = re.search(r"os_error_code='(\d+)'", str(error))  # TensorStore
    if found:
        return int(found[1])
    # ArrayRecord and safetensors give the text only.
    return next((code for code in _OF_DISKS if os.strerror(code) in str(error)), None)


def cannot_read(path: str | os.PathLike[str], error: OSError) -> InputError:
    """Returns the error for a failed read."""
    return InputError(f"cannot read '{path}': {error.strerror}")


def cannot_write(path: str | os.PathLike[str], error: BaseException) -> InputError:
    """Returns the error for a failed write, with its reason and a remedy."""
    code = error_number(error)
    reason = os.strerror(code) if code else str(error)
    remedy = "Make it writable"
    if code in FULL:
        place = Path(path)
        while not place.exists():
            place = place.parent
        free = size(shutil.disk_usage(place).free)
        remedy = f"Free space on the disk of '{place}' ({free} left)"
    return InputError(f"cannot write '{path}': {reason}. {remedy}, then start again.")


def picture_kind(content: bytes) -> str | None:
    """Returns "png" or "gif", according to the first bytes of a file, or None."""
    if content[:8] == b"\x89PNG\r\n\x1a\n" and content[12:16] == b"IHDR":
        return "png"
    return "gif" if content[:6] in (b"GIF87a", b"GIF89a") else None


def size(count: float) -> str:
    """Returns a number of bytes as text, such as "900 bytes" or "1.2 MB"."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count:.0f} bytes"


def remove_matching(folder: Path, patterns: Sequence[str]) -> None:
    """Removes folders in process 0, also if its threads still write to them.

    Args:
        folder: Folder of the folders.
        patterns: Patterns of their names.
    """
    for _ in range(10 if jax.process_index() == 0 else 0):
        left = [path for pattern in patterns for path in folder.glob(pattern)]
        if not left:
            return
        for path in left:
            shutil.rmtree(path, ignore_errors=True)
        time.sleep(0.05)
