"""Compilations of JAX: their number by JAX's own events, and compiler options."""

import contextlib
import os

import jax

EVENT = "/jax/core/compile/backend_compile_duration"
OPTIMISED = {
    "xla_backend_optimization_level": 2,
    "xla_cpu_use_fusion_emitters": True,
}
"""Options (`compiler_options` of `jax.jit`) for the few programs that run for seconds.
The suite compiles the other programs without optimisation."""
traces: list[tuple[int, ...]] = []
"""Shape of x_t in each trace of a denoiser that `counted` wraps."""
_COUNTS = [0]


def _listen(event, *_, **__):
    _COUNTS[0] += event == EVENT


jax.monitoring.register_event_duration_secs_listener(_listen)


@contextlib.contextmanager
def compilations():
    """Yields a function that returns the number of compilations in the block."""
    start = _COUNTS[0]
    yield lambda: _COUNTS[0] - start


def counted(denoiser, x_t, level):
    """Calls the denoiser and counts the traces: Python runs only during a trace."""
    traces.append(x_t.shape)
    return denoiser(x_t, level)


def environment_of_users():
    """Returns the environment without the suite's compiler flags.

    The suite compiles without optimisation; a training of minutes needs it.
    """
    return {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "NPROC")}
