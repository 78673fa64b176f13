"""Log of a run: each interval's metrics, written exactly once."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from jaxdiff.errors import InputError
from jaxdiff.parallel.processes import is_first
from jaxdiff.runs import provenance
from jaxdiff.runs.folder import GRIDS, HISTORY, METRICS
from jaxdiff.runs.metrics_buffer import MetricsBuffer, summary
from jaxdiff.runs.non_finite import NonFinitePolicy
from jaxdiff.runs.sinks import SPEED, Bar, Sink, SpeedHistory, Throughput
from jaxdiff.runs.tensorboard import grid_path, open_board
from jaxdiff.storage.event_files import Events
from jaxdiff.storage.files import cannot_write, write_atomic
from jaxdiff.storage.json_lines import History, JsonLines, read
from jaxdiff.training.experiment import AnyExperiment
from jaxdiff.typing import Array


class Log:
    """Metrics of a run and its log files; a context manager.

    Every process fetches the metrics, and process 0 writes them.

    Args:
        workdir: the run folder. `metrics.jsonl` gets the computed metrics, the same
            bytes in every execution of the run; `history.jsonl` gets throughput and
            events; event files for TensorBoard get both.
        experiment: the experiment of the run.
        step: number of steps done at the start.
        record: result of `Log.record` stored with this step; empty for a new run.
        history: result of `open_history`.
        bar: a progress bar.

    Raises:
        InputError: the files cannot be written.
    """

    def __init__(
        self,
        workdir: Path,
        experiment: AnyExperiment,
        step: int,
        record: Mapping[str, Any],
        history: History | None,
        bar: Any,
    ):
        self._workdir, self._experiment, self._step = workdir, experiment, step
        self._history = history
        self._learning_rate = experiment.optimizer.schedule(
            experiment.training.num_steps
        )
        try:
            skipped = int(record.get("skipped", 0))
            self._policy = NonFinitePolicy(workdir, experiment, history, bar, skipped)
            pending = record.get("pending", {})
            self._buffer = MetricsBuffer(step, pending, self._policy)
            self._last: dict[str, float] = dict(record.get("metrics", {}))
        except (AttributeError, OverflowError, TypeError, ValueError) as error:
            raise InputError(
                f"the checkpoint of step {step} has metrics that cannot be read. "
                "Choose another."
            ) from error
        self._throughput = Throughput(step, experiment.training.batch_size)
        self._lines: JsonLines | None = None
        self._board: Events | None = None
        self._bar, self._compiled = bar, False
        self._sinks: list[Sink] = [Bar(bar)]

    def __enter__(self) -> "Log":
        if is_first():
            self._lines = JsonLines(self._workdir / METRICS, self._step)
            if self._experiment.upkeep.tensorboard:
                lines = read(self._workdir / METRICS, "step")
                speeds = events_of(self._workdir, "speed")
                self._board = open_board(self._workdir, lines, speeds, self._step)
        if self._board is not None:
            self._sinks.insert(0, self._board)
        if self._history is not None:
            self._sinks.insert(0, SpeedHistory(self._history))
        self.event("start", step=self._step, **provenance.start())
        return self

    def __exit__(self, *_: object) -> None:
        for file in (self._lines, self._board):
            if file is not None:
                file.close()

    def event(self, event: str, **values: Any) -> None:
        """Appends an event to the history."""
        if self._history is not None:
            self._history.write(event, **values)

    def compiled(self, step: int, images: str, seconds: float) -> None:
        """Records a compilation, and excludes it from the throughput.

        Args:
            step: number of steps done after the first dispatch of the program.
            images: height and width of its images.
            seconds: time of the compilation.
        """
        if self._compiled:
            self._throughput.exclude(seconds)
        else:  # the first dispatch counts in no speed
            self._compiled = True
            self._throughput.restart(step)
        self._bar.set_postfix_str("")
        self._bar.unpause()
        self.event("compile", step=step, images=images, seconds=round(seconds, 3))

    def add(self, step: int, metrics: dict[str, Array]) -> None:
        """Adds the metrics of one dispatch.

        Args:
            step: number of steps done after the dispatch.
            metrics: metrics of its steps, each [steps, ...].
        """
        self._buffer.add(metrics)
        last = step == self._experiment.training.num_steps
        if step % self._experiment.upkeep.log_every == 0 or last:
            self._settle()
            self._buffer.end_interval(step)

    def catch_up(self) -> None:
        """Fetches and checks all metrics so far; call it before a checkpoint is saved.

        Raises:
            NonFiniteError: a step had a loss or a gradient that is not finite.
        """
        self._settle()
        self._buffer.fetch()
        if self._lines is not None:
            self._lines.flush()

    def paused(self) -> AbstractContextManager[None]:
        """Excludes the enclosed work from the throughput.

        Call `catch_up` first; otherwise the time of unfinished steps is excluded too.
        """
        return self._throughput.paused()

    def grid(self, step: int, png: bytes) -> None:
        """Writes the PNG of a step's sample grid."""
        if is_first():
            path = grid_path(self._workdir, step)
            try:
                path.parent.mkdir(exist_ok=True)
            except OSError as error:
                raise cannot_write(path.parent, error) from error
            write_atomic(path, png)
        if self._board is not None:
            self._board.picture(step, GRIDS, png)

    def record(self) -> dict[str, Any]:
        """Returns the checkpoint's entries for metrics without a gap after a resume."""
        return {
            "metrics": self._last,
            "skipped": self._policy.skipped,
            "pending": self._buffer.pending(),
        }

    def _settle(self) -> None:
        """Writes the line of the interval that ended, if one did."""
        interval = self._buffer.take()
        if interval is None:
            return
        step, metrics = interval
        values = summary(metrics, self._experiment.optimizer.clip_norm)
        values["learning_rate"] = float(self._learning_rate(step - 1))
        self._last = values
        if self._lines is not None:
            self._lines.write(step, values)
        timed = {**values, SPEED: self._throughput.until(step)}
        for sink in self._sinks:
            sink.write(step, timed)


def open_history(workdir: Path) -> AbstractContextManager[History | None]:
    """Opens the history of a run in process 0, with a lock that excludes other runs.

    Raises:
        InputError: another process trains in this folder.
    """
    return History(workdir / HISTORY) if is_first() else nullcontext()


def last_start(workdir: Path) -> dict[str, Any]:
    """Returns the latest start event of a run's history; empty if there is none."""
    starts = events_of(workdir, "start")
    return starts[-1] if starts else {}


def events_of(workdir: Path, kind: str) -> list[dict[str, Any]]:
    """Returns the events of one kind in a run's history."""
    events = read(workdir / HISTORY, "event")
    return [event for event in events if event["event"] == kind]
