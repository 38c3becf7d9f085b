"""Signals during training: finish the step, save a checkpoint, exit with 128 + signal."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Literal

from gpt2demo.terminal import print_message


class Signals:
    """Which signal asked the training to end. A second one ends it at once, and so does one before the training.

    Attributes:
        training: whether there is something to save.
        received: the signal, or None.
    """

    def __init__(self) -> None:
        self.training = False
        self.received: int | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """The handler."""
        if not self.training:
            print_message("stopped before the training began; nothing is kept")
            raise SystemExit(128 + number)
        if self.received is not None:
            raise KeyboardInterrupt
        self.received = number
        print_message("stopping after this step, with a checkpoint; once more to stop at once")

    def stop(self) -> Literal["interrupted"] | None:
        """What the trainer asks after each step."""
        return "interrupted" if self.received is not None else None

    @property
    def exit_code(self) -> int:
        """128 + signal, as shells have it; 0 without one."""
        return 128 + self.received if self.received is not None else 0


@contextmanager
def catch_signals() -> Iterator[Signals]:
    """Turn SIGINT, SIGTERM and SIGHUP into a wish that the trainer sees."""
    caught = Signals()
    names = [name for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {name: signal.signal(getattr(signal, name), caught) for name in names}
    try:
        yield caught
    finally:
        for name, handler in before.items():
            signal.signal(getattr(signal, name), handler)
