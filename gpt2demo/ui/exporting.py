"""An export in a background thread, with its report so far. One runs at a time, and every browser can follow it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from gpt2demo.errors import RunError

Work = Callable[[Callable[[str], None]], Path]
"""Writes an export. Argument: a function that is called with one line of text at each stage. Result: the folder."""


class Export:
    """An export in progress, or a completed one.

    Args:
        lines: the report so far.
        work: writes the export; it continues to its end even if every browser is closed.

    Attributes:
        folder: the folder, after a success.
        error: the exception of the work, after a failure.
    """

    def __init__(self, lines: list[str], work: Work) -> None:
        self._lines = lines
        self._work = work
        self.folder: Path | None = None
        self.error: Exception | None = None
        self._ended = threading.Event()
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        try:
            self.folder = self._work(self._lines.append)
        except Exception as error:
            self.error = error
        except BaseException as error:  # such as SystemExit of a plugin, which would end the server
            self.error = RuntimeError(f"{type(error).__name__}: {error}")
        finally:
            self._ended.set()

    @property
    def ended(self) -> bool:
        """True after the work has ended."""
        return self._ended.is_set()

    @property
    def report(self) -> str:
        """The lines so far, with a line of dots while the work continues."""
        return "\n".join([*self._lines, *([] if self.ended else ["…"])])


_starting = threading.Lock()
_last: Export | None = None


def running() -> Export | None:
    """Return the export in progress, or None."""
    return _last if _last and not _last.ended else None


def start(first_line: str, work: Work) -> Export:
    """Start an export in the background.

    Args:
        first_line: first line of the report, before the work reports anything.
        work: writes the export.

    Raises:
        RunError: another export is in progress.
    """
    global _last  # noqa: PLW0603  # the state of the server
    with _starting:
        if running():
            raise RunError("another export is running; wait until it is done")
        _last = Export([first_line], work)
        return _last
