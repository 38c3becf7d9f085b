"""Progress reporting through a context variable: long tasks report to the current display, if one is set."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar

Advance = Callable[[int], None]
"""Called with the amount of work done since the previous call, from any thread."""
Display = Callable[[str, int | None], AbstractContextManager[Advance]]
"""Displays a task during the block. Arguments: its description, and the total amount of work (None if unknown)."""


def _ignore(amount: int) -> None:
    pass


_display: ContextVar[Display] = ContextVar("display", default=lambda description, total: nullcontext(_ignore))
_advance: ContextVar[Advance] = ContextVar("advance", default=_ignore)


@contextmanager
def use_display(display: Display) -> Iterator[None]:
    """Show all tasks inside the block with `display`."""
    token = _display.set(display)
    try:
        yield
    finally:
        _display.reset(token)


@contextmanager
def task(description: str, total: int | None) -> Iterator[Advance]:
    """Report a task from start to end.

    Args:
        description: a short description for the display.
        total: the total amount of work, or None if unknown.

    Yields:
        The function that reports progress. Functions called inside the block, such as `count_characters`, find it through
        the context variable.
    """
    with _display.get()(description, total) as advance:
        token = _advance.set(advance)
        try:
            yield advance
        finally:
            _advance.reset(token)


def count_characters(texts: Iterable[str]) -> Iterator[str]:
    """Yield the texts and report their lengths to the current task.

    The task is the one that is current at the call, not at the first iteration: a library may iterate in its own thread.
    """
    return _count_characters(texts, _advance.get())


def _count_characters(texts: Iterable[str], advance: Advance) -> Iterator[str]:
    for text in texts:
        yield text
        advance(len(text))
