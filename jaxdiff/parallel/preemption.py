"""Signals that end a training, handled between two steps.

SIGINT is Ctrl-C. SIGTERM and SIGUSR1 announce a preemption: SIGTERM by most cluster
managers, SIGUSR1 by Slurm (`--signal=USR1@60`). SIGHUP is a closed terminal.
"""

import _thread
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

import jax

SIGNALS = tuple(
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
    if hasattr(signal, name)  # Windows has only the first two
)
TOLD = "finishing the step, then saving; press Ctrl-C to stop at once\n"


class Terminated(SystemExit):
    """Exit after a signal, with the state saved; the exit code is 128 + its number.

    Args:
        message: text for the user.
        number: number of the signal, for example 15 (SIGTERM) for the code 143.
    """

    def __init__(self, message: str, number: int = signal.SIGTERM):
        super().__init__(128 + number)
        self.code: int = 128 + number
        self.message = message

    def __str__(self) -> str:
        return self.message


class Asked:
    """Request to stop the run, set by a signal."""

    def __init__(self) -> None:
        self.number = 0

    def __call__(self, step: int) -> bool:
        """Returns True if the run must save and stop after this step.

        All processes agree. Each process must call this at every step.
        """
        if jax.process_count() == 1:
            return bool(self.number)
        from jax.experimental import multihost_utils

        agreed = multihost_utils.reached_preemption_sync_point(step)
        if agreed and not self.number:  # received by JAX, or by another process
            self.number = signal.SIGTERM
        return agreed

    def stop(self, step: int) -> NoReturn:
        """Raises the exception that ends the run; this step's state is saved."""
        name = signal.Signals(self.number).name
        message = f"stopped by {name}; step {step} is saved"
        if self.number == signal.SIGINT:
            raise KeyboardInterrupt(message)
        raise Terminated(message, self.number)


@contextmanager
def stop_between_steps() -> Iterator[Asked]:
    """Defers signals to the end of a step; a second Ctrl-C ends the process.

    Python runs its handlers between two of its own instructions, so never during a
    compilation of a minute. A thread therefore receives the signals at once and prints
    a message. At a Ctrl-C after the first signal, the thread ends the process with code
    130. In a notebook or an interactive interpreter, whose variables would be lost, it
    raises a KeyboardInterrupt instead.

    Ignored signals stay ignored. Outside the main thread, nothing changes.
    """
    asked = Asked()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    interactive = hasattr(sys, "ps1")  # IPython and notebooks set it as well
    at_once = threading.Event()
    heard, ring = os.pipe()
    if sys.platform != "win32":  # Windows needs a blocking pipe
        os.set_blocking(ring, False)

    def listen() -> None:
        stopping = False
        while number := os.read(heard, 1)[0]:
            if stopping and number == signal.SIGINT:
                if not interactive:
                    os._exit(128 + number)
                if not at_once.is_set():
                    at_once.set()
                    _thread.interrupt_main()  # two signals may reach `handler` as one
            if stopping or number not in SIGNALS:
                continue
            stopping = True
            asked.number = asked.number or number
            with contextlib.suppress(OSError, ValueError):  # the terminal is closed
                sys.stderr.write("\n" + TOLD)
                sys.stderr.flush()
            if jax.process_count() > 1:  # JAX passes SIGTERM on to all processes
                os.kill(os.getpid(), signal.SIGTERM)

    def handler(number: int, frame: FrameType | None) -> None:
        asked.number = asked.number or number
        if at_once.is_set():
            raise KeyboardInterrupt("stopped at once; the newest checkpoint remains")

    # With several processes, JAX itself handles SIGTERM.
    jax_handles = {signal.SIGTERM} if jax.process_count() > 1 else set()
    mine = [number for number in SIGNALS if number not in jax_handles]
    before = {
        number: signal.signal(number, handler)
        for number in mine
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    listener = threading.Thread(target=listen, name="signals", daemon=True)
    listener.start()
    waker = signal.set_wakeup_fd(ring, warn_on_full_buffer=False)
    try:
        yield asked
    finally:
        signal.set_wakeup_fd(waker)
        for number, old in before.items():
            signal.signal(number, old)
        os.write(ring, b"\0")
        listener.join()
        os.close(heard)
        os.close(ring)
