"""What went wrong, as one line on stderr and an exit code."""

from __future__ import annotations

import os
import sys

import typer

from gpt2demo.errors import Error, UserError
from gpt2demo.terminal import line, say


def exit_code(error: BaseException) -> int:
    """Say what went wrong in one line; give the exit code."""
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return 130
    if isinstance(error, BrokenPipeError):  # the reader of our output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    text = str(error)
    if isinstance(error, typer.TyperException):
        text = error.format_message()
    elif not isinstance(error, Error):
        text = f"unexpected {type(error).__name__}: {text} (a bug; --debug shows where)"
    say(f"gpt2demo: error: {line(text)}")
    return 2 if isinstance(error, UserError | typer.TyperException) else 1
