"""Rows of results: numbers, text, and the machine they were measured on."""

import abc
import contextlib
import functools
import importlib.util
import itertools
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

import jaxdiff as jd
from jaxdiff.cli.progress import bar
from jaxdiff.parallel import processor
from jaxdiff.runs import provenance

Row = dict[str, Any]
Tell = Callable[[Row], None]
NOT_SHOWN = ("on", "gflop_per_image", "temp_mb", "saved_every", "pairs")
"""Entries of a JSON line that are not in the table."""
SETS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "sve", "bf16")
"""Instructions on which the speed of products depends."""
VERSIONS = ("python", "jax", "jaxlib", "flax")


class Measured(abc.ABC):
    """Base of the networks that rows are about.

    Attributes:
        network: name of the network.
        dtype: number type of the computation.
    """

    network: str
    dtype: str

    @property
    @abc.abstractmethod
    def batch(self) -> int:
        """Number of images per step."""

    def row(self, what: str, **more: Any) -> Row:
        """Returns a row: the entries of this network, and `more`."""
        head = {"what": what, "network": self.network, "dtype": self.dtype}
        return {**head, "batch": self.batch, **more}


def middle(values: Sequence[float], name: str) -> Row:
    """Returns the median under this name, and the quartiles."""
    low, median, high = np.quantile(values, (0.25, 0.5, 0.75)).tolist()
    return {name: median, "low": low, "high": high}


def ratio(own: Sequence[float], other: Sequence[float], other_is: str) -> Row:
    """Returns the speed relative to the other, from the seconds of both in pairs."""
    pairs = [b / a for a, b in zip(own, other, strict=True)]
    return {**middle(pairs, "ratio"), "ratio_to": other_is}


@functools.cache
def here() -> Row:
    """Returns the machine, its devices, the versions and the code."""
    start = provenance.start()
    kept = ("time", "machine", "devices", "versions", "code")
    own = {
        "cores": os.cpu_count(),
        "processor": name_of_processor(),
        "sets": instructions(),
    }
    return {**own, **{name: start[name] for name in kept}}


def name_of_processor() -> str:
    """Returns the name of the processor; that of its family where there is none."""
    found = processor.entry("model name") or processor.entry("CPU part")
    return found or platform.machine()


def instructions() -> list[str]:
    """Returns the names in `SETS` of the instructions that the processor has."""
    known = processor.instructions()
    return [name for name in SETS if name in known]


def table(rows: Sequence[Row]) -> str:
    """Returns the rows as a text table, with every column that any row has."""
    columns = _columns(rows)
    lines = [
        columns, *[[_cell(row.get(name, "-")) for name in columns] for row in rows]
    ]  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.rjust, line, widths)) for line in lines)


def markdown(rows: Sequence[Row]) -> str:
    """Returns the rows as a table in Markdown, under a line on machine and versions."""
    columns = _columns(rows)
    lines = [[_cell(row.get(name, "")) for name in columns] for row in rows]
    lines = [columns, ["---"] * len(columns), *lines]
    on = here()
    devices, versions = on["devices"], on["versions"]
    machine = f"{on['cores']} cores of {on['processor']}"
    if on["sets"]:
        machine += f" ({', '.join(on['sets'])})"
    if devices["backend"] != "cpu":
        machine = f"{devices['kind']}, {machine}"
    known = ", ".join(
        f"{name} {versions[name]}" for name in VERSIONS if name in versions
    )
    count = devices["count"]
    many = "device" if count == 1 else "devices"
    head = f"{machine}; {count} {many}; {known}; {on['time'][:10]}"
    return "\n".join([head, "", *(f"| {' | '.join(line)} |" for line in lines)])


def _columns(rows: Sequence[Row]) -> list[str]:
    names = dict.fromkeys(name for row in rows for name in row)
    return [name for name in names if name not in NOT_SHOWN]


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def say(text: str) -> None:
    """Prints a line of progress on stderr, apart from the results."""
    print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def progress(total: int) -> Iterator[Callable[[], None]]:
    """Shows the number of measurements done: a bar, or lines if tqdm is missing."""
    done = itertools.count(1)
    if importlib.util.find_spec("tqdm"):
        with bar(total, "benchmark", "measurement") as show:
            yield lambda: show(next(done))
    else:
        yield lambda: say(f"{next(done)} of {total} measurements")


def output_of(line: Sequence[str], env: dict[str, str] | None = None) -> str:
    """Runs a program and returns its output.

    Raises:
        InputError: the program cannot be started, or fails.
    """
    try:
        done = subprocess.run(
            line, capture_output=True, text=True, env=env, check=False
        )
    except (OSError, ValueError) as error:
        raise jd.InputError(f"cannot run {line[0]!r}: {error}") from error
    if done.returncode:
        last = (done.stderr.strip() or "no message").splitlines()[-1]
        raise jd.InputError(f"{line[0]!r} ended with code {done.returncode}: {last}")
    return done.stdout
