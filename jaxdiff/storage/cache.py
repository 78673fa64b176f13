"""Cache folder, and arrays in it that can be computed again."""

import errno
import os
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxdiff.errors import InputError, first_line, require
from jaxdiff.storage.files import (
    FULL,
    error_number,
    expanded,
    read_json,
    replacing,
    write_json_atomic,
)

FOLDERS = "folders"
"""Part of the cache with the prepared image folders."""
PARTS = {
    FOLDERS: "images of a folder",
    "jaxdiff_digits": "scikit-learn's digits",
    "streams": "labels and fingerprints of datasets on disk",
    "classifiers": "feature classifiers of evaluate",
    "compiled": "compiled programs",
}
"""Folders in the cache folder, and their contents."""
ABOUT = "about.json"


def cache_folder() -> Path:
    """Returns the cache folder, whose contents can be computed again.

    The folder is $JAXDIFF_CACHE, or `jaxdiff` in the user's cache folder: on Linux
    $XDG_CACHE_HOME/jaxdiff, or ~/.cache/jaxdiff. It holds prepared data, compiled
    programs and arrays.

    Raises:
        InputError: If there is no home folder for it.
    """
    instead = "set JAXDIFF_CACHE to a folder"
    if cache := os.environ.get("JAXDIFF_CACHE"):
        return expanded(cache, instead)
    try:
        folder = require("platformdirs").user_cache_path("jaxdiff", appauthor=False)
    except RuntimeError:
        folder = "~/.cache/jaxdiff"
    return expanded(folder, instead)


def load_arrays(name: str) -> dict[str, np.ndarray] | None:
    """Returns the cached arrays of a name, or None if they are missing or incomplete.

    Args:
        name: Name such as "kind/0123abcd". It must identify all that the arrays depend
            on.
    """
    try:
        with np.load(_path(name), allow_pickle=False) as file:
            return dict(file)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def save_arrays(name: str, arrays: dict[str, np.ndarray]) -> None:
    """Stores arrays in the cache.

    Raises:
        InputError: If the cache folder is not writable.
    """
    path = _path(name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            np.savez(file, allow_pickle=False, **arrays)
    except (OSError, InputError) as error:
        raise cannot_cache(path.parent, error) from error


def cannot_cache(folder: Path, error: BaseException) -> InputError:
    """Returns the error for a cache folder that is full or not writable."""
    code = error_number(error)
    reason = os.strerror(code) if code else first_line(error)
    remedy = "Set JAXDIFF_CACHE to a writable folder"
    if code in FULL:
        remedy = "Free space there, or set JAXDIFF_CACHE to a folder on another disk"
    return InputError(f"cannot use the cache folder '{folder}': {reason}. {remedy}.")


class Entry(NamedTuple):
    """Part of the cache that can be removed alone.

    Attributes:
        name: Path below the cache folder.
        about: Description of the contents.
        bytes: Size of its files.
    """

    name: str
    about: str
    bytes: int


def entries() -> list[Entry]:
    """Returns what the cache holds; files of other programs do not count.

    Raises:
        InputError: If the cache folder is a file.
    """
    if cache_folder().is_file():
        raise cannot_cache(cache_folder(), NotADirectoryError(errno.ENOTDIR, ""))
    found = []
    for part, about in PARTS.items():
        folder = cache_folder() / part
        if part != FOLDERS and folder.is_dir():
            found.append(Entry(part, about, _bytes(folder)))
        for path in sorted(folder.glob("*")) if part == FOLDERS else ():
            if path.is_dir():
                text = _about(path) or about
                found.append(Entry(f"{part}/{path.name}", text, _bytes(path)))
    return found


def remove(name: str) -> None:
    """Removes an entry.

    Raises:
        InputError: If there is no such entry, or it cannot be removed.
    """
    names = [entry.name for entry in entries()]
    if name not in names:
        raise InputError(
            f"there is no entry {name!r} in the cache '{cache_folder()}'. Choose one "
            f"of {', '.join(['all', *names])}."
        )
    folder = cache_folder() / name
    try:
        with locked(folder, wait=False):
            shutil.rmtree(folder)
    except OSError as error:
        raise cannot_cache(folder, error) from error


def describe(folder: Path, about: str) -> None:
    """Writes the description of an entry."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json_atomic(folder / ABOUT, {"about": about})


@contextmanager
def locked(folder: Path, *, wait: bool = True) -> Iterator[None]:
    """Excludes other processes that prepare or remove a folder of the cache.

    The system releases the lock of a killed process. In a file system without locks,
    nothing is excluded.

    Raises:
        InputError: If another process has the lock and `wait` is False.
        OSError: If the lock cannot be written.
    """
    filelock = require("filelock")
    folder.parent.mkdir(parents=True, exist_ok=True)
    path = folder.with_name(f".{folder.name}.lock")
    path.touch()
    lock = filelock.FileLock(path, timeout=-1 if wait else 0, fallback_to_soft=False)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        raise InputError(
            f"another process prepares '{folder}'. Wait for it."
        ) from error
    except OSError:  # no locks in this file system
        pass
    try:
        yield
    finally:
        lock.release()


def _about(folder: Path) -> str | None:
    try:
        return str(read_json(folder / ABOUT)["about"])
    except (InputError, KeyError):
        return None


def _bytes(folder: Path) -> int:
    count = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):  # removed meanwhile
            count += path.lstat().st_size
    return count


def _path(name: str) -> Path:
    return cache_folder() / f"{name}.npz"
