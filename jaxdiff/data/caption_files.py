"""Readers of the files that hold captions: plain text, JSON lines and CSV."""

import csv
import json
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, TypeAlias

from jaxdiff.errors import InputError, first_line, shown
from jaxdiff.storage.files import cannot_read, open_regular

NO_TEXT = ("",)
"""Captions of an image without a text."""
_NAME, _TEXT = "file_name", "text"
_MOST_TEXT, _MOST_METADATA = 2**20, 2**30  # bytes
_Row: TypeAlias = tuple[int, dict[str, Any]]  # number of its line, and its fields


def read_captions(path: Path) -> tuple[str, ...]:
    """Returns the captions in a text file: its lines, except the empty ones.

    A file without any text has one empty caption. The encoding is UTF-8, with or
    without a byte order mark. Lines end as in Unix, Windows or old Mac files. Texts are
    stripped and brought into Unicode's normal form C.

    Raises:
        InputError: If the file cannot be read, has more than 2^20 bytes, or is not
            UTF-8.
    """
    try:
        with open_regular(path, _MOST_TEXT) as file:
            lines = [part for line in _lines(file, path) for part in line.split("\r")]
    except OSError as error:
        raise InputError(
            f"cannot read the captions '{path}': {error.strerror}"
        ) from error
    return tuple(text for line in lines if (text := cleaned(line))) or NO_TEXT


def read_metadata(path: Path) -> Iterator[tuple[int, str, tuple[str, ...]]]:
    """Yields the line, file name and captions of each entry of a metadata file.

    A line of `metadata.jsonl` is a JSON object. Its `text` is a text, a list of texts,
    or null. `metadata.csv` has a header and commas. Other fields are ignored. Encoding
    and normal form are as in `read_captions`.

    Raises:
        InputError: If the file cannot be read, has more than 2^30 bytes, or has a
            wrong line.
    """
    rows = _csv_rows if path.suffix.lower() == ".csv" else _json_rows
    try:
        with open_regular(path, _MOST_METADATA) as file:
            for number, row in rows(_lines(file, path), path):
                place = f"line {number} of '{path}'"
                name = row[_NAME]
                if not isinstance(name, str) or not name:
                    raise InputError(
                        f"file_name must be a text, got {shown(name)} in {place}. "
                        "Give the path of an image."
                    )
                yield number, name, _captions(row[_TEXT], place)
    except OSError as error:
        raise cannot_read(path, error) from error


def _check_fields(fields: Iterable[str], place: str) -> None:
    fields = list(fields)
    for field in (_NAME, _TEXT):
        if field not in fields:
            raise InputError(
                f"{place} must have the field {field!r}, got {shown(fields)}. "
                "Add the field, or set --data.captions to another source."
            )


def _captions(value: Any, place: str) -> tuple[str, ...]:
    texts = value if isinstance(value, list) else ["" if value is None else value]
    for text in texts:
        if not isinstance(text, str) or any("\ud800" <= c <= "\udfff" for c in text):
            raise InputError(
                f"text must be Unicode text or a list of texts, got {shown(value)} in "
                f"{place}. Correct the line."
            )
    return tuple(map(cleaned, texts)) or NO_TEXT


def _json_rows(lines: Iterator[str], path: Path) -> Iterator[_Row]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            match error:
                case json.JSONDecodeError():  # its message has a line of its own
                    reason = f"{error.msg}, column {error.colno}"
                case RecursionError():
                    reason = "it is nested too deeply"
                case _:
                    reason = first_line(error)
            raise InputError(
                f"line {number} of '{path}' must be JSON, got {shown(line.strip())} "
                f"({reason}). Correct the line."
            ) from error
        if not isinstance(row, dict):
            raise InputError(
                f"line {number} of '{path}' must be a JSON object, got {shown(row)}. "
                "Give file_name and text."
            )
        _check_fields(row, f"line {number} of '{path}'")
        yield number, row


def _csv_rows(lines: Iterator[str], path: Path) -> Iterator[_Row]:
    # Without strict, a quote that is not closed swallows the rest of the file.
    reader = csv.reader(lines, strict=True)
    header: list[str] | None = None
    first = 1
    try:
        for row in reader:
            if header is None:
                header = [name.strip() for name in row]
                _check_fields(header, f"line {first} of '{path}'")
            elif len(row) not in (0, len(header)):
                raise InputError(
                    f"line {first} of '{path}' must have {len(header)} values, as the "
                    f"header, got {len(row)}. Put a text with a comma into quotes."
                )
            elif row:
                yield first, dict(zip(header, row, strict=True))
            first = reader.line_num + 1
    except csv.Error as error:
        raise InputError(
            f"line {first} of '{path}' must be CSV: {error}. Correct the line."
        ) from error


def _lines(file: IO[bytes], path: Path) -> Iterator[str]:
    """Yields the lines of a file, with their ends; a line ends at a line feed."""
    for number, line in enumerate(file, 1):
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise InputError(
                f"line {number} of '{path}' must be UTF-8, got {shown(line)}. "
                "Save the file as UTF-8"
            ) from error
        yield text.removeprefix("\ufeff") if number == 1 else text


def cleaned(text: str) -> str:
    """Returns a text without outer spaces, in Unicode's normal form C."""
    return unicodedata.normalize("NFC", text.strip())
