"""Where the metrics of each interval go, and how fast it was."""

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from jaxdiff.runs import provenance
from jaxdiff.storage.json_lines import History

SPEED = "images_per_s"
"""The name of the speed among the values; `metrics.jsonl` is without it."""


class Sink(Protocol):
    """A place for the values of each interval: `JsonLines`, `Events` and these here."""

    def write(self, step: int, values: dict[str, float]) -> None:
        """Writes the values of the interval that ends with this step."""


class SpeedHistory:
    """The speed, as events of the history."""

    def __init__(self, history: History):
        self._history = history

    def write(self, step: int, values: dict[str, float]) -> None:
        """Notes the speed."""
        speed = values[SPEED]
        self._history.write("speed", step=step, time=provenance.now(), **{SPEED: speed})


class Bar:
    """The loss and the speed, on a progress bar."""

    def __init__(self, bar: Any):
        self._bar = bar

    def write(self, step: int, values: dict[str, float]) -> None:
        """Moves the bar to this step."""
        loss = f"loss {values['loss']:.4f}, " if "loss" in values else ""
        self._bar.set_postfix_str(f"{loss}{values[SPEED]:.0f} images/s")
        self._bar.update(step - self._bar.n)


class Throughput:
    """Measures the speed of training.

    Args:
        step: where the run starts.
        batch_size: images in a step.
    """

    def __init__(self, step: int, batch_size: int):
        self._batch_size = batch_size
        # At a checkpoint two intervals are fetched at once: the speed is that of both.
        self._clocks = deque([(time.perf_counter(), step)], maxlen=2)

    def until(self, step: int) -> float:
        """Returns the speed over the last two intervals, to this step [images/s]."""
        (then, before), now = self._clocks[0], time.perf_counter()
        self._clocks.append((now, step))
        return (step - before) * self._batch_size / (now - then)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Excludes the enclosed work from the speed."""
        start = time.perf_counter()
        yield
        took = time.perf_counter() - start
        moved = [(when + took, step) for when, step in self._clocks]
        self._clocks = deque(moved, maxlen=2)
