"""A folder that tells whether it is as it was written: its record lists every file.

The record is a JSON file in the folder, with the size and the SHA-256 of each other
file, and a hash of itself. It is data: names in it are compared with what is there, and
nothing is opened because a record names it.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxdiff.storage.files import flush_folder, write_atomic

RECORD = "jaxdiff.json"


class Damaged(Exception):
    """A folder is not as it was written; the text says what differs."""


def write_manifest(folder: Path, record: dict[str, Any]) -> None:
    """Reads every file of the folder back, from the disk if need be, and lists it.

    Args:
        folder: what is complete.
        record: JSON data to keep in the record.

    Raises:
        OSError: the disk fails.
        InputError: the record cannot be written.
    """
    files = {
        name: [path.stat().st_size, _hash(path, flush=True)]
        for name, path in _files(folder)
    }
    write_atomic(folder / RECORD, _text({**record, "files": files}))
    for place, _, _ in os.walk(folder):
        flush_folder(place)


def read_manifest(folder: Path) -> dict[str, Any]:
    """What `seal` was given, if the record is as it was written.

    Raises:
        Damaged: it is not, or there is none.
    """
    path = folder / RECORD
    if path.is_symlink() or not path.is_file():
        raise Damaged(f"it has no {RECORD}")
    try:
        text = path.read_text(encoding="utf-8")
        record = json.loads(text)
        del record["sha256"]
        whole = text == _text(record) and all(
            type(length) is int and type(digest) is str
            for length, digest in record["files"].values()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        whole = False
    if not whole:
        raise Damaged(f"its {RECORD} is not as it was written")
    return record


def verify(folder: Path) -> dict[str, Any]:
    """The record of a folder in which every byte is as it was written.

    Raises:
        Damaged: something is missing, new, or different; its name is told.
    """
    record = read_manifest(folder)
    listed = dict(record["files"])
    for name, path in _files(folder):
        if name not in listed:
            raise Damaged(f"'{name}' was not in it when it was written")
        length, digest = listed.pop(name)
        try:
            found = path.stat().st_size
            if found != length:
                raise Damaged(f"'{name}' has {found} bytes, and had {length}")
            if _hash(path) != digest:
                raise Damaged(f"'{name}' holds other bytes than were written")
        except OSError as error:
            raise Damaged(f"'{name}' cannot be read: {error.strerror}") from error
    if listed:
        raise Damaged(f"'{min(listed)}' is missing")
    return record


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Every file below the folder but its record, by name."""
    for place, folders, names in os.walk(folder):
        for name in sorted((*folders, *names)):
            path = Path(place) / name
            relative = path.relative_to(folder).as_posix()
            if path.is_symlink():  # it may lead anywhere
                raise Damaged(f"'{relative}' is a link")
            if name in folders or relative == RECORD:
                continue
            if not path.is_file():  # a pipe would never end
                raise Damaged(f"'{relative}' is no regular file")
            yield relative, path


def _hash(path: Path, flush: bool = False) -> str:
    with path.open("rb") as file:
        if flush:
            os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()


def _text(record: dict[str, Any]) -> str:
    """The record as it is written, with the hash of the rest of it."""
    digest = hashlib.sha256(json.dumps(record).encode()).hexdigest()
    return json.dumps({**record, "sha256": digest}, indent=1) + "\n"
