"""Errors and warnings as toasts. Their text is escaped: it may quote names and texts of the user."""

from __future__ import annotations

import gradio as gr

from gpt2demo.errors import Error
from gpt2demo.memory import ADVICE, out_of_memory
from gpt2demo.terminal import one_line
from gpt2demo.ui.text import escape

LENGTH = 500  # characters of a message


def toast(error: Error) -> gr.Error:
    """Return a toast for an error of gpt2demo."""
    return gr.Error(_html(str(error)), print_exception=False)


def refusal(error: Exception) -> gr.Error:
    """Return a toast for an invalid value that a browser sent."""
    return gr.Error(_html(str(getattr(error, "message", error))), print_exception=False)


def unexpected(bug: Exception) -> gr.Error:
    """Return a toast for a bug, whose traceback Gradio prints in the terminal, or for memory that ran out."""
    if out_of_memory(bug):
        return gr.Error(_html(f"out of memory; {ADVICE}"), print_exception=False)
    return gr.Error(_html(f"unexpected {type(bug).__name__} (a bug; the terminal shows where): {bug}"))


def warn(text: str) -> None:
    """Show a warning as a toast; the event listener continues."""
    gr.Warning(_html(text))


def _html(text: str) -> str:
    """Return a message as one short line of HTML."""
    line = one_line(text)
    return escape(line if len(line) <= LENGTH else f"{line[:LENGTH]} …")
