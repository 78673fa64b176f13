"""Saver and buffer of metrics: the saved steps, and the metrics on the devices."""

import dataclasses
import types
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.runs import saver
from jaxdiff.runs.metrics_buffer import MetricsBuffer
from jaxdiff.runs.saver import Saver
from jaxdiff.training.experiment import DataInfo, Experiment, Training, Upkeep
from jaxdiff.training.state import TrainState


class Saves:
    """Stand-in for `Checkpoints` that lists its calls in order."""

    def __init__(self, name, calls):
        self.name, self.calls = name, calls

    def save(self, step, state, record=None):
        self.calls.append((self.name, step, state, record))

    def wait(self):
        self.calls.append((self.name, "waits"))


@pytest.fixture
def saved(monkeypatch):
    """Function that runs a saver at each step; returns its calls and the due steps."""

    def saved(upkeep, end, last_snapshot=0, stop_at=None, minutes=0.0):
        clock = types.SimpleNamespace(now=0.0)
        clock.monotonic = lambda: clock.now
        monkeypatch.setattr(saver, "time", clock)
        training = Training(num_steps=12, batch_size=8, ema_lengths=(0.1, 0.2))
        experiment = Experiment(training=training, upkeep=upkeep)
        calls: list[Any] = []
        due = []
        checkpoints: Any = Saves("checkpoint", calls)
        snapshots: Any = Saves("snapshot", calls)
        info = DataInfo((8, 8, 1), None, None)
        one = Saver(experiment, info, checkpoints, snapshots, last_snapshot, end)
        nothing: Any = ()
        tracks: Any = "averages"
        state = TrainState(nothing, nothing, nothing, nothing, tracks=tracks)
        for step in range(1, end + 1):
            clock.now += 60 * minutes
            if one.due(step, stop=step == stop_at):
                due.append(step)
                one.save(step, state, {"metrics": step})
        return calls, due

    return saved


def steps_of(calls, name):
    return [call[1] for call in calls if call[0] == name and call[1] != "waits"]


FEW = Upkeep(log_every=2, checkpoint_every=5, snapshots=3)


def test_checkpoints_and_snapshots_are_due_each_in_their_steps(saved):
    calls, due = saved(FEW, end=12)
    assert steps_of(calls, "checkpoint") == [5, 10, 12]
    assert steps_of(calls, "snapshot") == [4, 8, 12]
    assert due == [4, 5, 8, 10, 12]
    *_, snapshot, waits, (name, step, state, record) = calls
    assert snapshot == ("snapshot", 12, "averages", None)
    assert waits == ("snapshot", "waits")
    assert (name, step, state.tracks) == ("checkpoint", 12, "averages")
    assert record["metrics"] == 12
    assert record["configuration"]["training"]["batch_size"] == 8


def test_a_snapshot_that_is_there_is_not_written_again(saved):
    calls, due = saved(FEW, end=9, last_snapshot=4)
    assert steps_of(calls, "snapshot") == [8]
    assert due == [5, 8, 9]


def test_a_stop_saves_a_checkpoint(saved):
    calls, _ = saved(FEW, end=12, stop_at=7)
    assert steps_of(calls, "checkpoint") == [5, 7, 10, 12]


def test_the_clock_counts_from_the_last_checkpoint(saved):
    """The clock is read only if a line is due: at every second step."""
    upkeep = dataclasses.replace(FEW, checkpoint_minutes=3)
    calls, _ = saved(upkeep, end=12, minutes=1.0)
    assert steps_of(calls, "checkpoint") == [4, 5, 8, 10, 12]


def dispatch(*losses):
    values = jnp.array(losses, jnp.float32)
    quarters = jnp.zeros((len(losses), 4))
    return {
        "loss": values, "grad_norm": values, "finite": jnp.isfinite(values),
        "loss_by_quarter": quarters, "share_by_quarter": quarters,
    }  # fmt: skip


def test_metrics_wait_for_the_next_interval():
    found = []
    buffer = MetricsBuffer(10, {}, lambda *what: found.append(what))
    assert buffer.take() is None
    buffer.add(dispatch(1, np.inf))
    buffer.add(dispatch(3))
    buffer.end_interval(13)
    buffer.add(dispatch(np.inf, 5))
    assert buffer.pending() == {}
    assert not found
    interval = buffer.take()
    assert interval is not None
    assert interval[0] == 13
    assert interval[1]["loss"].tolist() == [1, np.inf, 3]
    assert found == [(12, np.inf, np.inf)]
    assert buffer.take() is None
    buffer.fetch()
    assert found[1:] == [(14, np.inf, np.inf)]
    assert buffer.pending()["loss"] == [np.inf, 5]


def test_a_checkpoints_metrics_go_into_the_next_line():
    first = MetricsBuffer(0, {}, lambda *what: None)
    first.add(dispatch(1, 2))
    first.fetch()
    second = MetricsBuffer(2, first.pending(), lambda *what: None)
    second.add(dispatch(3))
    second.end_interval(3)
    interval = second.take()
    assert interval is not None
    assert interval[1]["loss"].tolist() == [1, 2, 3]
    assert interval[1]["loss"].dtype == np.float32
    assert interval[1]["finite"].dtype == np.bool_
