"""Messages on stderr, and text that is safe to print on a terminal."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import NoReturn

from rich.console import Console

from gpt2demo.errors import Interrupted, Terminated

console = Console(stderr=True, highlight=False, emoji=False, soft_wrap=True)
CONTROLS = {code: "\N{REPLACEMENT CHARACTER}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\t\n"}


def open_streams() -> None:
    """Connect standard streams that are closed to nothing. A file that is opened later could otherwise get the number of one."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), "r" if name == "stdin" else "w", encoding="utf-8"))


def print_message(text: str) -> None:
    """Print a message on stderr exactly as it is: it may quote names and texts of the user."""
    console.print(printable(text), markup=False)


def print_warning(text: str) -> None:
    """Print a warning on stderr."""
    print_message(f"gpt2demo: warning: {text}")


def one_line(text: str) -> str:
    """Return a text with every run of whitespace replaced by a space."""
    return " ".join(text.split())


def printable(text: str) -> str:
    """Replace control characters, which an untrained model may generate and a terminal would execute."""
    return text.translate(CONTROLS)


def exit_on_signal(number: int, frame: FrameType | None) -> NoReturn:
    """Signal handler that raises an exception, so that `finally` blocks clean up. The exit code is 128 + the signal's number."""
    raise Interrupted if number == signal.SIGINT else Terminated(128 + number)
