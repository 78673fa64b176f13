"""Ctrl-C during imports, which Python may lose or report with a long traceback.

A KeyboardInterrupt inside an import is lost if a callback is running, and a module may
remain half imported. If the program is a command line, this module therefore ends it at
a Ctrl-C until `imported` is called. The package imports this module first.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

CODE = 128 + signal.SIGINT
"""Exit code of a program that Ctrl-C stopped."""


def imported() -> None:
    """Restores Python's handling of Ctrl-C; `main` handles the KeyboardInterrupt."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Defers the KeyboardInterrupt of a Ctrl-C to the end of the enclosed imports."""
    if not _is_usual():
        yield
        return
    pressed: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: pressed.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if pressed:
            raise KeyboardInterrupt


def _is_usual() -> bool:
    """Returns True in the main thread if Ctrl-C raises a KeyboardInterrupt."""
    return (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )


def _end(number: int, frame: FrameType | None) -> NoReturn:
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stderr.write("stopped during the imports\n")
        sys.stderr.flush()
    os._exit(CODE)


def _starts_a_command_line() -> bool:
    """Returns True if the main program is now importing `jaxdiff.cli`."""
    names, frame = [], sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__") != "__main__":
        if frame.f_code.co_name == "_find_and_load":  # of importlib
            names.append(str(frame.f_locals.get("name")))
        frame = frame.f_back
    # Each import in `names` caused the one before it. A parent package is imported
    # first: jaxdiff.interrupts, jaxdiff, jaxdiff.cli, jaxdiff.cli.program.
    ours = all(name.startswith("jaxdiff") for name in names)
    return ours and any(name.startswith("jaxdiff.cli") for name in names)


if _is_usual() and not hasattr(sys, "ps1") and _starts_a_command_line():
    signal.signal(signal.SIGINT, _end)
