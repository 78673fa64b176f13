"""Forecast of a training: time of a step, and when the last step will be done."""

import time
from collections.abc import Callable
from typing import Any

import jax

ENOUGH = 5.0
"""Seconds of steps after the compilation that the first forecast is measured from."""
LATER, OFF = 4.0, 0.2
"""Factor between the measured times of two forecasts; share of the remaining time by
which a later forecast must differ to be printed."""


class Forecast:
    """Forecast that is printed soon after the first step is compiled.

    Later ones are measured from the steps since then, with their sample grids and
    checkpoints, and printed if the end has moved: other programs may share the machine.

    Args:
        end: last step.
        write: prints a line.
    """

    def __init__(self, end: int, write: Callable[[str], None]):
        self._end, self._write = end, write
        self._start = 0.0
        self._last: tuple[float, int] | None = None
        self._due = ENOUGH
        self._done_at: float | None = None

    def exclude(self, seconds: float) -> None:
        """Leaves the time of a later compilation out."""
        if self._last is not None:
            begin, step = self._last
            self._last = begin + seconds, step
            self._start += seconds

    def add(self, step: int, metrics: Any) -> None:
        """Times the steps so far; waits for the devices until the line is printed.

        Args:
            step: number of steps done.
            metrics: their metrics on the devices.
        """
        if self._last is None:  # compiled with the first dispatch
            jax.block_until_ready(metrics)
            self._start = time.monotonic()
            self._last = self._start, step
            return
        if self._done_at is None:
            jax.block_until_ready(metrics)
        now = time.monotonic()
        begin, first = self._last
        took = (now - begin) / (step - first)
        left = took * (self._end - step)
        if now - self._start < self._due or left <= 0:
            return
        self._due, self._last = LATER * (now - self._start), (now, step)
        before = self._done_at
        if before is not None and abs(now + left - before) < OFF * left:
            return
        self._done_at = now + left
        at = time.strftime("%Y-%m-%d %H:%M", time.localtime(time.time() + left))
        again = "" if before is None else "now "
        self._write(
            f"a step {again}takes {duration(took)}; step {self._end:,} will be done in "
            f"{duration(left)}, at {at}"
        )


def duration(seconds: float) -> str:
    """Returns a duration as text.

    >>> [duration(s) for s in (0.0123, 5.25, 250, 9000, 200_000)]
    ['12.3 ms', '5.2 s', '4 min', '2.5 h', '2.3 days']
    """
    for size, unit in ((86_400, "days"), (3600, "h"), (60, "min"), (1, "s")):
        if seconds >= (2 if unit == "days" else 1) * size:
            return f"{seconds / size:.{0 if unit == 'min' else 1}f} {unit}"
    return f"{1000 * seconds:.3g} ms"
