"""What went wrong, as one line on stderr and an exit code."""

from __future__ import annotations

import errno
import os
import sys

import typer

from gpt2demo.errors import Error, UserError
from gpt2demo.terminal import one_line, print_message

LONGEST = 480  # characters of a message


def exit_code(error: BaseException) -> int:
    """Say what went wrong in one line; give the exit code."""
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return 130
    if isinstance(error, BrokenPipeError):  # the reader of our output has gone
        _discard_output()
        return 141
    text = str(error)
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:  # of our files an `Error` tells
        _discard_output()
        error = Error(f"the output could not be written ({error.strerror})")
        text = str(error)
    if isinstance(error, typer.TyperException):
        text = error.format_message()
    elif not isinstance(error, Error):
        text = f"unexpected {type(error).__name__}: {text} (a bug; --debug shows where)"
    print_message(f"gpt2demo: error: {_short(one_line(text))}")
    return 2 if isinstance(error, UserError | typer.TyperException) else 1


def _short(text: str) -> str:
    """A line that fits a screen: of one that quotes something long, the beginning and the end."""
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} … {text[-LONGEST // 3 :]}"


def _discard_output() -> None:
    """Throw away what is still to be written to stdout: Python would try once more when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
