"""Time from the start of a process to its first step, most of it compilation."""

import json
import os
import resource
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.monitoring

from experiments.benchmark.networks import Options, case_of, cases_of
from experiments.benchmark.programs import make, programs_of
from experiments.benchmark.rows import Row, Tell, output_of, progress


def first_call(options: Options) -> Row:
    """Compiles and calls one program in a process that has just started."""
    network, dtype = cases_of(options)[0]
    case, what = case_of(options, network, dtype), programs_of(options, network)[0]
    program, compiled = make(case, what, options.steps), [0.0]

    def listen(event: str, duration_secs: float, **_: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(duration_secs)

    jax.monitoring.register_event_duration_secs_listener(listen)
    total, seconds = program.seconds(), sum(compiled)
    runs = program.seconds()
    traces = max(0.0, total - seconds - runs)
    return case.row(
        what, total_s=total, trace_and_lower_s=traces, compile_s=seconds, run_s=runs,
        peak_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
    )  # fmt: skip


def compiling(options: Options, tell: Tell) -> None:
    """Measures the time to a first step, with an empty and a full persistent cache."""
    keys = [
        (case, what)
        for case in cases_of(options)
        for what in programs_of(options, case[0])
    ]
    given = {"--batch": options.batch, "--devices": options.devices}
    with progress(2 * len(keys)) as tick:
        for (network, dtype), what in keys:
            line = [sys.executable, str(Path(__file__).parent), "--first-call"]
            line += ["--networks", network, "--dtypes", dtype, "--what", what]
            line += ["--steps", str(options.steps)]
            line += [str(x) for pair in given.items() if pair[1] for x in pair]
            with tempfile.TemporaryDirectory() as folder:
                env = {
                    **os.environ, "JAX_COMPILATION_CACHE_DIR": folder,
                    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
                    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
                }  # fmt: skip
                for cache in ("empty", "full"):
                    printed = output_of(line, env).splitlines()
                    tell({**json.loads(printed[-1]), "cache": cache})
                    tick()
