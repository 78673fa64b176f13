"""Forecast of a training: time of a step, and when the last step will be done."""

import time
from collections.abc import Callable
from typing import Any

import jax

ENOUGH = 2.0
"""Seconds of steps after the compilation that are timed."""


class Forecast:
    """Forecast that is printed once, soon after the first step is compiled.

    Args:
        end: last step.
        write: prints a line.
    """

    def __init__(self, end: int, write: Callable[[str], None]):
        self._end, self._write = end, write
        self._start: tuple[float, int] | None = None
        self._done = False

    def add(self, step: int, metrics: Any) -> None:
        """Times the steps so far; waits for the devices until the line is printed.

        Args:
            step: number of steps done.
            metrics: their metrics on the devices.
        """
        if self._done:
            return
        jax.block_until_ready(metrics)
        now = time.monotonic()
        if self._start is None:  # compiled with the first dispatch
            self._start = now, step
            return
        begin, first = self._start
        took = (now - begin) / (step - first)
        if now - begin < ENOUGH and step < self._end:
            return
        self._done = True
        left = took * (self._end - step)
        if left > 0:
            at = time.strftime("%Y-%m-%d %H:%M", time.localtime(time.time() + left))
            self._write(
                f"a step takes {duration(took)}; step {self._end:,} will be done in "
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
