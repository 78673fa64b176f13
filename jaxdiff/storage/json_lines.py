"""Metrics and events as JSON lines."""

import json
import os
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from jaxdiff.errors import InputError, require
from jaxdiff.storage.files import cannot_read, cannot_write, open_regular, write_atomic

MOST = 2**30
"""Most bytes of a file that is read."""


class _Appended:
    """File to which JSON lines are appended; a context manager."""

    def __init__(self, path: str | os.PathLike[str]):
        self._path = Path(path)
        if self._path.is_symlink() or (
            self._path.exists() and not (self._path.is_file() or self._path.is_dir())
        ):
            raise InputError(  # the lines would go elsewhere, or to a pipe
                f"'{path}' must be a regular file, got a link or a device. Remove it."
            )
        try:
            # Unbuffered: a failed write leaves nothing for `close` to write again.
            self._file = self._path.open("ab", buffering=0)
        except OSError as error:
            raise cannot_write(path, error) from error

    def append(self, value: dict[str, Any]) -> None:
        """Appends a value as one line; a full disk leaves the lines before it."""
        self._append(_line(value).encode())

    def _append(self, content: bytes) -> None:
        end = os.fstat(self._file.fileno()).st_size
        try:
            while content:  # a disk that is almost full takes a part
                content = content[self._file.write(content) :]
        except OSError as error:
            with suppress(OSError):
                self._file.truncate(end)
            raise cannot_write(self._path, error) from error

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class JsonLines(_Appended):
    """File of JSON objects, one per line, each with its `step`; a context manager.

    A resumed run opens the file again and writes the steps after `from_step` again. The
    lines of these steps are dropped first, so no line is duplicated. A file without
    such lines is not touched.

    Raises:
        InputError: If the disk is full, or the file cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str], from_step: int):
        path = Path(path)
        kept = [line for line in read(path, "step") if line["step"] <= from_step]
        text = "".join(_line(line) for line in kept)
        if not path.exists() or path.read_bytes() != text.encode():
            write_atomic(path, text)
        super().__init__(path)

    def write(self, step: int, values: dict[str, float]) -> None:
        """Appends the values of a step as one line."""
        self.append({"step": step, **values})

    def flush(self) -> None:
        """Waits until every line is on the disk itself."""
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise cannot_write(self._path, error) from error


class History(_Appended):
    """Log of a run's events, one per line, locked by the process that trains the run.

    Closing the file lets other processes train. The lock is on a hidden file beside the
    log, so removing the log does not admit a second process. The system releases the
    lock of a killed process, and the hidden file remains.

    Args:
        path: Path of the file; lines are only appended.

    Raises:
        InputError: If another process trains this run, or the file cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str]):
        path, filelock = Path(path), require("filelock")
        # No fallback: its marker would survive a kill, and block the run.
        self._lock = filelock.FileLock(
            path.with_name(f".{path.name}.lock"), timeout=0, fallback_to_soft=False
        )
        try:
            self._lock.acquire()
        except filelock.Timeout as error:
            raise InputError(
                f"another process trains in '{path.parent}'. Wait for it, or "
                "choose another --workdir."
            ) from error
        except OSError:  # no locks in this file system: users must take care
            pass
        try:
            super().__init__(path)
            content = path.read_bytes()
            if content and not content.endswith(b"\n"):
                self._append(b"\n")  # a kill truncated the last line
        except InputError:
            self._lock.release()
            raise

    def write(self, event: str, **values: Any) -> None:
        """Appends an event as one line."""
        self.append({"event": event, **values})

    def close(self) -> None:
        """Closes the file, and lets other processes train."""
        super().close()
        self._lock.release()


def read(path: str | os.PathLike[str], key: str) -> list[dict[str, Any]]:
    """Returns the lines of a file; an empty list if it does not exist.

    A last line that a kill truncated is skipped. Other unreadable lines are skipped
    with a warning.

    Args:
        path: Path of the file.
        key: Key that each line must have.

    Raises:
        InputError: If the file cannot be read, or is too large.
    """
    found, lost = [], 0
    try:
        with open_regular(path, MOST) as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                try:
                    value = json.loads(line)
                    value[key]
                except (ValueError, TypeError, KeyError, RecursionError):
                    lost += line != b"\n"
                else:
                    found.append(value)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise cannot_read(path, error) from error
    if lost:
        warnings.warn(f"skipped {lost} unreadable lines of '{path}'", stacklevel=2)
    return found


def _line(value: dict[str, Any]) -> str:
    return json.dumps(value, allow_nan=False) + "\n"
