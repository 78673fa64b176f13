"""Configuration files of model folders, as a download leaves them."""

import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from jaxdiff.errors import InputError
from jaxdiff.storage.files import open_regular, read_json

NETWORK = "config.json"
_POINTER = b"version https://git-lfs."


def read_part(path: Path) -> dict[str, Any]:
    """Returns the dictionary in a JSON file of a model folder.

    Raises:
        InputError: the file is missing, or holds anything else.
    """
    check_no_pointer(path)
    return read_json(path)


def check_no_pointer(path: Path) -> None:
    """Raises an error if Git LFS has not downloaded a file yet."""
    try:
        with open_regular(path) as file:
            start = file.read(len(_POINTER))
    except OSError:
        return  # the reader of the file raises a clearer error
    if start == _POINTER:
        raise InputError(
            f"'{path}' must hold the file itself, got a Git LFS pointer to it. Run "
            "git lfs pull in the folder."
        )


def known_entries(
    record: Mapping[str, Any], known: Collection[str], where: str
) -> dict[str, Any]:
    """Returns the entries of a configuration that diffusers passes to the class.

    Args:
        record: contents of the file.
        known: names of the class's entries.
        where: file, for the warning.

    Warns:
        UserWarning: it names entries that diffusers ignores, too.
    """
    # An entry that was not set in its class takes the default of the class that reads.
    unset = record.get("_use_default_values")
    unset = unset if isinstance(unset, list) else []
    entries = {
        key: value
        for key, value in record.items()
        if not key.startswith("_") and key not in unset
    }
    unknown = sorted(entries.keys() - set(known))
    if unknown:
        warnings.warn(
            f"ignored entries of {where} that change no image, as diffusers does: "
            f"{', '.join(unknown)}",
            stacklevel=2,
        )
    return {key: value for key, value in entries.items() if key in known}
