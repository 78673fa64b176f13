"""How JAX compiles: how often, by its own events, and how well."""

import contextlib

import jax

EVENT = "/jax/core/compile/backend_compile_duration"
OPTIMISED = {
    "xla_backend_optimization_level": 2,
    "xla_cpu_use_fusion_emitters": True,
}
"""`jax.jit`'s compiler_options for the few programs that run for seconds: the suite
compiles the others without optimisation."""
_COUNTS = [0]


def _listen(event, *_, **__):
    _COUNTS[0] += event == EVENT


jax.monitoring.register_event_duration_secs_listener(_listen)


@contextlib.contextmanager
def compilations():
    """A function of no arguments: how many programs were compiled in the block."""
    start = _COUNTS[0]
    yield lambda: _COUNTS[0] - start
