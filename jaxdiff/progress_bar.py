"""Progress of a loop: a bar in a terminal, lines at growing intervals elsewhere.

A bar is redrawn with control characters, which fill a log file or a notebook.
"""

import contextlib
import sys
import time
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any, Self, TextIO

from jaxdiff.errors import require
from jaxdiff.streams import tolerant

FIRST, SHARE, LAST = 10.0, 0.1, 600.0
"""Seconds until the first line; share of the time so far between two lines, and its
limit in seconds."""
_quiet = ContextVar("quiet", default=False)


@contextlib.contextmanager
def quiet(on: bool = True) -> Iterator[None]:
    """Shows no progress inside the block."""
    token = _quiet.set(on or _quiet.get())
    try:
        yield
    finally:
        _quiet.reset(token)


def is_shown() -> bool:
    """Returns False inside `quiet`."""
    return not _quiet.get()


def bar(
    total: int, name: str, unit: str, *, initial: int = 0, show: bool = True
) -> Any:
    """Returns a bar of tqdm in a terminal, and `Lines` anywhere else.

    Args:
        total: number at the end.
        name: text before the number.
        unit: unit of the number.
        initial: number at the start.
        show: if False, shows nothing.
    """
    tqdm, show = require("tqdm").tqdm, show and is_shown()
    if not tolerant(sys.stderr).isatty():
        return Lines(total, name, unit, initial, show)
    return tqdm(
        total=total, desc=name, unit=unit, initial=initial, disable=not show,
        smoothing=0.1, dynamic_ncols=True, file=tolerant(sys.stderr),
    )  # fmt: skip


class Lines:
    """Progress as lines on stderr, with the methods of a bar of tqdm that are used.

    Args:
        total, name, unit, initial, show: see `bar`.
    """

    def __init__(self, total: int, name: str, unit: str, initial: int, show: bool):
        self.n, self.total = initial, total
        self._initial, self._name, self._unit, self._show = initial, name, unit, show
        self._text, self._printed = "", -1
        self._start = self._last = time.monotonic()
        self.unpause()

    def update(self, count: int = 1) -> None:
        """Adds to the number, and prints a line if the interval is over."""
        self.n += count
        now = time.monotonic()
        wait = min(max(FIRST, SHARE * (now - self._start)), LAST)
        if now - self._last >= wait:
            self._last = now
            self._print()

    def unpause(self) -> None:
        """Leaves the time so far out of the rate, such as that of a compilation."""
        self._begin = time.monotonic(), self.n

    def set_postfix_str(self, text: str) -> None:
        """Sets the text at the end of the next line."""
        self._text = text

    def write(self, text: str, file: TextIO | None = None) -> None:
        """Prints a message."""
        print(text, file=tolerant(file or sys.stdout), flush=True)

    def close(self) -> None:
        """Prints the last line."""
        if self._printed != self.n:
            self._print()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _print(self) -> None:
        if not self._show:
            return
        self._printed = self.n
        now, (begin, first) = time.monotonic(), self._begin
        rate = (self.n - first) / (now - begin) if now > begin else None
        line = require("tqdm").tqdm.format_meter(
            self.n, self.total, now - self._start, prefix=self._name, rate=rate,
            unit=self._unit, initial=self._initial, postfix=self._text,
            bar_format="{desc}: {n_fmt}/{total_fmt} "
            "[{elapsed}<{remaining}, {rate_fmt}{postfix}]",
        )  # fmt: skip
        print(line, file=tolerant(sys.stderr), flush=True)
