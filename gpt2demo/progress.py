"""How far long work is: whoever works tells it, whoever shows it listens, and neither knows the other.

Where nobody listens, nothing is shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar

Advance = Callable[[int], None]
"""Told how much further the work is since the last call. Any thread may call it."""
Display = Callable[[str, int | None], AbstractContextManager[Advance]]
"""Shows a piece of work while the block runs: what it is, and how much there is to do (None: nobody knows)."""


def _silent(amount: int) -> None:
    pass


_display: ContextVar[Display] = ContextVar("display", default=lambda what, total: nullcontext(_silent))
_advance: ContextVar[Advance] = ContextVar("advance", default=_silent)


@contextmanager
def use_display(display: Display) -> Iterator[None]:
    """Within the block, work is shown by `display`."""
    token = _display.set(display)
    try:
        yield
    finally:
        _display.reset(token)


@contextmanager
def task(what: str, total: int | None) -> Iterator[Advance]:
    """A piece of work, from its begin to its end.

    Gives the function that tells how it goes on; what is called inside the block finds it by itself, as `count_characters` does.
    """
    with _display.get()(what, total) as advance:
        token = _advance.set(advance)
        try:
            yield advance
        finally:
            _advance.reset(token)


def count_characters(texts: Iterable[str]) -> Iterator[str]:
    """Pass texts on and tell the present work how many characters they have.

    The work is the one at the call, not at the first text: a library may read the texts in a thread of its own.
    """
    return _counted(texts, _advance.get())


def _counted(texts: Iterable[str], advance: Advance) -> Iterator[str]:
    for text in texts:
        yield text
        advance(len(text))
