"""What a run says of itself while it trains: each interval's metrics, exactly once."""

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
from jaxdiff.training.experiment import Experiment
from jaxdiff.typing import Array


class Log:
    """The metrics of a run; a context manager that holds its files.

    Every process looks at the metrics, and the first one writes.

    Args:
        workdir: the run folder, for `metrics.jsonl`, what the run computed, the same
            lines whenever it is run, `history.jsonl`, how that went, and both of them
            for TensorBoard.
        experiment: the run.
        step: where it starts.
        record: what `record` gave when this step was saved; empty for a new run.
        history: as `open_history` gave it.
        bar: a progress bar.

    Raises:
        InputError: the files cannot be written.
    """

    def __init__(
        self,
        workdir: Path,
        experiment: Experiment,
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
                f"the checkpoint of step {step} has metrics that cannot be read: "
                "choose another"
            ) from error
        self._throughput = Throughput(step, experiment.training.batch_size)
        self._lines: JsonLines | None = None
        self._board: Events | None = None
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
        """Notes an event in the history."""
        if self._history is not None:
            self._history.write(event, **values)

    def add(self, step: int, metrics: dict[str, Array]) -> None:
        """Takes what a dispatch gave, whose last step this is."""
        self._buffer.add(metrics)
        last = step == self._experiment.training.num_steps
        if step % self._experiment.upkeep.log_every == 0 or last:
            self._settle()
            self._buffer.end_interval(step)

    def catch_up(self) -> None:
        """Looks at everything so far, before it is saved.

        Raises:
            NonFiniteError: a step had a loss or a gradient that is not finite.
        """
        self._settle()
        self._buffer.fetch()
        if self._lines is not None:
            self._lines.flush()

    def paused(self) -> AbstractContextManager[None]:
        """Excludes the enclosed work from the throughput.

        Call `catch_up` first: steps that the devices have yet to do would not count
        either.
        """
        return self._throughput.paused()

    def grid(self, step: int, png: bytes) -> None:
        """Keeps the picture of a step's samples."""
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
        """What a checkpoint must hold for the metrics to go on without a gap."""
        return {
            "metrics": self._last,
            "skipped": self._policy.skipped,
            "pending": self._buffer.pending(),
        }

    def _settle(self) -> None:
        """Writes the line of the interval that waits."""
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
    """The history of a run, in the process that writes it: no other run may.

    Raises:
        InputError: another process trains in this folder.
    """
    return History(workdir / HISTORY) if is_first() else nullcontext()


def last_start(workdir: Path) -> dict[str, Any]:
    """How a run was last started, by its history; empty where that does not tell."""
    starts = events_of(workdir, "start")
    return starts[-1] if starts else {}


def events_of(workdir: Path, kind: str) -> list[dict[str, Any]]:
    """The events of a kind in a run's history."""
    events = read(workdir / HISTORY, "event")
    return [event for event in events if event["event"] == kind]
