"""Show errors as toasts on the page. Unexpected ones are bugs: their tracebacks appear in the terminal as well."""

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
    """Decorate a function or generator so that its exceptions become toasts."""

    @wraps(handler)
    def call(*args: Any) -> Any:
        try:
            return handler(*args)
        except Error as error:
            raise toast(error) from None
        except Exception as bug:
            raise unexpected(bug) from bug

    @wraps(handler)
    def iterate(*args: Any) -> Iterator[Any]:
        try:
            yield from handler(*args)
        except Error as error:
            raise toast(error) from None
        except Exception as bug:
            raise unexpected(bug) from bug

    return cast("Handler", iterate if isgeneratorfunction(handler) else call)


def toast(error: Error) -> gr.Error:
    """Return the error as a toast. The message is escaped: it may quote names and texts of the user."""
    return gr.Error(html.escape(str(error), quote=False), print_exception=False)


def unexpected(bug: Exception) -> gr.Error:
    """Return a toast for a bug. Gradio prints the traceback in the terminal."""
    return gr.Error(html.escape(f"unexpected {type(bug).__name__}: {bug} (a bug; the terminal shows where)", quote=False))


def warn(text: str) -> None:
    """Show a warning as a toast; the handler continues."""
    gr.Warning(html.escape(text, quote=False))
