"""Destinations of each interval's metrics, and the throughput."""

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from jaxdiff.runs import provenance
from jaxdiff.storage.json_lines import History

SPEED = "images_per_s"
"""Name of the throughput among the values; `metrics.jsonl` does not contain it."""


class Sink(Protocol):
    """Destination of each interval's values, such as `Bar` or `Events`."""

    def write(self, step: int, values: dict[str, float]) -> None:
        """Writes the values of the interval that ends with this step."""


class SpeedHistory:
    """Throughput as events of the history."""

    def __init__(self, history: History):
        self._history = history

    def write(self, step: int, values: dict[str, float]) -> None:
        """Writes the throughput."""
        speed = values[SPEED]
        self._history.write("speed", step=step, time=provenance.now(), **{SPEED: speed})


class Bar:
    """Loss and throughput on a progress bar."""

    def __init__(self, bar: Any):
        self._bar = bar

    def write(self, step: int, values: dict[str, float]) -> None:
        """Shows the loss and the throughput, and moves the bar to this step."""
        loss = f"loss {values['loss']:.4f}, " if "loss" in values else ""
        self._bar.set_postfix_str(f"{loss}{values[SPEED]:.0f} images/s")
        self._bar.update(step - self._bar.n)


class Throughput:
    """Throughput of training.

    Args:
        step: number of steps done at the start.
        batch_size: images per step.
    """

    def __init__(self, step: int, batch_size: int):
        self._batch_size = batch_size
        # A checkpoint fetches two intervals at once: the throughput spans both.
        self._clocks: deque[tuple[float, int]]
        self.restart(step)

    def restart(self, step: int) -> None:
        """Begins at this step, so that the time before it does not count."""
        self._clocks = deque([(time.perf_counter(), step)], maxlen=2)

    def until(self, step: int) -> float:
        """Returns the throughput of the two intervals before this step [images/s]."""
        (then, before), now = self._clocks[0], time.perf_counter()
        self._clocks.append((now, step))
        return (step - before) * self._batch_size / (now - then)

    def exclude(self, seconds: float) -> None:
        """Excludes time that has passed."""
        moved = [(when + seconds, step) for when, step in self._clocks]
        self._clocks = deque(moved, maxlen=2)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Excludes the enclosed work from the throughput."""
        start = time.perf_counter()
        yield
        self.exclude(time.perf_counter() - start)
