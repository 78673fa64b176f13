"""Cache folder, and arrays in it that can be computed again."""

import os
import zipfile
from pathlib import Path

import numpy as np

from jaxdiff.errors import InputError, require


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
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.npz")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(temporary, allow_pickle=False, **arrays)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise InputError(
            f"cannot cache results in {str(path.parent)!r}: {error.strerror}. "
            "Set JAXDIFF_CACHE to a writable folder."
        ) from error


def _path(name: str) -> Path:
    return cache_folder() / f"{name}.npz"
