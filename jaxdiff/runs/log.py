"""What a run says of itself while it trains: each interval's metrics, exactly once."""

import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxdiff.errors import InputError, NonFiniteError
from jaxdiff.losses.loss import QUARTERS
from jaxdiff.parallel.processes import is_first
from jaxdiff.runs import provenance
from jaxdiff.runs.folder import GRIDS, HISTORY, METRICS, NONFINITE
from jaxdiff.runs.tensorboard import grid_path, open_board
from jaxdiff.storage.event_files import Events
from jaxdiff.storage.files import cannot_write, write_atomic, write_json_atomic
from jaxdiff.storage.json_lines import History, JsonLines, read
from jaxdiff.training.experiment import Experiment
from jaxdiff.typing import Array

Metrics = dict[str, np.ndarray]
"""Of one or more steps, each [steps, ...]."""


class Log:
    """The metrics of a run; a context manager that holds its files.

    Steps are dispatched without waiting for them: the metrics of an interval are
    fetched when the next one has been dispatched. Every process looks at them, and the
    first one writes.

    Args:
        workdir: the run folder, for `metrics.jsonl`, what the run computed, the same
            lines whenever it is run, `history.jsonl`, how that went, and both of them
            for TensorBoard.
        experiment: the run.
        step: where it starts.
        record: what `record` gave when this step was saved; empty for a new run.
        history: as `held` gave it.
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
        self._workdir, self._experiment, self._bar = workdir, experiment, bar
        self._history = history
        self._learning_rate = experiment.optimizer.schedule(
            experiment.training.num_steps
        )
        try:
            pending = {
                name: np.array(values, DTYPES.get(name, np.float32))
                for name, values in record.get("pending", {}).items()
            }
            self._skipped = int(record.get("skipped", 0))
            self._last: dict[str, float] = dict(record.get("metrics", {}))
            lengths = {len(values) for values in pending.values()}
            if pending and (not pending.keys() >= NEEDED or len(lengths) != 1):
                raise ValueError("not the metrics of steps")
        except (AttributeError, OverflowError, TypeError, ValueError) as error:
            raise InputError(
                f"the checkpoint of step {step} has metrics that cannot be read: "
                "choose another"
            ) from error
        self._interval: list[Metrics] = [pending] if pending else []
        self._dispatched: list[dict[str, Array]] = []
        self._waiting: tuple[int, list[dict[str, Array]]] | None = None
        self._fetched = step
        # At a checkpoint two intervals are fetched at once: the speed is that of both.
        self._clocks = deque([(time.perf_counter(), step)], maxlen=2)
        self._lines: JsonLines | None = None
        self._board: Events | None = None

    def __enter__(self) -> "Log":
        if is_first():
            self._lines = JsonLines(self._workdir / METRICS, self._fetched)
            if self._experiment.upkeep.tensorboard:
                lines = read(self._workdir / METRICS, "step")
                speeds = events_of(self._workdir, "speed")
                self._board = open_board(self._workdir, lines, speeds, self._fetched)
        self.event("start", step=self._fetched, **provenance.start())
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
        self._dispatched.append(metrics)
        last = step == self._experiment.training.num_steps
        if step % self._experiment.upkeep.log_every == 0 or last:
            self._settle()
            self._waiting, self._dispatched = (step, self._dispatched), []

    def catch_up(self) -> None:
        """Looks at everything so far, before it is saved.

        Raises:
            NonFiniteError: a step had a loss or a gradient that is not finite.
        """
        self._settle()
        self._fetch(self._dispatched)
        self._dispatched = []
        if self._lines is not None:
            self._lines.flush()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What is done meanwhile does not count as training in the speed.

        Call `catch_up` first: steps that the devices have yet to do would not either.
        """
        start = time.perf_counter()
        yield
        took = time.perf_counter() - start
        moved = [(when + took, step) for when, step in self._clocks]
        self._clocks = deque(moved, maxlen=2)

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
        pending: Metrics = {}
        if self._interval:
            pending = _joined(self._interval)
        return {
            "metrics": self._last,
            "skipped": self._skipped,
            "pending": {name: values.tolist() for name, values in pending.items()},
        }

    def _settle(self) -> None:
        """Writes the line of the interval that waits."""
        if self._waiting is None:
            return
        (step, metrics), self._waiting = self._waiting, None
        self._fetch(metrics)
        clip = self._experiment.optimizer.clip_norm
        values = summary(_joined(self._interval), clip)
        values["learning_rate"] = float(self._learning_rate(step - 1))
        self._interval, self._last = [], values
        if self._lines is not None:
            self._lines.write(step, values)
        (then, before), now = self._clocks[0], time.perf_counter()
        self._clocks.append((now, step))
        speed = (step - before) * self._experiment.training.batch_size / (now - then)
        self.event("speed", step=step, time=provenance.now(), images_per_s=speed)
        if self._board is not None:
            self._board.scalars(step, {**values, "images_per_s": speed})
        loss = f"loss {values['loss']:.4f}, " if "loss" in values else ""
        self._bar.set_postfix_str(f"{loss}{speed:.0f} images/s")
        self._bar.update(step - self._bar.n)

    def _fetch(self, metrics: list[dict[str, Array]]) -> None:
        """Takes the metrics of the next steps from the devices, and looks at them."""
        if not metrics:
            return
        found = _joined(jax.device_get(metrics))
        self._interval.append(found)
        for place in np.flatnonzero(~found["finite"]):
            self._not_finite(self._fetched + 1 + int(place), found, int(place))
        self._fetched += len(found["finite"])

    def _not_finite(self, step: int, found: Metrics, place: int) -> None:
        """A step's loss or gradient is not finite: goes on, or says why not."""
        training = self._experiment.training
        loss, norm = (float(found[name][place]) for name in ("loss", "grad_norm"))
        what = f"the loss of step {step} is {loss:g}, the gradient's norm {norm:g}"
        self.event("nonfinite", step=step, loss=str(loss), grad_norm=str(norm))
        if training.nonfinite == "go-on":
            self._bar.write(f"warning: {what}: training goes on with it")
            return
        if training.nonfinite == "skip":
            self._skipped += 1
            count = f"{self._skipped} of at most {training.max_skips}"
            if self._skipped <= training.max_skips:
                self._bar.write(f"warning: {what}: the step is left out ({count})")
                return
            what += f", and {training.max_skips} steps were left out before"
        path = self._workdir / NONFINITE
        if is_first():
            write_json_atomic(
                path,
                {
                    "step": step,
                    "seed": self._experiment.seed,
                    "loss": str(loss),
                    "grad_norm": str(norm),
                    "replay": f"replay --workdir {self._workdir} --step {step}",
                },
            )
        raise NonFiniteError(
            f"{what}: training stops, with the checkpoints before it; look at the step "
            f"by the command replay --workdir {self._workdir} --step {step} (as in "
            f"'{path.name}'), go on with --training.nonfinite skip, or start anew with "
            "a lower --optimizer.learning-rate",
            step,
        )


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


