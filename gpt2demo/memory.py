"""Recognize that memory ran out, and report it in one line with advice. Does not import torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from gpt2demo.errors import Error, TokenizerError


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error of Python or torch means that memory ran out; on a CPU torch has no class for it."""
    of_torch = any(cls.__name__ == "OutOfMemoryError" for cls in type(error).__mro__)
    return isinstance(error, MemoryError) or of_torch or "can't allocate memory" in str(error)


@contextmanager
def memory_advice(what: str, advice: str) -> Iterator[None]:
    """Report in one line that memory ran out, with advice.

    Raises:
        Error: memory ran out in the block.
    """
    try:
        yield
        return
    except (MemoryError, RuntimeError, TokenizerError) as error:
        if not (out_of_memory(error) or isinstance(error.__context__, MemoryError)):  # a TokenizerError may replace one
            raise
    # Raised outside the except block, where the traceback would keep the block's tensors alive.
    raise Error(f"{what}: out of memory; {advice}")
