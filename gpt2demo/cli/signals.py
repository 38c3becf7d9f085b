"""Signals during training: finish the step, save a checkpoint, exit with 128 + signal."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Literal

from gpt2demo.errors import Interrupted, Terminated
from gpt2demo.terminal import print_message


class Signals:
    """Signal handler that requests the end of training. A second signal, or one before training starts, exits at once.

    Attributes:
        training: whether training has started, so that a checkpoint can be saved.
        received: the received signal, or None.
    """

    def __init__(self) -> None:
        self.training = False
        self.received: int | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        if not self.training:
            print_message("stopped before the training started; nothing was saved")
            raise Terminated(128 + number)
        if self.received is not None:
            raise Interrupted
        self.received = number
        print_message("stopping after this step and saving a checkpoint; repeat to stop immediately")

    def stop(self) -> Literal["interrupted"] | None:
        """Return the stop reason for the trainer, which calls this after each step; None to continue."""
        return "interrupted" if self.received is not None else None

    @property
    def exit_code(self) -> int:
        """128 + signal, as in shells; 0 without a signal."""
        return 128 + self.received if self.received is not None else 0


@contextmanager
def catch_signals() -> Iterator[Signals]:
    """Handle SIGINT, SIGTERM and SIGHUP inside the block, except those that are ignored, as SIGHUP is with `nohup`.

    The previous handlers are restored afterwards.
    """
    signals = Signals()
    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    handled = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}
    for number in handled:
        signal.signal(number, signals)
    try:
        yield signals
    finally:
        for number, handler in handled.items():
            signal.signal(number, handler)
