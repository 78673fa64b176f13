"""The speed against another program, in turns."""

import contextlib
import json
import math
import os
import shlex
import statistics
from typing import Any

import jaxdiff as jd
from experiments.benchmark.networks import AnyCase, Options, case_of, cases_of
from experiments.benchmark.programs import Program, make, programs_of
from experiments.benchmark.rows import Row, Tell, output_of, progress, ratio


def against_peer(options: Options, tell: Tell) -> None:
    """Measures the other program and this one with the same batch, in turns."""
    # The other program needs memory of the device, too.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    made: dict[Any, tuple[AnyCase, Program]] = {}
    theirs: dict[Any, list[float]] = {}
    ours: dict[Any, list[float]] = {}
    with progress(options.pairs) as tick:
        for _ in range(options.pairs):
            measured: dict[Any, float] = {}
            for row, rate in peer_rows(options).items():
                network, _, dtype, what, batch = row
                key = (network, dtype, what, batch)
                if key not in made:
                    case = case_of(options, network, dtype, batch=batch)
                    made[key] = case, make(case, what, options.steps)
                    made[key][1].warm_up()
                case, program = made[key]
                if key not in measured:
                    calls = [program.seconds() for _ in range(options.rounds)]
                    measured[key] = statistics.median(calls) / case.batch
                theirs.setdefault(row, []).append(1 / rate)
                ours.setdefault(row, []).append(measured[key])
            tick()
    for row, own in ours.items():
        network, mode, dtype, what, batch = row
        case, _ = made[network, dtype, what, batch]
        speed, other = (1 / statistics.median(x) for x in (own, theirs[row]))
        tell(
            case.row(
                what, peer_mode=mode, images_per_s=speed, peer_images_per_s=other,
                **ratio(own, theirs[row], "the peer"), pairs=len(own),
            )
        )  # fmt: skip


def peer_rows(options: Options) -> dict[tuple[Any, ...], float]:
    """Returns the images per second that another program prints.

    Returns:
        Rates by (network, mode, dtype, what, batch), only for the requested networks,
        types and programs.

    Raises:
        InputError: the program fails, or prints no such line.
    """
    try:
        line = shlex.split(options.peer)
    except ValueError as error:
        raise jd.InputError(f"--peer cannot be read: {error}") from error
    if not line:
        raise jd.InputError("--peer must be a command, got none")
    seen: list[Row] = []
    for text in output_of(line).splitlines():
        with contextlib.suppress(ValueError):
            row = json.loads(text)
            if isinstance(row, dict) and "images_per_s" in row:
                seen.append(row)
    found = {}
    for row in seen:
        network = row.get("config", options.networks[0])
        dtype = row.get("dtype", options.dtypes[0])
        what = row.get("what", programs_of(options)[0])
        rate, batch = row["images_per_s"], row.get("batch")
        if not (isinstance(rate, int | float) and 0 < rate < math.inf):
            raise jd.InputError(
                f"the peer's images_per_s must be above 0, got {rate!r}"
            )
        if batch is not None and not (type(batch) is int and batch > 0):
            raise jd.InputError(f"the peer's batch must be at least 1, got {batch!r}")
        if (network, dtype) in cases_of(options) and what in programs_of(
            options, network
        ):
            found[network, str(row.get("mode", "")), dtype, what, batch] = float(rate)
    if not found:
        reason = "none of the requested rows" if seen else "none"
        raise jd.InputError(
            f"the peer must print JSON lines with images_per_s, got {reason}"
        )
    return found
