"""An error of ours becomes a message on the page; a bug of ours stays a traceback in the terminal."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator
from functools import wraps
from inspect import isgeneratorfunction
from typing import Any, TypeVar, cast

import gradio as gr

from gpt2demo.errors import Error

Handler = TypeVar("Handler", bound=Callable[..., Any])


def toasting(handler: Handler) -> Handler:
    """Show a handler's `gpt2demo.errors.Error` as a toast with its one line. Serves functions and generators."""

    @wraps(handler)
    def call(*args: Any) -> Any:
        try:
            return handler(*args)
        except Error as error:
            raise toast(error) from None

    @wraps(handler)
    def iterate(*args: Any) -> Iterator[Any]:
        try:
            yield from handler(*args)
        except Error as error:
            raise toast(error) from None

    return cast("Handler", iterate if isgeneratorfunction(handler) else call)


def toast(error: Error) -> gr.Error:
    """The message, as text: it may quote names and texts that are not ours."""
    return gr.Error(html.escape(str(error), quote=False), print_exception=False)


def warn(text: str) -> None:
    """A toast that does not end the handler."""
    gr.Warning(html.escape(text, quote=False))
