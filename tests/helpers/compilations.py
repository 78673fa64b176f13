"""How often JAX compiles, by its own events."""

import contextlib

import jax

EVENT = "/jax/core/compile/backend_compile_duration"
_COUNTS = [0]


def _listen(event, *_, **__):
    _COUNTS[0] += event == EVENT


jax.monitoring.register_event_duration_secs_listener(_listen)


@contextlib.contextmanager
def compilations():
    """A function of no arguments: how many programs were compiled in the block."""
    start = _COUNTS[0]
    yield lambda: _COUNTS[0] - start
