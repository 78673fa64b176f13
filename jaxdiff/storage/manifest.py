"""Manifests: a file in a folder lists all other files with their checksums.

The manifest is a JSON file with the size and the SHA-256 of each other file, and a hash
of itself. It is data: its names are compared with the files found, and no file is
opened because a manifest names it.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxdiff.storage.files import LARGEST, flush_folder, open_regular, write_atomic

RECORD = "jaxdiff.json"


class Damaged(Exception):
    """Difference between a folder and its manifest; the message names it."""


def write_manifest(folder: Path, record: dict[str, Any]) -> None:
    """Reads all files of a folder back, after a flush, and writes their manifest.

    Args:
        folder: Complete folder.
        record: JSON data to store in the manifest.

    Raises:
        OSError: If the disk fails.
        InputError: If the manifest cannot be written.
    """
    files = {
        name: [path.stat().st_size, checksum(path, flush=True)]
        for name, path in _files(folder)
    }
    write_atomic(folder / RECORD, _text({**record, "files": files}))
    for place, _, _ in os.walk(folder):
        flush_folder(place)


def read_manifest(folder: Path) -> dict[str, Any]:
    """Returns a folder's manifest, after a check of its own hash.

    Raises:
        Damaged: If the manifest is missing or was changed.
    """
    path = folder / RECORD
    if path.is_symlink() or not path.is_file():
        raise Damaged(f"{RECORD} is missing")
    try:
        with open_regular(path, LARGEST) as file:
            text = file.read().decode("utf-8")
        record = json.loads(text)
        del record["sha256"]
        whole = text == _text(record) and all(
            type(length) is int and type(digest) is str
            for length, digest in record["files"].values()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        whole = False
    if not whole:
        raise Damaged(f"{RECORD} was changed")
    return record


def verify(folder: Path) -> dict[str, Any]:
    """Returns a folder's manifest, after a check of every byte of the folder.

    Raises:
        Damaged: If a file is missing, new or different; the message names it.
    """
    record = read_manifest(folder)
    listed = dict(record["files"])
    for name, path in _files(folder):
        if name not in listed:
            raise Damaged(f"'{name}' is not in the manifest")
        length, digest = listed.pop(name)
        try:
            found = path.stat().st_size
            if found != length:
                raise Damaged(f"'{name}' has {found} bytes instead of {length}")
            if checksum(path) != digest:
                raise Damaged(f"'{name}' does not match its checksum")
        except OSError as error:
            raise Damaged(f"'{name}' cannot be read: {error.strerror}") from error
    if listed:
        raise Damaged(f"'{min(listed)}' is missing")
    return record


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yields every file below the folder, except its manifest, with its name."""
    for place, folders, names in os.walk(folder):
        for name in sorted((*folders, *names)):
            path = Path(place) / name
            relative = path.relative_to(folder).as_posix()
            if path.is_symlink():  # a link may lead anywhere
                raise Damaged(f"'{relative}' is a link")
            if name in folders or relative == RECORD:
                continue
            if not path.is_file():  # reading a pipe would block
                raise Damaged(f"'{relative}' is not a regular file")
            yield relative, path


def checksum(path: Path, flush: bool = False) -> str:
    """Returns the SHA-256 of a file; with `flush`, after the file is on the disk."""
    with path.open("rb") as file:
        if flush:
            os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()


def _text(record: dict[str, Any]) -> str:
    """Returns the manifest as text, with the hash of its other entries."""
    digest = hashlib.sha256(json.dumps(record).encode()).hexdigest()
    return json.dumps({**record, "sha256": digest}, indent=1) + "\n"
