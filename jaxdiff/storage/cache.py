"""The cache folder, and arrays in it that can be made again."""

import os
import zipfile
from pathlib import Path

import numpy as np

from jaxdiff.errors import InputError, require


def cache_folder() -> Path:
    """What can be made again is kept here: prepared data and compiled programs.

    $JAXDIFF_CACHE, else `jaxdiff` in the user's cache folder: on Linux
    $XDG_CACHE_HOME/jaxdiff, else ~/.cache/jaxdiff.
    """
    if cache := os.environ.get("JAXDIFF_CACHE"):
        return Path(cache).expanduser()
    folder: Path = require("platformdirs").user_cache_path("jaxdiff", appauthor=False)
    return folder


def load_arrays(name: str) -> dict[str, np.ndarray] | None:
    """The arrays of a name; None where they are not there, or not whole.

    Args:
        name: such as "kind/0123abcd", which must tell all that they depend on.
    """
    try:
        with np.load(_path(name), allow_pickle=False) as file:
            return dict(file)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def save_arrays(name: str, arrays: dict[str, np.ndarray]) -> None:
    """Keeps arrays for the next time.

    Raises:
        InputError: the cache folder cannot be written.
    """
    path = _path(name)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.npz")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(temporary, allow_pickle=False, **arrays)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise InputError(
            f"cannot keep what was computed in {str(path.parent)!r}: "
            f"{error.strerror}; set JAXDIFF_CACHE to a folder you can write"
        ) from error


def _path(name: str) -> Path:
    return cache_folder() / f"{name}.npz"
