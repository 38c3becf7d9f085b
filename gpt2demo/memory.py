"""Recognize that memory ran out, and report it in one line with advice. Does not import torch."""

from __future__ import annotations

import ctypes
import errno
import gc
import platform
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from gpt2demo.errors import Error, message

ADVICE = "close other programs, or use a smaller model, batch or text"
LOADING_ADVICE = "close other programs, or use a smaller model"
_WORDS = re.compile(
    r"(can't|cannot|could not|failed to|unable to) allocate|bad.?alloc|out of memory|failed to map segment|os error 12\b",
    re.IGNORECASE,
)


def out_of_memory(error: BaseException) -> bool:
    """Return whether an exception, or the one that caused it, means that memory ran out.

    Libraries in C++ and Rust have no class for it, only words. An `Error` already says what happened.
    """
    if isinstance(error, Error):
        return False
    if error.__cause__ is not None and out_of_memory(error.__cause__):
        return True
    of_torch = any(cls.__name__ == "OutOfMemoryError" for cls in type(error).__mro__)
    of_system = isinstance(error, OSError) and error.errno == errno.ENOMEM
    return isinstance(error, MemoryError) or of_torch or of_system or bool(_WORDS.search(message(error)))


@contextmanager
def memory_advice(what: str, advice: str) -> Iterator[None]:
    """Report in one line that memory ran out, with advice.

    Raises:
        Error: memory ran out in the block.
    """
    try:
        yield
        return
    except Exception as error:
        if not out_of_memory(error):
            raise
    # Raised outside the except block, where the traceback would keep the block's tensors alive.
    raise Error(f"{what}: out of memory; {advice}")


def release_memory() -> None:
    """Free objects that refer to each other, such as the nodes and weights of a graph, and return freed memory to the system."""
    gc.collect()
    if libc := glibc():
        libc.malloc_trim(0)


def glibc() -> ctypes.CDLL | None:
    """Return the C library of this process if it is glibc."""
    return ctypes.CDLL(None) if sys.platform == "linux" and platform.libc_ver()[0] == "glibc" else None


def require_memory(size: int) -> None:
    """Raise a MemoryError if this machine has less memory than `size` bytes: the system would kill the process later."""
    if size > psutil.virtual_memory().total + psutil.swap_memory().total:
        raise MemoryError


def available_memory() -> int:
    """Return how many bytes programs can still use on this machine or, if it has a limit, in this container."""
    free = psutil.virtual_memory().available
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = int((group / "memory.max").read_text()), int((group / "memory.current").read_text())
        statistics = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return min(free, limit - used + int(statistics["inactive_file"]))  # the system frees these pages if necessary
    except (OSError, ValueError, KeyError):  # no container, no limit, or not Linux
        return free


def in_units(size: float) -> str:
    """Return a number of bytes as text: 512 MB, 1.5 GB, in powers of 1024."""
    return f"{size / 2**30:.1f} GB" if size >= 2**30 else f"{size / 2**20:.0f} MB"
