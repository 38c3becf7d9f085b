"""TensorBoard: event files in the folder `tensorboard` of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gpt2demo.events import Started

FOLDER = "tensorboard"


class TensorBoard:
    """Event files of a run, in the folder `tensorboard`.

    Args:
        run: the run folder.
        event: the start of the training. TensorBoard hides what it has of later steps: a resumed training repeats them.
    """

    def __init__(self, run: Path, event: Started) -> None:
        from torch.utils.tensorboard import SummaryWriter

        first = event.step + 1 if event.step else 0  # a new training begins with an evaluation at step 0
        self._writer: Any = SummaryWriter(str(run / FOLDER), purge_step=first)

    def log(self, values: dict[str, float], step: int) -> None:
        """Record numbers of a step."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def log_text(self, text: str, step: int) -> None:
        """Record a sample. It is shown as Markdown: indentation makes it a block of code, with its line breaks."""
        self._writer.add_text("sample", "".join(f"    {line}\n" for line in text.splitlines()), step)

    def flush(self) -> None:
        """Write what was recorded so far."""
        self._writer.flush()

    def close(self) -> None:
        """Write everything and close the files."""
        self._writer.close()
