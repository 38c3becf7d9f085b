"""Trackio: a local database, by default in the folder `.trackio` beside the runs."""

from __future__ import annotations

import io
import json
import os
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from gpt2demo.events import Started

DIRECTORY = "TRACKIO_DIR"
PROJECT = "GPT2DEMO_TRACKIO_PROJECT"
FOLDER = ".trackio"  # one for all runs, because a dashboard shows one database; a run's list skips such names


class Trackio:
    """A run of the same name in a Trackio project.

    Args:
        run: the run folder.
        event: the start of the training. A resumed training continues the run, and repeated steps are not recorded again.
    """

    def __init__(self, run: Path, event: Started) -> None:
        os.environ.setdefault(DIRECTORY, str(run.resolve().parent / FOLDER))  # trackio reads it when it is imported
        import trackio

        with redirect_stdout(io.StringIO()):
            self._run: Any = trackio.init(
                os.environ.get(PROJECT) or "gpt2demo",
                name=event.run,
                resume="allow" if event.step else "never",
                config=json.loads((run / "run.json").read_text(encoding="utf-8")),
                embed=False,
                auto_log_cpu=False,
            )
        self._first = self._run._next_step if event.step else 0  # no public function returns it

    def log(self, values: dict[str, float], step: int) -> None:
        """Record numbers of a step."""
        if step >= self._first:
            self._run.log(values, step=step)

    def log_text(self, text: str, step: int) -> None:
        """Record a sample, as Markdown: indentation makes it a block of code, with its line breaks."""
        from trackio import Markdown

        if step >= self._first:
            self._run.log({"sample": Markdown("".join(f"    {line}\n" for line in text.splitlines()))}, step=step)

    def flush(self) -> None:
        """Do nothing: a thread writes twice a second."""

    def close(self) -> None:
        """Write everything and end the run."""
        with redirect_stdout(io.StringIO()):
            self._run.finish()
