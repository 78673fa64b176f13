"""TensorBoard's event files; no other file imports tensorboardX."""

import contextlib
import struct
import time
from pathlib import Path
from typing import Any, Self

from jaxdiff.errors import require
from jaxdiff.storage.files import cannot_write

SUFFIX = ".jaxdiff"
"""Suffix of the files written here; files of other writers are left alone."""


class Events:
    """Writer of scalars and pictures to an event file; a context manager.

    The caller writes all points again, and then calls `replace_earlier` to remove the
    earlier file of this class in the folder, so no point is duplicated. After a failed
    write before that, the earlier file remains instead. An event of a new session makes
    a running TensorBoard drop the points it has read.

    tensorboardX's own writer runs in a thread, which blocks for ever after a failed
    write. Here each event is flushed before a call returns.

    Args:
        folder: Folder of the event file; created if missing.

    Raises:
        InputError: If tensorboardX is missing, or a file cannot be written.
    """

    def __init__(self, folder: Path):
        writer = require("tensorboardX.event_file_writer")
        self._protocol = require("tensorboardX.proto.event_pb2")
        self._summary = require("tensorboardX.proto.summary_pb2").Summary
        self._folder = folder.resolve()  # a relative name may look like a cloud address
        try:
            self._folder.mkdir(exist_ok=True)
            self._earlier = self._files()
            # The writer's own name has seconds: a second start would overwrite it.
            suffix = f".{time.time_ns()}{SUFFIX}"
            self._writer = writer.EventsWriter(str(self._folder / "events"), suffix)
        except OSError as error:
            raise cannot_write(folder, error) from error
        start = self._protocol.SessionLog.START
        session = self._protocol.SessionLog(status=start)
        self._write(self._protocol.Event(step=0, session_log=session))

    def write(
        self, step: int, values: dict[str, float], when: float | None = None
    ) -> None:
        """Writes scalars by name, at `when` in seconds since 1970, by default now."""
        found = [
            self._summary.Value(tag=name, simple_value=value)
            for name, value in values.items()
        ]
        self._add(step, found, when)

    def picture(
        self, step: int, name: str, png: bytes, when: float | None = None
    ) -> None:
        """Writes a picture, given as the bytes of a PNG."""
        width, height, _, colour = struct.unpack(">IIBB", png[16:26])
        image = self._summary.Image(
            height=height, width=width, colorspace=1 if colour == 0 else 3,
            encoded_image_string=png,
        )  # fmt: skip
        self._add(step, [self._summary.Value(tag=name, image=image)], when)

    def replace_earlier(self) -> None:
        """Removes the earlier files."""
        try:
            self._remove(self._earlier)
        except OSError as error:
            raise cannot_write(self._folder, error) from error
        self._earlier.clear()

    def _files(self) -> set[Path]:
        return set(self._folder.glob(f"events.out.tfevents.*{SUFFIX}"))

    def _remove(self, paths: set[Path]) -> None:
        for path in paths:
            path.unlink(missing_ok=True)

    def _add(self, step: int, values: list[Any], when: float | None) -> None:
        summary = self._summary(value=values)
        self._write(self._protocol.Event(step=step, summary=summary), when)

    def _write(self, event: Any, when: float | None = None) -> None:
        event.wall_time = time.time() if when is None else when
        try:
            self._writer.write_event(event)
            self._writer.flush()
        except OSError as error:
            if self._earlier:
                with contextlib.suppress(OSError):
                    self._remove(self._files() - self._earlier)
            raise cannot_write(self._folder, error) from error

    def close(self) -> None:
        """Closes the file."""
        with contextlib.suppress(OSError):  # raised by an earlier write
            self._writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def check_installed() -> None:
    """Raises an error if tensorboardX is not installed."""
    require("tensorboardX")
