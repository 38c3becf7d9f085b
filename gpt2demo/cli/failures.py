"""Exceptions as one line on stderr and an exit code."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import typer

from gpt2demo.errors import Error, RunError, message, summary
from gpt2demo.memory import ADVICE, out_of_memory
from gpt2demo.terminal import one_line, print_message
from gpt2demo.training.launch import launched_here, report

MAX_LENGTH = 480  # characters of a message


def check_current_folder() -> None:
    """Check that the current folder exists: paths are relative to it.

    Raises:
        RunError: it has been removed.
    """
    try:
        Path.cwd()
    except OSError:
        raise RunError("the current folder does not exist any more; change to another one") from None


def exit_code(error: BaseException) -> int:
    """Print an exception as one line on stderr and return the exit code."""
    if isinstance(error, typer.Abort) and isinstance(error.__cause__, EOFError):
        error = error.__cause__  # Typer takes it for Ctrl-D at a prompt
    error.__traceback__ = error.__context__ = error.__cause__ = None  # they may hold all the memory
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return 130
    if isinstance(error, BrokenPipeError):  # the reader of stdout has closed it
        _discard_output()
        return 141
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:  # stdout is on a full disk
        _discard_output()
        error = Error(f"the output could not be written ({error.strerror})")
    line = _short(one_line(_message(error)))
    report(error, line)
    if not launched_here():
        print_message(f"gpt2demo: error: {line}")
    code: int = getattr(error, "exit_code", 1)  # an `Error` and a Typer exception have one
    return code


def _message(error: BaseException) -> str:
    if isinstance(error, typer.TyperException):
        return error.format_message()
    if isinstance(error, Error):
        return message(error)
    if out_of_memory(error):
        return f"out of memory; {ADVICE}"
    return f"unexpected {summary(error)} (a bug; --debug shows where)"


def _short(text: str) -> str:
    """Return a line of at most `MAX_LENGTH` characters; of a longer one, the start and the end."""
    return text if len(text) <= MAX_LENGTH else f"{text[: MAX_LENGTH // 2]} … {text[-MAX_LENGTH // 3 :]}"


def _discard_output() -> None:
    """Discard buffered output: Python would try to write it again at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
