"""Messages on the terminal, and text that is safe to print there. Messages go to stderr."""

from __future__ import annotations

from types import FrameType
from typing import NoReturn

from rich.console import Console

console = Console(stderr=True, highlight=False, soft_wrap=True)


def print_message(text: str) -> None:
    """A message for people, on stderr; not markup."""
    console.print(text, markup=False)


def one_line(text: str) -> str:
    """A text as one line."""
    return " ".join(text.split())


CONTROLS = {code: "\N{REPLACEMENT CHARACTER}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\t\n"}


def printable(text: str) -> str:
    """A model's text without control characters: an untrained model can write sequences that upset a terminal."""
    return text.translate(CONTROLS)


def exit_on_signal(number: int, frame: FrameType | None) -> NoReturn:
    """A signal's handler: end as after any exception, with everything on the way cleaned up."""
    raise SystemExit(128 + number)
