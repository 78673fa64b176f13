"""Cache folder, and arrays in it that can be computed again."""

import os
import zipfile
from pathlib import Path

import numpy as np

from jaxdiff.errors import InputError, first_line, require
from jaxdiff.storage.files import FULL, error_number, replacing


def cache_folder() -> Path:
    """Returns the cache folder, whose contents can be computed again.

    The folder is $JAXDIFF_CACHE, or `jaxdiff` in the user's cache folder: on Linux
    $XDG_CACHE_HOME/jaxdiff, or ~/.cache/jaxdiff. It holds prepared data, compiled
    programs and arrays.
    """
    if cache := os.environ.get("JAXDIFF_CACHE"):
        return Path(cache).expanduser()
    folder: Path = require("platformdirs").user_cache_path("jaxdiff", appauthor=False)
    return folder


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


def _path(name: str) -> Path:
    return cache_folder() / f"{name}.npz"
