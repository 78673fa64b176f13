"""Standard output and standard error, whose faults never stop the work.

The reader of a pipe may end before the program, the disk of a log may be full, and a
terminal may be closed or lack a character. A training must survive all of them.
"""

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from jaxdiff.errors import InputError


class Tolerant:
    """Text stream that drops text that cannot be written, and replaces characters.

    Later text is written again if the fault has ended. Other attributes are the
    stream's.

    Args:
        stream: a text stream, such as sys.stderr.

    Attributes:
        fault: the last failed write, or None.
    """

    def __init__(self, stream: Any):
        self._stream = stream
        self.fault: OSError | ValueError | None = None

    def write(self, text: str) -> int:
        """Writes text; returns its length, also if it is lost."""
        try:
            try:
                self._stream.write(text)
            except UnicodeEncodeError as error:
                known = text.encode(error.encoding, "replace")
                self._stream.write(known.decode(error.encoding))
        except (OSError, ValueError) as fault:  # ValueError: the stream is closed
            self.fault = fault
        return len(text)

    def flush(self) -> None:
        """Flushes the stream."""
        try:
            self._stream.flush()
        except (OSError, ValueError) as fault:
            self.fault = fault

    def close_if_lost(self) -> None:
        """Discards text that still cannot be written, which Python would report."""
        try:
            self._stream.flush()
        except (OSError, ValueError):
            with suppress(OSError, ValueError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self._stream.fileno())
                os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __eq__(self, other: object) -> bool:  # tqdm clears bars of equal streams
        return self._stream is getattr(other, "_stream", other)

    def __hash__(self) -> int:
        return hash(self._stream)


class _Nowhere(io.TextIOBase):
    """Stream in place of None, which Python has for a closed standard stream."""

    def write(self, text: str) -> int:
        return len(text)


def tolerant(stream: Any) -> Any:
    """Returns a stream as a `Tolerant`; the same object if it is one already."""
    if isinstance(stream, Tolerant):
        return stream
    return Tolerant(_Nowhere() if stream is None else stream)


def _occupy_closed() -> None:
    """Opens the null device in place of closed standard streams.

    Otherwise a checkpoint's file would get the number 1 or 2, and with it the messages
    of C++ libraries.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # it gets the lowest free number


@contextmanager
def tolerant_streams() -> Iterator[None]:
    """Makes sys.stdout and sys.stderr tolerant in the enclosed program."""
    _occupy_closed()
    before = sys.stdout, sys.stderr
    made = [tolerant(stream) for stream in before]
    sys.stdout, sys.stderr = made
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
        for stream in made:
            stream.close_if_lost()


def check_output() -> None:
    """Raises an `InputError` if text on a tolerant sys.stdout was lost.

    A reader that ended, such as `head`, is no error.
    """
    sys.stdout.flush()
    fault = getattr(sys.stdout, "fault", None)
    if isinstance(fault, OSError) and fault.errno != errno.EPIPE:
        raise InputError(
            f"cannot write the standard output: {fault.strerror}. Free space, or name "
            "another file."
        )
