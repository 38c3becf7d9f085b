"""End a process that would outlive the training it belongs to: its launcher is gone, or a signal does not reach it."""

from __future__ import annotations

import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress

GRACE = 15.0  # seconds between a signal and the end of a process that does not react; launchers kill it after 25 or 30
RESCUE = 8.0  # seconds for what is to be rescued before the end
INTERVAL = 1.0  # seconds between looks at the launcher
FATAL = {getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)}


class Watchdog:
    """A thread that watches the signals and the launcher of this process. Create it in the main thread.

    Python runs signal handlers between two instructions of the main thread. A process that waits for another one inside torch
    never gets there; the thread ends it `GRACE` seconds after a signal. It sends SIGTERM to its process when the launcher is
    gone: the training then ends with a checkpoint, as after any SIGTERM.

    Attributes:
        rescue: called in another thread before the process ends, while the main thread waits for another process.
    """

    def __init__(self) -> None:
        self.rescue: Callable[[], object] = lambda: None
        self._launcher = os.getppid()
        self._deadline: float | None = None
        self._received = 0
        self._armed = True
        self._read, self._write = socket.socketpair()
        self._write.setblocking(False)
        self._previous = signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def disarm(self) -> None:
        """Let the process take its time to end: it has received the signal. The launcher is still watched."""
        self._armed = False

    def close(self) -> None:
        """Stop watching."""
        signal.set_wakeup_fd(self._previous)
        self._write.close()  # ends the thread
        self._thread.join()
        self._read.close()

    def _watch(self) -> None:
        while True:
            if select.select([self._read], [], [], INTERVAL)[0]:
                numbers = self._read.recv(64)
                if not numbers:
                    return
                self._note(numbers)
            if self._armed and self._deadline and time.monotonic() > self._deadline:
                rescue = threading.Thread(target=self._rescue, daemon=True)
                rescue.start()
                rescue.join(RESCUE)
                os._exit(128 + self._received)
            if os.getppid() != self._launcher:
                self._launcher = os.getppid()
                os.kill(os.getpid(), signal.SIGTERM)

    def _rescue(self) -> None:
        with suppress(Exception):
            self.rescue()

    def _note(self, numbers: bytes) -> None:
        """Note the time of the first signal that ends a training."""
        for number in numbers:
            if number in FATAL and self._deadline is None:
                self._deadline, self._received = time.monotonic() + GRACE, number
