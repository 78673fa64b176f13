"""Prepared data in the cache folder: one copy, rebuilt if it is damaged or out of date.

A lock lets one process prepare at a time. A process that has the lock removes what it
finds: damaged data, data of changed files, and the remains of killed preparations.
"""

import contextlib
import errno
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxdiff.data.dataset import Dataset
from jaxdiff.data.streaming import Unreadable
from jaxdiff.data.tfds_prepare import prepared, quiet
from jaxdiff.errors import InputError, first_line
from jaxdiff.storage.cache import cannot_cache, describe, locked
from jaxdiff.storage.files import error_number

_MISSING = (None, errno.ENOENT, errno.ENOTDIR, errno.EISDIR)
"""Errors of damaged data. The others are of the disk, or of permissions."""


def load_cached(
    folder: Path,
    make_builder: Callable[[], Any],
    read: Callable[[Any], Dataset],
    *,
    about: str = "",
    is_current: Callable[[Any], bool] = lambda builder: True,
) -> Dataset:
    """Returns data from the cache; prepares it if necessary.

    Args:
        folder: Folder of the data; nothing else is in it.
        make_builder: Function that returns a TFDS builder of data in `folder`.
        read: Function that returns the builder's data. Damaged data raises anything but
            an `InputError`, or `Unreadable`.
        about: Description of the data, for the command `cache`.
        is_current: Function that returns False if the data must be prepared again.

    Raises:
        InputError: If the cache cannot be written, or see `read`.

    Warns:
        UserWarning: If the data was damaged.
    """

    def found() -> Dataset | str:
        """Returns the data, or the reason why it must be prepared."""
        if not folder.exists():
            return "it is missing"
        try:
            builder = make_builder()
            if not builder.data_path.exists() or not is_current(builder):
                return "it is out of date"
            return read(builder)
        except Exception as error:  # damaged files raise many types
            if isinstance(error, InputError) and not isinstance(error, Unreadable):
                raise
            if error_number(error) not in _MISSING:
                raise
            damage.append(first_line(error.__cause__ or error))
            return damage[-1]

    damage: list[str] = []
    try:
        with quiet():
            data = found()
            if isinstance(data, Dataset):
                return data
            with locked(folder):
                damage.clear()
                data = found()  # another process may have prepared it meanwhile
                if isinstance(data, Dataset):
                    return data
                for reason in damage:
                    warnings.warn(
                        f"prepared the data in '{folder}' again: it was damaged "
                        f"({reason})",
                        stacklevel=4,
                    )
                with contextlib.suppress(FileNotFoundError):
                    shutil.rmtree(folder)
                if about:
                    describe(folder, about)
                return read(prepared(make_builder, verbose=False))
    except Exception as error:
        if isinstance(error, InputError) and not isinstance(error, Unreadable):
            raise
        if error_number(error) is None:
            raise
        raise cannot_cache(folder, error) from error


def check_complete(builder: Any, split: str, num: int) -> None:
    """Raises a ValueError if a split does not have this number of examples."""
    splits = builder.info.splits
    count = splits[split].num_examples if split in splits else 0
    if count != num:
        raise ValueError(f"the {split} split has {count} of {num} examples")
