"""Plugin of pytest that fails a run if the suite takes too much time.

Core-seconds are the processor time of a test and of the processes that it started. A
waiting test takes no processor time, so the wall time of each test has a limit too.
Tests marked `long` are left out.
"""

import os
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pytest

CORE_SECONDS = 40 * 60
"""Limit for all tests together."""
SECONDS = 90
"""Limit for one test, with the fixtures that were made for the test."""
_START = pytest.StashKey[float]()
_spent: dict[str, float] = defaultdict(float)
_taken: dict[str, float] = defaultdict(float)


def core_seconds() -> float:
    """Returns the processor time of this process and of its finished children."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


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
    slow = [
        f"{name} took {seconds:.0f} s of the {SECONDS} that a test may take: make it "
        "smaller, or mark it long and name it in tests/README.md"
        for name, seconds in sorted(_taken.items())
        if seconds > SECONDS
    ]
    total = sum(_spent.values())
    if total > CORE_SECONDS:
        slow.append(
            f"all tests took {total:.0f} core-seconds of the {CORE_SECONDS} that they "
            "may take: see those of each file"
        )
    return slow


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fails a run over the limits, in the process that collects all reports."""
    if not hasattr(session.config, "workerinput") and over():
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
        terminalreporter.write_line(f"{total:7.1f} of {CORE_SECONDS}")
    for line in over():
        terminalreporter.write_line(f"error: {line}", red=True)