DTYPES = {"finite": np.bool_}
"""Of the metrics that are not float32."""
NEEDED = {"finite", "loss", "grad_norm", "loss_by_quarter", "share_by_quarter"}
"""The metrics that every step has."""


def summary(metrics: Metrics, clip_norm: float) -> dict[str, float]:
    """One line of metrics: means over the steps, without those that are not finite.

    Args:
        metrics: of the steps, each [steps, ...].
        clip_norm: above which norm a gradient is clipped.

    Returns:
        The means; of the loss also that of each quarter of the time range, `loss_q1` to
        `loss_q4`, where there was any example; `grad_norm_max`; `clipped`, the share of
        steps whose gradient was clipped; and `nonfinite`, the number of steps that are
        left out here, where there are any.
    """
    finite = metrics["finite"]
    kept = {name: a[finite] for name, a in metrics.items() if name != "finite"}
    values: dict[str, float] = {}
    if finite.any():
        norms = kept["grad_norm"]
        means: dict[str, Any] = {name: a.mean(axis=0) for name, a in kept.items()}
        part, share = means.pop("loss_by_quarter"), means.pop("share_by_quarter")
        for q in range(QUARTERS):
            if share[q]:
                means[f"loss_q{q + 1}"] = part[q] / share[q]
        means["grad_norm_max"] = norms.max()
        means["clipped"] = (norms > clip_norm).mean()
        values = {n: float(v) for n, v in means.items() if np.isfinite(v)}
    if not finite.all():
        values["nonfinite"] = int((~finite).sum())
    return values


def _joined(parts: list[Metrics]) -> Metrics:
    """The metrics of several dispatches as one."""
    return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
