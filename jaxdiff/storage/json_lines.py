"""Metrics and events as JSON lines."""

import json
import os
import warnings
from pathlib import Path
from typing import Any, Self

from jaxdiff.errors import InputError, require
from jaxdiff.storage.files import cannot_write, write_atomic


class _Appended:
    """A file to whose end JSON lines are written; a context manager."""

    def __init__(self, path: str | os.PathLike[str]):
        self._path = Path(path)
        try:
            self._file = self._path.open("a", encoding="utf-8", newline="\n")
        except OSError as error:
            raise cannot_write(path, error) from error

    def append(self, value: dict[str, Any]) -> None:
        """Writes one line."""
        try:
            self._file.write(_line(value))
            self._file.flush()
        except OSError as error:
            raise cannot_write(self._path, error) from error

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class JsonLines(_Appended):
    """Appends one JSON object a line, each with its `step`; a context manager.

    Opened again by a resumed run, it first drops the lines after the step that the run
    goes on from: the run writes them again, and no line is doubled. A file that is as
    it should be is not touched.

    Raises:
        InputError: the disk is full, or the file cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str], from_step: int):
        path = Path(path)
        kept = [line for line in read(path, "step") if line["step"] <= from_step]
        text = "".join(_line(line) for line in kept)
        if not path.exists() or path.read_bytes() != text.encode():
            write_atomic(path, text)
        super().__init__(path)

    def write(self, step: int, values: dict[str, float]) -> None:
        """Appends one line."""
        self.append({"step": step, **values})

    def flush(self) -> None:
        """Returns when every line is on the disk itself."""
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise cannot_write(self._path, error) from error


class History(_Appended):
    """What happened to a run, an event a line; held by the one process that trains it.

    Closing it lets others train. The lock is on a hidden file beside it, so that a
    removed history lets no second process in. The system drops the lock of a process
    that is killed, and the file stays.

    Args:
        path: the file; lines are only ever appended.

    Raises:
        InputError: another process trains this run, or the file cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str]):
        path, filelock = Path(path), require("filelock")
        # Without the fallback: its marker would stay after a kill, and block the run.
        self._lock = filelock.FileLock(
            path.with_name(f".{path.name}.lock"), timeout=0, fallback_to_soft=False
        )
        try:
            self._lock.acquire()
        except filelock.Timeout as error:
            raise InputError(
                f"another process trains in '{path.parent}': wait for it, or "
                "choose another --workdir"
            ) from error
        except OSError:  # a file system without locks: then users must take care
            pass
        try:
            super().__init__(path)
        except InputError:
            self._lock.release()
            raise
        if self._path.stat().st_size and not self._path.read_bytes().endswith(b"\n"):
            self._file.write("\n")  # a kill cut the last line short

    def write(self, event: str, **values: Any) -> None:
        """Appends one line."""
        self.append({"event": event, **values})

    def close(self) -> None:
        """Closes the file, and lets others train."""
        super().close()
        self._lock.release()


def read(path: str | os.PathLike[str], key: str) -> list[dict[str, Any]]:
    """The lines of such a file; none where it does not exist.

    A last line that a kill cut short is passed over. Others that cannot be read are
    too, with a warning.

    Args:
        path: the file.
        key: what each line must have.
    """
    path = Path(path)
    if not path.exists():
        return []
    found, lost = [], 0
    for line in path.read_bytes().split(b"\n")[:-1]:
        try:
            value = json.loads(line)
            value[key]
        except (ValueError, TypeError, KeyError, RecursionError):
            lost += bool(line)
        else:
            found.append(value)
    if lost:
        warnings.warn(f"'{path}' has {lost} lines that cannot be read", stacklevel=2)
    return found


def _line(value: dict[str, Any]) -> str:
    return json.dumps(value, allow_nan=False) + "\n"
