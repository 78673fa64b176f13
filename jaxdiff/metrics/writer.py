"""Metrics as JSON lines."""

import json
import os
from pathlib import Path
from typing import Any


class JsonLines:
    """Appends one JSON object a line, each with its `step`; a context manager.

    Opened again by a resumed run, it first drops the lines after the step that the run
    goes on from, so that no line is doubled.
    """

    def __init__(self, path: str | os.PathLike[str], from_step: int):
        path = Path(path)
        kept = [line for line in read(path) if line["step"] <= from_step]
        partial = path.with_suffix(".partial")
        partial.write_text("".join(json.dumps(line) + "\n" for line in kept))
        os.replace(partial, path)
        self._file = path.open("a")

    def write(self, step: int, values: dict[str, float]) -> None:
        """Appends one line."""
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def __enter__(self) -> "JsonLines":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The lines of such a file; none where it does not exist."""
    path = Path(path)
    if not path.exists():
        return []
    lines = path.read_text().splitlines(keepends=True)
    # A last line without its end was cut short by a kill; its step will be redone.
    return [json.loads(line) for line in lines if line.endswith("\n")]
