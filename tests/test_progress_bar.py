"""Progress: a bar in a terminal, few lines in a pipe, nothing if quiet."""

import re
import sys
from typing import Any

import pytest

from jaxdiff import progress_bar
from jaxdiff.runs.forecast import Forecast
from jaxdiff.streams import tolerant


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("time.monotonic", clock)
    return clock


def run(clock: Clock, seconds: float, steps: int = 600) -> None:
    with progress_bar.bar(steps, "fit", "step") as shown:
        for _ in range(steps):
            clock.now += seconds
            shown.update()


@pytest.mark.parametrize(
    ("seconds", "lines"), [(0.001, 1), (0.05, 3), (1, 35), (144, 160)]
)
def test_a_pipe_gets_few_lines(clock, capsys, seconds, lines):
    """600 steps of a millisecond to a day in all."""
    run(clock, seconds)
    err = capsys.readouterr().err
    assert "\r" not in err
    assert err.count("\n") <= lines
    assert max(map(len, err.splitlines())) < 88
    assert err.splitlines()[-1].startswith("fit: 600/600 [")


def test_a_line_says_how_long_it_takes(clock, capsys):
    with progress_bar.bar(100, "train", "step", initial=50) as shown:
        shown.set_postfix_str("loss 0.5")
        clock.now += 20
        shown.update(10)
    line = "train: 60/100 [00:20<01:20,  2.00s/step, loss 0.5]\n"
    assert capsys.readouterr().err == line


def test_a_compilation_is_not_in_the_rate(clock, capsys):
    with progress_bar.bar(100, "train", "step") as shown:
        clock.now += 60  # compiles
        shown.unpause()
        clock.now += 20
        shown.update(10)
    assert capsys.readouterr().err == "train: 10/100 [01:20<03:00,  2.00s/step]\n"


def test_a_terminal_gets_a_bar(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with progress_bar.bar(10, "fit", "step") as shown:
        shown.update(10)
    assert "\rfit: 100%|" in capsys.readouterr().err


def test_a_message_clears_the_bar(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with progress_bar.bar(10, "fit", "step") as shown:
        shown.write("a message", file=tolerant(sys.stderr))
    assert re.search(r"\r +\ra message\n", capsys.readouterr().err)


def test_quiet_shows_nothing(clock, capsys):
    with progress_bar.quiet():
        assert not progress_bar.is_shown()
        run(clock, 1)
    assert progress_bar.is_shown()
    assert capsys.readouterr().err == ""


def test_the_forecast_leaves_the_compilation_out(clock):
    said: list[str] = []
    forecast = Forecast(1000, said.append)
    clock.now += 60  # compiles
    forecast.add(1, {})
    for step in range(2, 100):
        clock.now += 0.5
        forecast.add(step, {})
    (line,) = said
    assert line.startswith("a step takes 500 ms; step 1,000 will be done in 8 min, at")


def test_the_forecast_leaves_later_compilations_out(clock):
    said: list[str] = []
    forecast = Forecast(1000, said.append)
    for step in range(1, 100):
        if step in (1, 4, 7):  # the first batch of another shape
            clock.now += 60
            forecast.exclude(60)
        clock.now += 0.5
        forecast.add(step, {})
    (line,) = said
    assert line.startswith("a step takes 500 ms; step 1,000 will be done in 8 min, at")


def test_the_forecast_follows_the_machine(clock):
    said: list[str] = []
    forecast = Forecast(2000, said.append)
    forecast.add(1, {})
    for step in range(2, 1000):
        clock.now += 0.5 if step < 20 else 2.0  # another program starts
        forecast.add(step, {})
    assert [line.partition(", at")[0] for line in said] == [
        "a step takes 500 ms; step 2,000 will be done in 17 min",
        "a step now takes 1.1 s; step 2,000 will be done in 38 min",
        "a step now takes 2.0 s; step 2,000 will be done in 1.1 h",
    ]
    said.clear()
    forecast = Forecast(2000, said.append)
    for step in range(1, 2000):
        clock.now += 0.5
        forecast.add(step, {})
    assert len(said) == 1  # the end has not moved


def test_a_forecast_of_nothing_is_none(clock):
    said: list[Any] = []
    forecast = Forecast(3, said.append)
    for step in (1, 2, 3):
        clock.now += 0.1
        forecast.add(step, {})
    assert said == []
