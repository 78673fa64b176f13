"""Compilations of JAX: their number by JAX's own events, and compiler options."""

import contextlib

import jax

EVENT = "/jax/core/compile/backend_compile_duration"
OPTIMISED = {
    "xla_backend_optimization_level": 2,
    "xla_cpu_use_fusion_emitters": True,
}
"""Options (`compiler_options` of `jax.jit`) for the few programs that run for seconds.
The suite compiles the other programs without optimisation."""
_COUNTS = [0]


def _listen(event, *_, **__):
    _COUNTS[0] += event == EVENT


jax.monitoring.register_event_duration_secs_listener(_listen)


@contextlib.contextmanager
def compilations():
    """Yields a function that returns the number of compilations in the block."""
    start = _COUNTS[0]
    yield lambda: _COUNTS[0] - start
