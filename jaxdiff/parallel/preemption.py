"""Ctrl-C and SIGTERM (a pre-emption), noticed between two steps."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

import jax

SIGNALS = (signal.SIGINT, signal.SIGTERM)
TOLD = "finishing the step, then saving; press Ctrl-C to stop at once instead\n"


class Terminated(SystemExit):
    """SIGTERM stopped the training; the state is saved. It exits with code 143."""

    def __init__(self, message: str):
        super().__init__(128 + signal.SIGTERM)
        self.message = message

    def __str__(self) -> str:
        return self.message


class Asked:
    """Whether a signal asked the run to stop."""

    def __init__(self) -> None:
        self.number = 0

    def __call__(self, step: int) -> bool:
        """Whether to save and stop after this step; of several processes all agree.

        Each must ask at every step.
        """
        if jax.process_count() == 1:
            return bool(self.number)
        from jax.experimental import multihost_utils

        agreed = multihost_utils.reached_preemption_sync_point(step)
        if agreed and not self.number:  # JAX has SIGTERM's handler, or another process
            self.number = signal.SIGTERM
        return agreed

    def stop(self, step: int) -> NoReturn:
        """Raises what ends the run, whose state after this step is saved."""
        name = signal.Signals(self.number).name
        message = f"stopped by {name}; step {step} is saved"
        if self.number == signal.SIGINT:
            raise KeyboardInterrupt(message)
        raise Terminated(message)


@contextmanager
def stop_between_steps() -> Iterator[Asked]:
    """Holds signals back until they are asked for; a second Ctrl-C ends the process.

    Python runs its handlers between two of its own instructions: in the minute that a
    compilation takes, never. So a thread hears the signals as they come, says what
    happens now, and at the second Ctrl-C ends the process with code 130, at once.

    Where a signal is ignored, and outside the main thread, all stays as it is.
    """
    asked = Asked()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    heard, ring = os.pipe()
    if sys.platform != "win32":  # which takes a pipe that blocks
        os.set_blocking(ring, False)

    def listen() -> None:
        told = False
        while number := os.read(heard, 1)[0]:
            if told and number == signal.SIGINT:
                os._exit(128 + number)
            if told or number not in SIGNALS:
                continue
            told = True
            asked.number = asked.number or number
            sys.stderr.write("\n" + TOLD)
            sys.stderr.flush()
            if jax.process_count() > 1:  # JAX hears it, and tells the other processes
                os.kill(os.getpid(), signal.SIGTERM)

    def handler(number: int, frame: FrameType | None) -> None:
        asked.number = asked.number or number

    # Of several processes, JAX itself hears SIGTERM.
    mine = SIGNALS if jax.process_count() == 1 else SIGNALS[:1]
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
