"""Plugin of pytest that fails a run if the suite takes too much time.

Core-seconds are the processor time of a test and of the processes that it started. A
waiting test takes no processor time, so the wall time of each test has a limit too.
Tests marked `long` are left out.
"""

import os
import statistics
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import pytest

CORE_SECONDS = 36 * 60
"""Limit for all tests together, on a machine that lowers a program in
`PROGRAM_SECONDS`. A slower one has more in proportion."""
PROGRAM_SECONDS = 0.15
"""Processor time of ten programs of 100 operations, traced and lowered by JAX."""
SECONDS = 90
"""Limit for one test on that machine, with the fixtures that were made for it."""
_START = pytest.StashKey[float]()
_spent: dict[str, float] = defaultdict(float)
_taken: dict[str, float] = defaultdict(float)
_exceeded: list[str] = []


def core_seconds() -> float:
    """Returns the processor time of this process and of its finished children."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def slowness() -> float:
    """Returns the time of this machine in that of the limit's machine, from 1."""

    def program(x: jax.Array) -> jax.Array:
        for _ in range(50):
            x = jnp.sin(x) + 1.0
        return x

    times = []
    for _ in range(5):
        start = core_seconds()
        for _ in range(10):
            # A new function each time: JAX keeps programs by the function.
            jax.jit(lambda x: program(x)).lower(jnp.float32(1))
        times.append(core_seconds() - start)
    return max(1.0, statistics.median(times) / PROGRAM_SECONDS)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Starts the count of a test's processor time."""
    item.stash[_START] = core_seconds()
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: Any) -> Iterator[None]:
    """Adds the processor time to the last of a test's three reports."""
    report: Any = yield
    if call.when == "teardown":
        spent = core_seconds() - item.stash[_START]
        report.user_properties.append(("core-seconds", spent))
    return report


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Adds up a report, in the process that collects all reports."""
    if "long" in report.keywords:
        return
    _taken[report.nodeid] += report.duration
    properties: dict[str, Any] = dict(report.user_properties)
    _spent[report.nodeid] += properties.get("core-seconds", 0.0)


def over() -> list[str]:
    """Returns a line for each exceeded limit."""
    total = sum(_spent.values())
    if total <= CORE_SECONDS and max(_taken.values(), default=0) <= SECONDS:
        return []
    factor = slowness()
    limit, each = round(factor * CORE_SECONDS), round(factor * SECONDS)
    slow = [
        f"{name} took {seconds:.0f} s of the {each} that a test may take on this "
        "machine: make it smaller, or mark it long and name it in tests/README.md"
        for name, seconds in sorted(_taken.items())
        if seconds > each
    ]
    if total > limit:
        slow.append(
            f"all tests took {total:.0f} core-seconds of the {limit} that they may "
            "take on this machine: see those of each file"
        )
    return slow


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fails a run over the limits, in the process that collects all reports."""
    if hasattr(session.config, "workerinput"):
        return
    _exceeded.extend(over())
    if _exceeded:
        session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Prints the core-seconds of each file, and the exceeded limits."""
    files: dict[str, float] = defaultdict(float)
    for name, seconds in _spent.items():
        files[name.partition("::")[0]] += seconds
    total = sum(files.values())
    if total > CORE_SECONDS / 4:
        terminalreporter.section("core-seconds by file")
        for name in sorted(files, key=files.__getitem__, reverse=True):
            terminalreporter.write_line(f"{files[name]:7.1f} {name}")
        terminalreporter.write_line(f"{total:7.1f} in all")
    for line in _exceeded:
        terminalreporter.write_line(f"error: {line}", red=True)
