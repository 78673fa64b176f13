"""Ctrl-C, noticed between two steps."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def between_steps() -> Iterator[Callable[[], None]]:
    """Holds Ctrl-C back until it is asked for; a second one stops at once.

    Python raises KeyboardInterrupt wherever the program is, which can be a callback of
    JAX's that drops it. Where SIGINT is ignored, or outside the main thread, all stays
    as it is.

    Yields:
        A function that raises KeyboardInterrupt if Ctrl-C was pressed.
    """
    pressed = False

    def press(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        if pressed:
            signal.default_int_handler(number, frame)
        pressed = True

    def check() -> None:
        if pressed:
            raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT)
    main = threading.current_thread() is threading.main_thread()
    if not main or before is signal.SIG_IGN:
        yield check
        return
    signal.signal(signal.SIGINT, press)
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, before)
